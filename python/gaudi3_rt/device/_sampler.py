"""What do devices say as time goes by? Their sensors and memory at an interval, as events."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import Self

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock, Device
from gaudi3_rt.device._select import devices as devices_there
from gaudi3_rt.errors import ParameterValidationError

LAST = 1.0
"""Seconds that readings have to end, all together, when a sampler is closed."""

_TELEMETRY = (
    "temperature_celsius",
    "power_watts",
    "utilization_ratio",
    "clock_hertz",
    "energy_joules",
    "ecc_corrected",
    "ecc_uncorrected",
    "memory_used_bytes",
    "memory_total_bytes",
)
_MEMORY = ("allocated", "reserved", "peak", "limit", "workspace")

_log = logging.getLogger(__name__)


class DeviceSampler:
    """Emits :class:`~gaudi3_rt.events.DeviceSampled` for every device at an interval, while its block runs.

    Each device is read in a thread of its own: a sensor that hangs delays neither the training nor other devices, and
    nothing is emitted for it until it answers. Sensors need no acquired device. Memory of this process is read from the
    devices that it has acquired. What cannot be read is None; a record in which everything would be is not emitted.
    A forked child samples nothing; it has to open a sampler of its own.

    Args:
        devices: which; None for all there are when this is made.
        interval_seconds: from the end of a reading to the next.
        clock: how long a reading takes.

    Raises:
        ParameterValidationError: the interval is no finite number above 0, or something is no device.
    """

    def __init__(
        self, devices: Iterable[Device] | None = None, *, interval_seconds: float = 5.0, clock: Clock = time
    ) -> None:
        if not 0 < interval_seconds < math.inf:
            msg = f"interval_seconds={interval_seconds!r}: must be a number of seconds above 0"
            raise ParameterValidationError(msg)
        self.devices = tuple(devices_there() if devices is None else devices)
        for device in self.devices:
            if not hasattr(device, "telemetry"):
                msg = f"{device!r} is no device; give those of gaudi3_rt.device.devices(), or what acquire() gives"
                raise ParameterValidationError(msg)
        self.interval_seconds = interval_seconds
        self._readers = [_Reader(device, interval_seconds, clock) for device in self.devices]
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._pid = 0

    def __enter__(self) -> Self:
        if self._threads:
            msg = "this sampler is already running; make another one, or leave its with block first"
            raise ParameterValidationError(msg)
        self._pid, self._stop = os.getpid(), threading.Event()
        try:
            for reader in self._readers:
                name = f"sensors of {reader.device.name}"
                thread = threading.Thread(target=reader.run, args=(self._stop,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        threads, self._threads = self._threads, []
        if os.getpid() != self._pid:
            return  # a forked child has none of the threads
        self._stop.set()
        deadline = time.monotonic() + LAST
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        hanging = [thread.name for thread in threads if thread.is_alive()]
        if hanging:
            _log.warning("%s: a reading has not ended after %g s; it is left behind", ", ".join(hanging), LAST)

    def sample(self) -> None:
        """Reads all devices once, one after the other, in this thread."""
        for reader in self._readers:
            reader.read(threading.Event())


class _Reader:
    """Reads one device."""

    def __init__(self, device: Device, interval_seconds: float, clock: Clock) -> None:
        self.device = device
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._failing: set[type[events.Event]] = set()

    def run(self, stop: threading.Event) -> None:
        """At the interval, until it is stopped."""
        while not stop.is_set():
            self.read(stop)
            stop.wait(self._interval_seconds)

    def read(self, stop: threading.Event) -> None:
        """Once; a reading that comes after it was stopped is nobody's."""
        device, began = self.device, self._clock.monotonic()
        reading = self._try(stop, device.telemetry, events.TelemetryUnavailable, "reason")
        stats = self._try(stop, self._memory, events.MemoryUnreadable, "error")
        found: dict[str, Any] = {name: getattr(reading, name, None) for name in _TELEMETRY}
        found.update((f"memory_{name}_bytes", getattr(stats, name, None)) for name in _MEMORY)
        if stop.is_set() or all(value is None for value in found.values()):
            return
        simulated = any(getattr(said, "simulated", False) for said in (device, reading, stats))
        events.emit(
            events.DeviceSampled,
            device=device.name,
            simulated=simulated,
            interval_seconds=self._interval_seconds + self._clock.monotonic() - began,
            **found,
        )

    def _memory(self) -> Any:
        """Of this process, if it has the device."""
        return self.device.memory_stats() if self.device.acquired else None

    def _try(self, stop: threading.Event, ask: Callable[[], Any], failure: type[events.Event], field: str) -> Any:
        """An answer; None if there is none, which is told once until there is one again."""
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 (whatever a driver raises, the run goes on)
            if failure not in self._failing and not stop.is_set():
                self._failing.add(failure)
                text = {field: f"{type(error).__name__}: {error}"}
                events.emit(failure, device=self.device.name, simulated=self.device.simulated, **text)
            return None
        self._failing.discard(failure)
        return answer
