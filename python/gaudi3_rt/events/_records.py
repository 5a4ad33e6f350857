"""The records; those of a training are in ``_training_records.py``. Fields have the units of their names' suffixes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import time
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all records.

    Attributes:
        time: seconds since the epoch, UTC.
    """

    log_level: ClassVar[int] = logging.INFO
    """As what the log writes such records; one of :mod:`logging`'s levels."""

    time: float = field(default_factory=time)


# gaudi3_rt.retry


@dataclass(frozen=True, kw_only=True)
class RetryScheduled(Event):
    """A call failed and will be made again.

    Attributes:
        function: qualified name of what is called.
        attempt: the one that failed, counted from 1.
        max_attempts: how many there can be.
        delay_seconds: until the next one.
        error: class of the exception.
        code: stable code of what it means.
    """

    log_level: ClassVar[int] = logging.WARNING

    function: str
    attempt: int
    max_attempts: int
    delay_seconds: float
    error: str
    code: int


@dataclass(frozen=True, kw_only=True)
class RetryExhausted(Event):
    """A call failed and will not be made again, though it was or could have been.

    Attributes:
        function: qualified name of what was called.
        attempts: how many there were.
        reason: ``attempts``, ``budget``, or ``not retryable`` after an error that was.
        error: class of the last exception, which is raised.
        code: stable code of what it means.
    """

    log_level: ClassVar[int] = logging.WARNING

    function: str
    attempts: int
    reason: str
    error: str
    code: int


@dataclass(frozen=True, kw_only=True)
class BreakerOpened(Event):
    """A circuit breaker refuses calls from now on.

    Attributes:
        breaker: its name.
        failures: in succession.
        recovery_seconds: until it lets one call through.
    """

    log_level: ClassVar[int] = logging.WARNING

    breaker: str
    failures: int
    recovery_seconds: float


@dataclass(frozen=True, kw_only=True)
class BreakerHalfOpened(Event):
    """A circuit breaker lets one call through, to see whether the service is back.

    Attributes:
        breaker: its name.
    """

    breaker: str


@dataclass(frozen=True, kw_only=True)
class BreakerClosed(Event):
    """A circuit breaker lets all calls through again.

    Attributes:
        breaker: its name.
    """

    breaker: str


# device


@dataclass(frozen=True, kw_only=True)
class DeviceAcquired(Event):
    """A device is this process's own from now on.

    Attributes:
        device: its name, e.g. ``hpu:0``.
        attempts: how often it was tried.
        seconds: from the first try on.
        simulated: it is the software HPU.
    """

    device: str
    attempts: int
    seconds: float
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceBusy(Event):
    """Somebody else has a device; it is tried again.

    Attributes:
        device: its name.
        attempt: how often it has been tried so far.
        wait_seconds: until the next try.
        holders: who has it, as ``pid 4711 (python train.py)``; empty if that cannot be told.
        simulated: it is the software HPU.
    """

    log_level: ClassVar[int] = logging.WARNING

    device: str
    attempt: int
    wait_seconds: float
    holders: tuple[str, ...] = ()
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceReleased(Event):
    """A device was given back.

    Attributes:
        device: its name.
        simulated: it is the software HPU.
    """

    device: str
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class TelemetryUnavailable(Event):
    """A device's sensors cannot be read; said once until they can be read again.

    Attributes:
        device: its name.
        reason: what was tried and how it failed.
        simulated: it is the software HPU.
    """

    log_level: ClassVar[int] = logging.WARNING

    device: str
    reason: str
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceSampled(Event):
    """What a device said of itself; None where it has no such sensor, or that could not be read now.

    Attributes:
        device: its name.
        simulated: it is the software HPU.
        interval_seconds: until the next one is due; what is much older says nothing of now. Slow sensors take longer.
        temperature_celsius: on the chip.
        power_watts: drawn now.
        utilization_ratio: 0 to 1.
        clock_hertz: of the chip (its SoC clock).
        energy_joules: since the driver was loaded.
        ecc_corrected: memory errors since the driver was loaded.
        ecc_uncorrected: those that could not be corrected.
        memory_used_bytes: of the whole device, by all processes.
        memory_total_bytes: of the whole device.
        memory_allocated_bytes: held by this process's live tensors; for the CPU, its resident set.
        memory_reserved_bytes: held by this process's allocator.
        memory_peak_bytes: the most that was allocated since the last reset.
        memory_limit_bytes: the most that this process can have.
        memory_workspace_bytes: held by compiled graphs beside tensors.
    """

    log_level: ClassVar[int] = logging.DEBUG

    device: str
    simulated: bool
    interval_seconds: float
    temperature_celsius: float | None = None
    power_watts: float | None = None
    utilization_ratio: float | None = None
    clock_hertz: float | None = None
    energy_joules: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_allocated_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_workspace_bytes: int | None = None


