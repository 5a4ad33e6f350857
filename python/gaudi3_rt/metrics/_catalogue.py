"""Every metric that can be exposed: its name, type, labels and meaning. What is not in this list does not exist.

The exporter, the TensorBoard writer and the table of the docs are made from it; rules and dashboards are checked
against it. Every sample also has the label ``rank``, so that files and endpoints of several processes do not collide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "gaudi3_rt_"
RANK = "rank"
"""Label of every sample: number of the process among all of the run."""
OTHER = "other"
"""Value of a label under which is counted what is beyond the label's bound."""
BOUNDS = {
    "phase": 16,
    "kind": 16,
    "device": 64,
    "simulated": 2,
    "outcome": 8,
    "code": 64,
    "mountpoint": 32,
    "check": 64,
}
"""How many values a label can have. ``version``, ``torch`` and ``python`` have one each."""
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""Upper bounds of the buckets of durations, in seconds: from steps of a toy to checkpoints of a large model."""
HEALTH = {"healthy": 0, "degraded": 1, "critical": 2, "unknown": 3}
"""Values of ``health_status``."""

_UNITS = ("seconds", "bytes", "celsius", "watts", "joules", "hertz", "ratio")
_SECTIONS = ("training", "device", "system")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is exposed; those of counters end in ``_total``.
        type: of Prometheus.
        help: what it is, in one line.
        source: event or reading that it comes from.
        labels: besides ``rank``.
        older: names under which dashboards of old look for it, each with its PromQL expression; they are made by
            recording rules only.
        vendor: the same figure in this metric's unit, in PromQL from what the vendor's exporter has; empty if it has
            no such figure, or none whose unit is documented.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    source: str
    labels: tuple[str, ...] = ()
    older: tuple[tuple[str, str], ...] = ()
    vendor: str = ""

    @property
    def unit(self) -> str:
        """A base unit of Prometheus, in which its name ends; empty for counts and for figures without one."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in _UNITS if stem.endswith(f"_{unit}")), "")

    @property
    def section(self) -> str:
        """``training``, ``device``, ``system``, or ``runtime`` for the rest."""
        first = self.name.removeprefix(PREFIX).partition("_")[0]
        return first if first in _SECTIONS else "runtime"

    @property
    def buckets(self) -> tuple[float, ...]:
        """Upper bounds of a histogram's buckets, without the infinite one."""
        return DURATIONS if self.type == "histogram" else ()


_DEVICE = ("device", "simulated")
_MOUNTPOINT = ("mountpoint",)
_RATE = "rate({name}_sum[5m]) / rate({name}_count[5m])"

