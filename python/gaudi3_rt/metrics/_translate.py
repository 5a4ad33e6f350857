"""What an event says, as figures of the catalogue: the one place that knows both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from gaudi3_rt import errors, events
from gaudi3_rt.metrics._catalogue import OTHER

OUTCOMES = ("retried", "attempts", "budget", "not_retryable")
SENSORS = (
    "temperature_celsius",
    "power_watts",
    "utilization_ratio",
    "clock_hertz",
    "memory_used_bytes",
    "memory_total_bytes",
)
OWN_MEMORY = ("memory_allocated_bytes", "memory_peak_bytes", "memory_limit_bytes")
THROUGHPUTS = ("samples", "tokens")
LAST_KNOWN = (
    ("training_loss", "loss"),
    ("training_accuracy_ratio", "accuracy"),
    ("training_gradient_norm", "gradient_norm"),
    ("training_learning_rate", "learning_rate"),
)
"""What not every step measures."""
OF_THE_RUN = (
    "training_last_step_timestamp_seconds",
    "training_last_checkpoint_timestamp_seconds",
    "training_checkpoint_size_bytes",
    *(name for name, _ in LAST_KNOWN),
)
"""What stays after the end, and says nothing of the next run: that would seem to stand still in its first step."""


class Sink(Protocol):
    """What takes figures; names are those of the catalogue, without the prefix."""

    def add(self, name: str, amount: float, /, *labels: str) -> object: ...
    def put(self, name: str, value: float | None, /, *labels: str) -> object: ...
    def observe(self, name: str, value: float, /, *labels: str) -> object: ...


def translate(event: events.Event, sink: Sink) -> None:
    """Hands what an event says to a sink; events that say nothing of a metric are ignored."""
    handler = _handler(type(event))
    if handler is not None:
        handler(event, sink)


def start(sink: Sink) -> None:
    """What has been counted when counting begins: nothing."""
    for outcome in OUTCOMES:
        sink.add("retries_total", 0, outcome)


def forget_device(sink: Sink, device: str, simulated: str) -> None:
    """Takes away what a device said."""
    _forget_sensors(sink, device, simulated)
    for name in OWN_MEMORY:
        sink.put(f"device_{name}", None, device, simulated)


# Training


def _run_started(event: events.RunStarted, sink: Sink) -> None:
    sink.put("training_step", event.start_step)
    sink.put("training_stalled", 0)
    for name in OF_THE_RUN:
        sink.put(name, None)
    for name in ("training_steps_total", "training_skipped_steps_total"):
        sink.add(name, 0)
    for kind in anomaly_kinds():
        sink.add("training_anomalies_total", 0, kind)


def _step_completed(event: events.StepCompleted, sink: Sink) -> None:
    seconds = event.seconds
    sink.put("training_step", event.step)
    sink.put("training_stalled", 0)
    sink.put("training_last_step_timestamp_seconds", event.time)
    sink.add("training_steps_total", 1)
    sink.add("training_skipped_steps_total", event.skipped)
    sink.observe("training_step_duration_seconds", seconds)
    for phase, part in event.phases.items():
        sink.observe("training_phase_duration_seconds", part, phase)
    for what in THROUGHPUTS:
        count = getattr(event, what)
        if count is not None:
            sink.add(f"training_{what}_total", count)
        sink.put(f"training_{what}_per_second", count / seconds if count is not None and seconds > 0 else None)
    for name, field in LAST_KNOWN:
        value = getattr(event, field)
        if value is not None:
            sink.put(name, value)


def _checkpoint_completed(event: events.CheckpointCompleted, sink: Sink) -> None:
    sink.observe("training_checkpoint_duration_seconds", event.seconds)
    sink.put("training_checkpoint_size_bytes", event.bytes)
    sink.put("training_last_checkpoint_timestamp_seconds", event.time)


def _anomaly(event: events.Anomaly, sink: Sink) -> None:
    sink.add("training_anomalies_total", 1, event.kind)
    if isinstance(event, events.TrainingStalled):
        sink.put("training_stalled", 1)
        _forget_throughput(sink)


def _training_resumed(_: events.TrainingResumed, sink: Sink) -> None:
    sink.put("training_stalled", 0)


def _run_finished(event: events.RunFinished, sink: Sink) -> None:
    sink.put("training_stalled", None)
    _forget_throughput(sink)
    if event.code is not None:
        sink.add("errors_total", 1, _code(event.code))


def _forget_throughput(sink: Sink) -> None:
    for what in THROUGHPUTS:
        sink.put(f"training_{what}_per_second", None)


@functools.cache
def anomaly_kinds() -> tuple[str, ...]:
    """Of all anomalies that have a record."""
    return tuple(kind.kind for kind in events.Anomaly.__subclasses__())


# Devices


def _device_sampled(event: events.DeviceSampled, sink: Sink) -> None:
    labels = event.device, truth(event.simulated)
    for name in (*SENSORS, *OWN_MEMORY):
        sink.put(f"device_{name}", getattr(event, name), *labels)
    sink.put("device_energy_joules_total", event.energy_joules, *labels)
    sink.put("device_ecc_errors_total", event.ecc_corrected, "corrected", *labels)
    sink.put("device_ecc_errors_total", event.ecc_uncorrected, "uncorrected", *labels)


def _telemetry_unavailable(event: events.TelemetryUnavailable, sink: Sink) -> None:
    _forget_sensors(sink, event.device, truth(event.simulated))


def _memory_unreadable(event: events.MemoryUnreadable, sink: Sink) -> None:
    for name in OWN_MEMORY:
        sink.put(f"device_{name}", None, event.device, truth(event.simulated))


def _forget_sensors(sink: Sink, device: str, simulated: str) -> None:
    for name in (*SENSORS, "energy_joules_total"):
        sink.put(f"device_{name}", None, device, simulated)
    for kind in ("corrected", "uncorrected"):
        sink.put("device_ecc_errors_total", None, kind, device, simulated)


def truth(value: bool) -> str:
    """As a label."""
    return "true" if value else "false"


# Runtime


def _retry_scheduled(event: events.RetryScheduled, sink: Sink) -> None:
    sink.add("retries_total", 1, "retried")
    sink.add("errors_total", 1, _code(event.code))


def _retry_exhausted(event: events.RetryExhausted, sink: Sink) -> None:
    outcome = event.reason.replace(" ", "_")
    sink.add("retries_total", 1, outcome if outcome in OUTCOMES else OTHER)
    sink.add("errors_total", 1, _code(event.code))


def _code(code: int) -> str:
    return str(code) if code in _codes() else OTHER


@functools.cache
def _codes() -> frozenset[int]:
    """Of all errors."""
    return frozenset(errors.codes())


_HANDLERS: dict[type[events.Event], Callable[[Any, Sink], None]] = {
    events.RunStarted: _run_started,
    events.StepCompleted: _step_completed,
    events.CheckpointCompleted: _checkpoint_completed,
    events.Anomaly: _anomaly,
    events.TrainingResumed: _training_resumed,
    events.RunFinished: _run_finished,
    events.DeviceSampled: _device_sampled,
    events.TelemetryUnavailable: _telemetry_unavailable,
    events.MemoryUnreadable: _memory_unreadable,
    events.RetryScheduled: _retry_scheduled,
    events.RetryExhausted: _retry_exhausted,
}
KINDS = tuple(_HANDLERS)
"""The events that say something of a metric."""
_by_kind: dict[type[events.Event], Callable[[Any, Sink], None] | None] = {}


def _handler(kind: type[events.Event]) -> Callable[[Any, Sink], None] | None:
    if kind not in _by_kind:
        _by_kind[kind] = next((_HANDLERS[base] for base in kind.__mro__ if base in _HANDLERS), None)
    return _by_kind[kind]
