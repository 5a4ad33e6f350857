"""The dashboard of devices: utilization, memory, temperature, power, clock, errors, whoever measured them."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import dashboard as models

from gaudi3_rt.metrics import CATALOGUE, PREFIX
from panels import Panel, Row, Steps, build_dashboard
from recording_rules import ENDPOINT, device_series

_METRICS = {metric.name.removeprefix(PREFIX): metric for metric in CATALOGUE}
_LEGEND = "{{device}}{{mark}} on {{node}}"
_GREEN_TO_RED = ((None, "green"), (85.0, "orange"), (95.0, "red"))


def device_dashboard() -> models.Dashboard:
    """One line for each device."""
    return build_dashboard(
        "gaudi3-rt-device",
        "gaudi3_rt: devices",
        "Devices of all machines, as trainings or the vendor's exporter see them. Simulated ones say so in the legend.",
        (
            ("node", "Machine", "label_values(gaudi3_rt:device_memory_total_bytes:max, node)"),
            ("device", "Device", 'label_values(gaudi3_rt:device_memory_total_bytes:max{node=~"$node"}, device)'),
        ),
        (
            Row(
                "Now",
                (
                    _stat(
                        "Devices",
                        "device_memory_total_bytes",
                        f"count({_series('device_memory_total_bytes')})",
                        "short",
                    ),
                    _stat(
                        "Simulated",
                        "device_memory_total_bytes",
                        f"count({_series('device_memory_total_bytes', simulated='true')}) or vector(0)",
                        "short",
                        "Devices of the software HPU. Their figures are invented by a model.",
                        ((None, "green"), (1.0, "purple")),
                    ),
                    _stat("Busy on average", "device_utilization_ratio", f"avg({_series('device_utilization_ratio')})"),
                    _stat(
                        "Memory in use",
                        "device_memory_used_bytes",
                        f"sum({_series('device_memory_used_bytes')}) / sum({_series('device_memory_total_bytes')})",
                        "percentunit",
                        "Reserved memory included: Habana's PyTorch takes almost all of a device at its start.",
                    ),
                    _stat(
                        "Hottest",
                        "device_temperature_celsius",
                        f"max({_series('device_temperature_celsius')})",
                        thresholds=_GREEN_TO_RED,
                    ),
                    _stat("Power together", "device_power_watts", f"sum({_series('device_power_watts')})"),
                ),
            ),
            Row(
                "Load",
                (
                    _lines("Utilization", "device_utilization_ratio", least=0, most=1),
                    _lines("Clock", "device_clock_hertz"),
                    _lines("Power", "device_power_watts", least=0),
                    Panel(
                        "Energy an hour",
                        "device_energy_joules_total",
                        (
                            (
                                _marked(
                                    f"max without ({ENDPOINT}) (increase({_raw('device_energy_joules_total')}[1h]))"
                                ),
                                _LEGEND,
                            ),
                        ),
                    ),
                ),
            ),
            Row(
                "Memory",
                (
                    Panel(
                        "In use by all processes",
                        "device_memory_used_bytes",
                        (
                            (_marked(_series("device_memory_used_bytes")), _LEGEND),
                            (f"max({_series('device_memory_total_bytes')})", "memory of a device"),
                        ),
                        least=0,
                    ),
                    Panel(
                        "Held by live tensors, by process",
                        "device_memory_allocated_bytes",
                        (
                            (_marked(_raw("device_memory_allocated_bytes")), f"rank {{{{rank}}}}, {_LEGEND}"),
                            (_marked(_raw("device_memory_limit_bytes")), f"limit of rank {{{{rank}}}}, {_LEGEND}"),
                        ),
                        least=0,
                    ),
                    Panel(
                        "Peak, by process",
                        "device_memory_peak_bytes",
                        ((_marked(_raw("device_memory_peak_bytes")), f"rank {{{{rank}}}}, {_LEGEND}"),),
                        least=0,
                    ),
                    Panel(
                        "Memory errors an hour",
                        "device_ecc_errors_total",
                        (
                            (
                                _marked(f"max without ({ENDPOINT}) (increase({_raw('device_ecc_errors_total')}[1h]))"),
                                f"{{{{kind}}}}, {_LEGEND}",
                            ),
                        ),
                        least=0,
                    ),
                ),
            ),
            Row(
                "Temperature",
                (_lines("On the chip", "device_temperature_celsius", width=24, thresholds=_GREEN_TO_RED),),
            ),
        ),
    )


def _raw(metric: str) -> str:
    return f'{PREFIX}{metric}{{node=~"$node", device=~"$device"}}'


def _series(metric: str, **labels: str) -> str:
    """One sample for each device; from the recording rules where the vendor's exporter has the figure too."""
    more = "".join(f', {key}="{value}"' for key, value in labels.items())
    return f'{device_series(_METRICS[metric])}{{node=~"$node", device=~"$device"{more}}}'


def _marked(expression: str) -> str:
    """The label ``mark``, for the legend, on simulated devices."""
    return f'label_replace({expression}, "mark", " (simulated)", "simulated", "true")'


def _stat(
    title: str, metric: str, expression: str, unit: str | None = None, text: str | None = None, thresholds: Steps = ()
) -> Panel:
    return Panel(title, metric, ((expression, ""),), "stat", unit, text, width=4, height=4, thresholds=thresholds)


def _lines(title: str, metric: str, **options: Any) -> Panel:
    return Panel(title, metric, ((_marked(_series(metric)), _LEGEND),), **options)
