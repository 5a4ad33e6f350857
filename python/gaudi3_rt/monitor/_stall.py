"""Does training go on? A thread that looks when the last step ended."""

from __future__ import annotations

import threading
from collections import deque
from statistics import median
from typing import Protocol

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock

_RECENT = 101
"""Steps whose median tells how long a step takes."""


class Progress:
    """Where training is: written by its thread, read by others without a lock."""

    def __init__(self, step: int, now: float) -> None:
        self.step = step
        """Number of the last completed step."""
        self.alive = now
        """When there was the last sign of life."""
        self.durations: deque[float] = deque(maxlen=_RECENT)
        self.own: deque[float] = deque(maxlen=_RECENT)
        """Durations without waits for other ranks."""


class Where(Protocol):
    """In which phase training is now."""

    def __call__(self) -> str | None: ...


class StallWatch:
    """Tells of a step that does not end, once, and when training goes on.

    Time in which this thread itself did not run, because the process was stopped or the machine slept, does not count.

    Args:
        progress: of training.
        factor: how many times a usual step a step may take.
        floor: seconds that it may take in any case: graphs are compiled, checkpoints written.
        first: seconds that the first step may take.
        rank: of this process.
        where: in which phase training is.
        clock: what time it is.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        factor: float,
        floor: float,
        first: float,
        rank: int,
        where: Where,
        clock: Clock,
    ) -> None:
        self.interval = min(1.0, floor / 4)
        """Seconds between two looks."""
        self._progress = progress
        self._factor, self._floor, self._first = factor, floor, first
        self._rank, self._where, self._clock = rank, where, clock
        self._looked = clock.monotonic()
        self._absent = 0.0  # seconds since the last sign of life in which nobody looked
        self._seen = progress.alive
        self._stalled = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="gaudi3_rt stall watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after a last look."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.look()

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self.look()

    def look(self) -> None:
        """Looks once, and emits what follows."""
        now, seen = self._clock.monotonic(), self._progress.alive
        pause = now - self._looked - self.interval
        self._looked = now
        if seen != self._seen:
            before, self._seen, self._absent = self._seen, seen, 0.0
            if self._stalled:
                self._stalled = False
                events.emit(events.TrainingResumed, step=self._progress.step, seconds=seen - before, rank=self._rank)
        elif pause > self.interval:
            self._absent += pause
        seconds = now - seen - self._absent
        if self._stalled or seconds <= self._floor or seconds <= (limit := self._limit()):
            return
        self._stalled = True
        events.emit(
            events.TrainingStalled,
            step=self._progress.step,
            rank=self._rank,
            seconds=seconds,
            limit_seconds=limit,
            phase=self._where(),
        )

    def _limit(self) -> float:
        durations = list(self._progress.durations)
        if not durations:
            return max(self._first, self._floor)
        return max(self._factor * median(durations), self._floor)