CATALOGUE: tuple[Metric, ...] = tuple(
    Metric(f"{PREFIX}{name}", kind, text, source, *more)  # type: ignore[arg-type]  # mypy joins the types of a row
    for name, kind, text, source, *more in (
        # training
        ("training_step", "gauge", "Number of the last completed step over the whole run.", "StepCompleted"),
        (
            "training_steps_total",
            "counter",
            "Steps that this process has completed, also those that a restored checkpoint made undone.",
            "StepCompleted",
            (),
            (("training_steps_total", "{name}"),),
        ),
        ("training_samples_total", "counter", "Samples that this process has trained on.", "StepCompleted"),
        ("training_tokens_total", "counter", "Tokens that this process has trained on.", "StepCompleted"),
        (
            "training_skipped_steps_total",
            "counter",
            "Steps that left the parameters as they were, because a gradient was not finite.",
            "StepCompleted",
        ),
        (
            "training_loss",
            "gauge",
            "Loss of the last step that gave one; NaN and infinities as they were.",
            "StepCompleted",
            (),
            (("training_loss", "{name}"),),
        ),
        ("training_accuracy_ratio", "gauge", "Accuracy of the last step that gave one, 0 to 1.", "StepCompleted"),
        (
            "training_gradient_norm",
            "gauge",
            "Norm of all gradients before clipping, of the last step that gave one.",
            "StepCompleted",
        ),
        ("training_learning_rate", "gauge", "Learning rate of the first parameter group.", "StepCompleted"),
        (
            "training_step_duration_seconds",
            "histogram",
            "Duration of steps, with their waits for data.",
            "StepCompleted",
            (),
            (("batch_processing_time", _RATE),),
        ),
        (
            "training_phase_duration_seconds",
            "histogram",
            "Duration of the parts of steps: data, forward, backward, optimizer, checkpoint, and the rest.",
            "StepCompleted",
            ("phase",),
        ),
        (
            "training_samples_per_second",
            "gauge",
            "Samples of the last step by its duration.",
            "StepCompleted",
            (),
            (("training_samples_per_second", "{name}"),),
        ),
        (
            "training_tokens_per_second",
            "gauge",
            "Tokens of the last step by its duration.",
            "StepCompleted",
            (),
            (("training_tokens_per_second", "{name}"),),
        ),
        ("training_last_step_timestamp_seconds", "gauge", "When the last step ended, Unix time.", "StepCompleted"),
        (
            "training_checkpoint_duration_seconds",
            "histogram",
            "How long training waited for checkpoints.",
            "CheckpointCompleted",
        ),
        ("training_checkpoint_size_bytes", "gauge", "Size of the last checkpoint.", "CheckpointCompleted"),
        (
            "training_last_checkpoint_timestamp_seconds",
            "gauge",
            "When the last checkpoint was written, Unix time.",
            "CheckpointCompleted",
        ),
        (
            "training_anomalies_total",
            "counter",
            "What should not happen: loss or gradient not finite, divergence, stalls, stragglers.",
            "Anomaly",
            ("kind",),
        ),
        (
            "training_stalled",
            "gauge",
            "1 if no step has ended for much longer than one takes, else 0; only while a run is under way.",
            "TrainingStalled",
        ),
        # device; what has no sensor, or cannot be read now, is absent
        (
            "device_memory_used_bytes",
            "gauge",
            "Memory of the device in use by all processes.",
            "DeviceSampled",
            _DEVICE,
            (("hpu_memory_used_bytes", "{name}"),),
            "habanalabs_memory_used_bytes",
        ),
        (
            "device_memory_total_bytes",
            "gauge",
            "Memory of the device.",
            "DeviceSampled",
            _DEVICE,
            (("hpu_memory_total_bytes", "{name}"),),
            "habanalabs_memory_total_bytes",
        ),
        (
            "device_memory_allocated_bytes",
            "gauge",
            "Memory of the device that live tensors of this process hold; of a CPU, its resident set.",
            "DeviceSampled",
            _DEVICE,
        ),
        (
            "device_memory_peak_bytes",
            "gauge",
            "The most that this process had allocated since the last reset of its peak.",
            "DeviceSampled",
            _DEVICE,
        ),
        (
            "device_memory_limit_bytes",
            "gauge",
            "The most memory of the device that this process can have.",
            "DeviceSampled",
            _DEVICE,
        ),
        (
            "device_utilization_ratio",
            "gauge",
            "How busy the device is, 0 to 1.",
            "DeviceSampled",
            _DEVICE,
            (("hpu_utilization_percent", "100 * {name}"),),
            "habanalabs_utilization / 100",
        ),
        (
            "device_temperature_celsius",
            "gauge",
            "Temperature on the chip.",
            "DeviceSampled",
            _DEVICE,
            (("hpu_temperature_celsius", "{name}"),),
            "habanalabs_temperature_onchip",
        ),
        (
            "device_power_watts",
            "gauge",
            "Power that the device draws.",
            "DeviceSampled",
            _DEVICE,
            (("hpu_power_watts", "{name}"),),
            "habanalabs_power_mW / 1000",
        ),
        ("device_energy_joules_total", "counter", "Energy since the driver was loaded.", "DeviceSampled", _DEVICE),
        (
            "device_ecc_errors_total",
            "counter",
            "Memory errors since the driver was loaded, corrected or uncorrected.",
            "DeviceSampled",
            ("kind", *_DEVICE),
        ),
        (
            "device_clock_hertz",
            "gauge",
            "Clock of the chip.",
            "DeviceSampled",
            _DEVICE,
            (),
            "habanalabs_clock_soc_mhz * 1000000",
        ),
        # system: of the machine, read at scrape time
        (
            "system_cpu_utilization_ratio",
            "gauge",
            "How busy all CPUs are together, 0 to 1, since the reading before.",
            "psutil",
        ),
        ("system_memory_used_bytes", "gauge", "Memory of the machine that is not available to new programs.", "psutil"),
        ("system_memory_total_bytes", "gauge", "Memory of the machine.", "psutil"),
        ("system_disk_used_bytes", "gauge", "Space in use on a file system.", "psutil", _MOUNTPOINT),
        ("system_disk_total_bytes", "gauge", "Space of a file system that programs can use.", "psutil", _MOUNTPOINT),
        ("system_disk_read_bytes_total", "counter", "Read from all disks.", "psutil"),
        ("system_disk_written_bytes_total", "counter", "Written to all disks.", "psutil"),
        ("system_network_received_bytes_total", "counter", "Received on all interfaces but loopback.", "psutil"),
        ("system_network_transmitted_bytes_total", "counter", "Sent on all interfaces but loopback.", "psutil"),
        # runtime
        (
            "retries_total",
            "counter",
            "Failed calls by what was decided: retried, or given up after attempts, for budget, or as not_retryable.",
            "RetryScheduled, RetryExhausted",
            ("outcome",),
        ),
        (
            "errors_total",
            "counter",
            "Failures by the stable code of what they mean: of calls that are retried, and of runs.",
            "RetryScheduled, RetryExhausted, RunFinished",
            ("code",),
        ),
        ("events_dropped_total", "counter", "Records that hooks never got, because their queues were full.", "events"),
        ("build_info", "gauge", "Versions; the value is 1.", "installed distributions", ("version", "torch", "python")),
        (
            "health_status",
            "gauge",
            "Result of a health check: 0 healthy, 1 degraded, 2 critical, 3 unknown.",
            "health checks",
            ("check",),
        ),
    )
)
"""All of them, in the order of the docs."""

BY_NAME = {metric.name.removeprefix(PREFIX): metric for metric in CATALOGUE}
"""By name without the prefix."""
