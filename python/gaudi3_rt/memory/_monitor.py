"""How is memory doing? Samples at an interval, watermarks, leaks, and the whole run in bounded memory."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from typing_extensions import Self

from gaudi3_rt import events
from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Clock, MemoryStats
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._findings import Finding, LeakWatch, Mark, Watermarks
from gaudi3_rt.memory._leak import MIN_POINTS, Leak
from gaudi3_rt.memory._sources import MemorySource, ProcessMemory
from gaudi3_rt.memory._timeline import Point, Timeline

logger = logging.getLogger(__name__)

_MARKS = 256
"""Occurrences that are remembered for the plot."""


class MemoryMonitor:
    """Watches the memory of a device, or of this process.

    As a context manager it samples in a thread of its own; without one, call :meth:`sample`. A sample reads the
    device's counters and does not wait for it. A forked child samples nothing by itself.

    Args:
        device: what to watch: a ``Device``, or anything with ``name``, ``simulated`` and ``memory_stats()``, such as
            ``ProcessMemory(pid)``. None: this process.
        interval: seconds between samples of the thread.
        high: share of the limit at which ``MemoryHigh`` is emitted.
        low: share of the limit below which ``MemoryRecovered`` is.
        warmup: samples at the beginning that say nothing about leaks: models load, caches fill, graphs compile.
        min_growth: bytes that must be gained before growth is called a leak.
        capacity: points of the timeline, an even number. When it is full, neighbours are merged.
        clock: what time it is; leaks are looked for only while it moves.

    Raises:
        ParameterValidationError: an argument is out of range, or ``device`` is no device.
    """

    def __init__(
        self,
        device: MemorySource | None = None,
        interval: float = 1.0,
        *,
        high: float = 0.90,
        low: float = 0.80,
        warmup: int = 10,
        min_growth: float = 16 << 20,
        capacity: int = 2048,
        clock: Clock = time,
    ) -> None:
        _check(device, interval, high, low, warmup, capacity)
        self.device = ProcessMemory() if device is None else device
        self.interval, self.high, self.low = interval, high, low
        self.failures = 0
        """Samples at which the device's memory could not be read."""
        self._label = f"{self.device.name} (simulated)" if self.device.simulated else self.device.name
        self._clock = clock
        self._timeline = Timeline(capacity)
        self._marks: deque[Mark] = deque(maxlen=_MARKS)
        self._after_fork()
        reset_in_children(self)
        self._started = self._clock.monotonic()
        self._steps = 0
        self._last: MemoryStats | None = None
        self._is_failing = False
        self._watermarks = Watermarks(high, low)
        self._leaks = LeakWatch(self._label, warmup, min_growth)

    def _after_fork(self) -> None:
        """Also at the start. A child has no thread that samples."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # The thread

    def __enter__(self) -> Self:
        if self._thread is not None:
            msg = "this monitor is already running; make another one, or leave its with block first"
            raise ParameterValidationError(msg)
        self._stop.clear()
        thread = threading.Thread(target=self._run, name=f"memory of {self.device.name}", daemon=True)
        thread.start()
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is None:  # a forked child leaves the block, which is its parent's
            return
        self._stop.set()
        thread.join()
        self.sample()

    def _run(self) -> None:
        while True:
            self.sample()
            if self._stop.wait(self.interval):
                return

    # Sampling

    def step(self) -> None:
        """Marks the end of a training step; reads nothing."""
        self._steps += 1

    def sample(self) -> MemoryStats | None:
        """Reads memory once, and emits what follows from it.

        Returns:
            What was read; None if the device could not tell, which is counted in ``failures``.
        """
        stats: MemoryStats | None = None
        try:
            stats = self.device.memory_stats()
        except Exception as error:  # noqa: BLE001 (whatever a driver raises, the run goes on)
            found = self._failed(error)
        if stats is not None:
            found = self._read(stats)
        for finding in found:
            logger.log(finding.level, "%s", finding.text)
            events.emit(finding.kind, device=self.device.name, simulated=self.device.simulated, **finding.fields)
        return stats

    def _read(self, stats: MemoryStats) -> list[Finding]:
        with self._lock:
            # A device counts its peak itself: if that has risen since the last sample, it was reached in between.
            risen = self._last is not None and stats.peak > self._last.peak
            highest = max(stats.allocated, stats.peak) if risen else stats.allocated
            self._timeline.add(
                Point(
                    time=self._now(),
                    step=self._steps,
                    allocated=stats.allocated,
                    low=stats.allocated,
                    high=highest,
                    reserved=stats.reserved,
                    limit=stats.limit,
                    workspace=stats.workspace,
                )
            )
            self._last = stats
            self._is_failing = False
            found = [*self._watermarks.update(self._label, stats, highest), *self._leaks.update(self._timeline)]
            self._mark(found)
            return found

    def _failed(self, error: Exception) -> list[Finding]:
        with self._lock:
            self.failures += 1
            if self._is_failing:
                return []
            self._is_failing = True
            text = f"{type(error).__name__}: {error}"
            found = [
                Finding(
                    events.MemoryUnreadable,
                    {"error": text},
                    f"the memory of {self._label} cannot be read ({text}); the monitor goes on trying",
                )
            ]
            self._mark(found)
            return found

    def _mark(self, found: Sequence[Finding]) -> None:
        now = self._now()
        self._marks.extend(Mark(now, finding.name, finding.text) for finding in found)

    def _now(self) -> float:
        return self._clock.monotonic() - self._started

    # What was seen

    @property
    def last(self) -> MemoryStats | None:
        """The last reading; None before the first."""
        return self._last

    @property
    def steps(self) -> int:
        """How many were marked."""
        return self._steps

    @property
    def leak(self) -> Leak | None:
        """Growth that looks like a leak, as it was last seen; None if there is none, or no longer."""
        return self._leaks.current

    @property
    def timeline(self) -> tuple[Point, ...]:
        """The whole run, from the first sample to the last; seconds count from when the monitor was made."""
        with self._lock:
            return tuple(self._timeline.points)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What was emitted, the last 256."""
        with self._lock:
            return tuple(self._marks)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the timeline with limit, watermarks, steps and what was emitted into a file, such as a PNG.

        Raises:
            ImportError: matplotlib is missing; the message says how to get it.
            ParameterValidationError: there is no sample yet.
        """
        from gaudi3_rt.memory._plot import plot  # noqa: PLC0415 (matplotlib)

        plot(self, path)


def _check(device: object, interval: float, high: float, low: float, warmup: int, capacity: int) -> None:
    if device is not None and not hasattr(device, "memory_stats"):
        msg = (
            f"device={device!r} is no device: it needs memory_stats(). Open one with gaudi3_rt.device, or give "
            "ProcessMemory(pid), or nothing for this process"
        )
        raise ParameterValidationError(msg)
    for wrong, msg in (
        (not 0 < interval < float("inf"), f"interval={interval!r}: must be a number of seconds above 0"),
        (not 0 < low < high <= 1, f"high={high!r}, low={low!r}: they must be shares of the limit, 0 < low < high <= 1"),
        (warmup < 0, f"warmup={warmup!r}: must be a number of samples, 0 or more"),
        (
            capacity < 2 * MIN_POINTS or capacity % 2 != 0,
            f"capacity={capacity!r}: must be an even number of points, at least {2 * MIN_POINTS}",
        ),
    ):
        if wrong:
            raise ParameterValidationError(msg)
