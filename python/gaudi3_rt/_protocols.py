"""The seams between services: what a device is, and what it says of itself. Services know these, not one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class MemoryStats:
    """Memory of one device; the same fields for every kind. All in bytes; None where the device cannot say.

    Attributes:
        allocated: held by live tensors (hpu: ``InUse``; cpu: resident set of this process).
        reserved: held by the allocator, whether or not tensors use it.
        peak: the most that ``allocated`` has been since the last reset.
        limit: the most that this process can have.
        workspace: held by compiled graphs beside tensors.
        simulated: the figures come from the software HPU.
    """

    allocated: int
    reserved: int | None
    peak: int
    limit: int | None
    workspace: int | None = None
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceProperties:
    """What a device is. ``total_memory`` in bytes; None where nobody can say."""

    name: str
    kind: str
    index: int
    total_memory: int | None
    driver_version: str | None = None
    firmware_version: str | None = None
    serial: str | None = None
    uuid: str | None = None
    bus_id: str | None = None
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Readings of one device at one time; None where it has no such sensor.

    Attributes:
        temperature_celsius: on the chip.
        power_watts: drawn now.
        utilization_ratio: 0 to 1.
        memory_used_bytes: of the whole device, by all processes.
        memory_total_bytes: of the whole device.
        ecc_corrected: corrected memory errors since the driver was loaded.
        ecc_uncorrected: errors that could not be corrected.
        energy_joules: since the driver was loaded.
        clock_hertz: of the chip (its SoC clock), now.
        status: as the driver has it, in lower case: ``operational``, or what is wrong, such as ``in reset``.
        simulated: the readings come from the software HPU.
    """

    temperature_celsius: float | None = None
    power_watts: float | None = None
    utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    energy_joules: float | None = None
    clock_hertz: float | None = None
    status: str | None = None
    simulated: bool = False


class Device(Protocol):
    """One device that this process can use.

    ``properties`` and ``telemetry`` need no acquired device; what works with its memory or its queue does.
    """

    @property
    def name(self) -> str:
        """As in a specification: ``cpu``, ``hpu:0``, ``simulated:3``."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether this is the software HPU."""
        ...

    @property
    def torch_device(self) -> str:
        """Where torch puts tensors for it: ``cpu`` or ``hpu``; one process has one HPU, so there is no number."""
        ...

    @property
    def acquired(self) -> bool:
        """Whether this process has it now; nothing is imported or opened to find out."""
        ...

    def open(self) -> None:
        """Acquire it for this process; ``RuntimeError`` with the driver's words if that fails."""
        ...

    def properties(self) -> DeviceProperties: ...
    def memory_stats(self) -> MemoryStats: ...
    def reset_peak_memory(self) -> None: ...
    def telemetry(self) -> Telemetry: ...
    def synchronize(self) -> None: ...
    def mark_step(self) -> None: ...
    def close(self) -> None: ...


class Provider(Protocol):
    """Devices that exist while something is open, beside those of the machine."""

    @property
    def kind(self) -> str:
        """What their names begin with, e.g. ``simulated``."""
        ...

    def devices(self) -> Sequence[Device]: ...

    def versions(self) -> Mapping[str, str]:
        """Versions that it claims to have: ``driver``, ``firmware``, ``plugin``, ``torch``."""
        ...


class Clock(Protocol):
    """Time and sleep, so that tests decide both. Seconds. The module ``time`` is one."""

    def monotonic(self) -> float: ...
    def time(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...