# memory


@dataclass(frozen=True, kw_only=True)
class MemoryHigh(Event):
    """Memory has reached the high watermark.

    Attributes:
        device: its name.
        simulated: it is the software HPU.
        allocated_bytes: the most that was taken since the sample before.
        limit_bytes: the most that can be.
        used_ratio: one over the other.
    """

    log_level: ClassVar[int] = logging.WARNING

    device: str
    simulated: bool
    allocated_bytes: int
    limit_bytes: int
    used_ratio: float


@dataclass(frozen=True, kw_only=True)
class MemoryRecovered(Event):
    """After ``MemoryHigh``, memory is below the low watermark. Attributes are those of ``MemoryHigh``."""

    device: str
    simulated: bool
    allocated_bytes: int
    limit_bytes: int
    used_ratio: float


@dataclass(frozen=True, kw_only=True)
class LeakSuspected(Event):
    """Memory grows, and not as in a warm-up or a sawtooth. Intervals are of 99.9 %.

    Attributes:
        device: its name.
        simulated: it is the software HPU.
        bytes_per_second: how fast.
        bytes_per_second_interval: of that.
        bytes_per_step: how fast, against marked steps; None if none were marked.
        seconds_to_limit: until memory is exhausted at this rate; None without a limit.
        seconds_to_limit_interval: of that.
    """

    log_level: ClassVar[int] = logging.WARNING

    device: str
    simulated: bool
    bytes_per_second: float
    bytes_per_second_interval: tuple[float, float]
    bytes_per_step: float | None
    seconds_to_limit: float | None
    seconds_to_limit_interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class MemoryUnreadable(Event):
    """A device did not say how much memory it has taken; told once, until it does again.

    Attributes:
        device: its name.
        simulated: it is the software HPU.
        error: what it raised.
    """

    log_level: ClassVar[int] = logging.WARNING

    device: str
    simulated: bool
    error: str


# reduce


@dataclass(frozen=True, kw_only=True)
class ReductionFailed(Event):
    """Gradients could not be reduced; emitted by one of the ranks that are left.

    Attributes:
        ranks: who broke it.
        bucket: number of the first bucket that did not arrive; -1 for what is exchanged besides buckets.
        step: of the reducer, counted from 0.
        cause: ``lost`` (a connection broke), ``timeout``, or ``own`` (the rank gave up by itself and said so).
        reported_by: the rank that emits.
    """

    log_level: ClassVar[int] = logging.ERROR

    ranks: tuple[int, ...]
    bucket: int
    step: int
    cause: str
    reported_by: int


# health


@dataclass(frozen=True, kw_only=True)
class HealthChanged(Event):
    """A check, or all together, is better or worse than before. That it is well from the first look on is no change.

    Statuses are ``healthy``, ``degraded``, ``unknown`` and ``critical``.

    Attributes:
        check: its label; None for what all checks add up to.
        before: its status until now.
        after: its status from now on.
        message: why; of all together, what changed last.
        simulated: what was looked at is the software HPU.
    """

    log_level: ClassVar[int] = logging.WARNING

    check: str | None
    before: str
    after: str
    message: str
    simulated: bool = False
