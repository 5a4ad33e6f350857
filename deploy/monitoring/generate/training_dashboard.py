"""The dashboard of trainings: progress, loss, throughput, where a step's time goes, what went wrong."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import dashboard as models

from gaudi3_rt.metrics import PREFIX
from panels import Panel, Row, build_dashboard

_SELECTED = '{instance=~"$instance", rank=~"$rank"}'
_LEGEND = "rank {{rank}}, {{instance}}"
_BY_RANK = "sum by (instance, rank)"


def training_dashboard() -> models.Dashboard:
    """One line for each rank."""
    steps = _metric("training_steps_total")
    duration = f"{PREFIX}training_step_duration_seconds"
    phases = f"{PREFIX}training_phase_duration_seconds"
    checkpoints = f"{PREFIX}training_checkpoint_duration_seconds"
    return build_dashboard(
        "gaudi3-rt-training",
        "gaudi3_rt: training",
        "Progress and health of trainings, by rank. What a training does not report is absent.",
        (
            ("instance", "Endpoint", f"label_values({PREFIX}training_stalled, instance)"),
            ("rank", "Rank", f'label_values({PREFIX}training_stalled{{instance=~"$instance"}}, rank)'),
        ),
        (
            Row(
                "Now",
                (
                    _stat(
                        "Ranks in training", "training_stalled", f"count({_metric('training_stalled')})", unit="short"
                    ),
                    _stat(
                        "Stalled ranks",
                        "training_stalled",
                        f"sum({_metric('training_stalled')})",
                        thresholds=((None, "green"), (1.0, "red")),
                    ),
                    _stat("Step", "training_step", f"max({_metric('training_step')})"),
                    _stat(
                        "Samples a second",
                        "training_samples_per_second",
                        f"sum({_metric('training_samples_per_second')})",
                    ),
                    _stat(
                        "Tokens a second", "training_tokens_per_second", f"sum({_metric('training_tokens_per_second')})"
                    ),
                    _stat(
                        "Since the last checkpoint",
                        "training_last_checkpoint_timestamp_seconds",
                        f"time() - max({_metric('training_last_checkpoint_timestamp_seconds')})",
                        thresholds=((None, "green"), (3600.0, "orange")),
                    ),
                ),
            ),
            Row(
                "Learning",
                (
                    _lines("Loss", "training_loss"),
                    _lines("Accuracy", "training_accuracy_ratio", least=0, most=1),
                    _lines("Gradient norm", "training_gradient_norm", log=True),
                    _lines("Learning rate", "training_learning_rate"),
                ),
            ),
            Row(
                "Throughput",
                (
                    Panel(
                        "Samples a second",
                        "training_samples_total",
                        ((f"{_BY_RANK} (rate({_metric('training_samples_total')}[$__rate_interval]))", _LEGEND),),
                        "stack",
                    ),
                    Panel(
                        "Tokens a second",
                        "training_tokens_total",
                        ((f"{_BY_RANK} (rate({_metric('training_tokens_total')}[$__rate_interval]))", _LEGEND),),
                        "stack",
                    ),
                    Panel(
                        "Steps a second",
                        "training_steps_total",
                        ((f"{_BY_RANK} (rate({steps}[$__rate_interval]))", _LEGEND),),
                    ),
                    _lines("Step", "training_step"),
                ),
            ),
            Row(
                "Time of a step",
                (
                    Panel(
                        "Median and 95th percentile of all ranks",
                        "training_step_duration_seconds",
                        tuple(
                            (
                                (
                                    f"histogram_quantile({quantile}, sum by (le) "
                                    f"(rate({duration}_bucket{_SELECTED}[$__rate_interval])))"
                                ),
                                legend,
                            )
                            for quantile, legend in ((0.5, "median"), (0.95, "95th percentile"))
                        ),
                        least=0,
                    ),
                    Panel(
                        "Mean by rank",
                        "training_step_duration_seconds",
                        ((f"gaudi3_rt:training_step_duration_seconds:mean5m{_SELECTED}", _LEGEND),),
                        least=0,
                        text="Over five minutes. A rank above the others is a straggler, or waits for one.",
                    ),
                    Panel(
                        "Where the time of a step goes",
                        "training_phase_duration_seconds",
                        (
                            (
                                (
                                    f"sum by (phase) (rate({phases}_sum{_SELECTED}[$__rate_interval]))"
                                    f" / on () group_left sum (rate({duration}_count{_SELECTED}[$__rate_interval]))"
                                ),
                                "{{phase}}",
                            ),
                        ),
                        "stack",
                        least=0,
                    ),
                    Panel(
                        "Distribution",
                        "training_step_duration_seconds",
                        ((f"sum by (le) (increase({duration}_bucket{_SELECTED}[$__rate_interval]))", "{{le}}"),),
                        "heatmap",
                        unit="short",
                    ),
                ),
            ),
            Row(
                "What went wrong",
                (
                    Panel(
                        "Anomalies in 15 minutes",
                        "training_anomalies_total",
                        (
                            (
                                f"sum by (kind, rank) (increase({_metric('training_anomalies_total')}[15m]))",
                                "{{kind}}, rank {{rank}}",
                            ),
                        ),
                        least=0,
                    ),
                    Panel(
                        "Share of skipped steps",
                        "training_skipped_steps_total",
                        (
                            (
                                (
                                    f"{_BY_RANK} (increase({_metric('training_skipped_steps_total')}[15m]))"
                                    f" / {_BY_RANK} (increase({steps}[15m]))"
                                ),
                                _LEGEND,
                            ),
                        ),
                        unit="percentunit",
                        least=0,
                    ),
                    Panel(
                        "Since the last step",
                        "training_last_step_timestamp_seconds",
                        ((f"time() - {_metric('training_last_step_timestamp_seconds')}", _LEGEND),),
                        least=0,
                    ),
                    Panel(
                        "Stalled",
                        "training_stalled",
                        ((_metric("training_stalled"), _LEGEND),),
                        "states",
                        values=(("0", "goes on", "green"), ("1", "stalled", "red")),
                    ),
                ),
            ),
            Row(
                "Checkpoints",
                (
                    Panel(
                        "Wait for a checkpoint",
                        "training_checkpoint_duration_seconds",
                        (
                            (
                                (
                                    f"{_BY_RANK} (increase({checkpoints}_sum{_SELECTED}[1h]))"
                                    f" / {_BY_RANK} (increase({checkpoints}_count{_SELECTED}[1h]))"
                                ),
                                _LEGEND,
                            ),
                        ),
                        least=0,
                    ),
                    _lines("Size of the last one", "training_checkpoint_size_bytes", least=0),
                ),
            ),
        ),
    )


def _metric(name: str) -> str:
    return f"{PREFIX}{name}{_SELECTED}"


def _stat(title: str, metric: str, expression: str, **options: Any) -> Panel:
    return Panel(title, metric, ((expression, ""),), "stat", width=4, height=4, **options)


def _lines(title: str, metric: str, **options: Any) -> Panel:
    return Panel(title, metric, ((_metric(metric), _LEGEND),), **options)
