"""Which rank do the others wait for? Each writes how long its steps take into a file of its own, and one compares.

Files, not collective calls: a rank that dies, or that has no monitor, can then neither block the others nor be waited
for, and no process group has to exist. The price is that ranks on other machines are only seen if they share the
folder of the run.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gaudi3_rt import events
from gaudi3_rt._json import json_line
from gaudi3_rt.monitor._stall import Progress
from gaudi3_rt.monitor._step import REST

FOLDER = "ranks"
"""In the run directory; what is in it is of use only during the run."""
SHARED = ("backward", "communication", "checkpoint")
"""Phases in which a rank may wait for the others."""
_MIN_STEPS = 10
"""Before a rank says how long its steps take."""
_LASTING = 3
"""Comparisons in a row that have to agree."""
_FRESH = 6
"""Comparisons for which a rank is believed that has not written anew."""

_FIELDS = {"number", "step", "seconds", "own"}

_log = logging.getLogger(__name__)


def own_seconds(seconds: float, phases: Mapping[str, float]) -> float:
    """The part of a step in which a rank does not wait for others, as far as its phases tell.

    In a synchronous training the whole step takes equally long everywhere, because the fast ranks wait inside of
    backward. If backward was not told apart, what is in no phase is left out too, because backward is in there.
    """
    if not phases:
        return seconds
    shared = SHARED if "backward" in phases else (*SHARED, REST)
    return seconds - sum(phases.get(name, 0.0) for name in shared)


@dataclass(frozen=True)
class Reading:
    """What a rank says of its last steps: medians in seconds."""

    step: int
    seconds: float
    own: float


@dataclass
class _Seen:
    number: int
    fresh: int = 0  # comparisons for which it still counts


class RankTimes:
    """Writes this rank's times, and on rank 0 compares those of all, every so many seconds in a thread.

    A rank is a straggler if in three comparisons in a row its own part of a step is longer than the median of the
    others' by more than ``share`` of a step: that much of every step the others wait for it. It is none any more when
    it is less than half of that.

    Args:
        run_dir: of the run, shared by all ranks that are to be compared.
        rank: of this process.
        world_size: how many there are.
        progress: of training in this process.
        share: of a step.
        interval: seconds between two comparisons.
    """

    def __init__(
        self, run_dir: Path, *, rank: int, world_size: int, progress: Progress, share: float, interval: float
    ) -> None:
        self._folder = run_dir / FOLDER
        self._rank, self._size = rank, world_size
        self._progress = progress
        self._share, self._interval = share, interval
        self._written = 0
        self._last_step = -1
        self._seen: dict[int, _Seen] = {}
        self._slow: dict[int, int] = {}  # how often in a row
        self._failing = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="gaudi3_rt rank times", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the thread, and takes this rank's file away; a file system that hangs is not waited for longer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return
        try:
            for file in (self._path(self._rank), self._new()):  # a full disk may have left the second
                file.unlink(missing_ok=True)
            self._folder.rmdir()
        except OSError:  # files of others are in it
            pass

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.exchange()

    def exchange(self) -> None:
        """Writes and compares once, and emits what follows."""
        try:
            self._write()
            if self._rank == 0:
                self._compare(self._read())
        except OSError as error:
            if not self._failing:
                _log.warning("ranks cannot be compared by files in %s: %s; it is tried again", self._folder, error)
            self._failing = True
        else:
            self._failing = False

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank{rank}.json"

    def _new(self) -> Path:
        """What becomes this rank's file when it is written."""
        return self._path(self._rank).with_suffix(".new")

    def _write(self) -> None:
        progress = self._progress
        seconds, own = list(progress.durations), list(progress.own)
        step = progress.step
        if len(own) < _MIN_STEPS or step == self._last_step:
            return
        self._last_step = step
        self._written += 1
        record = {"number": self._written, "step": step, "seconds": median(seconds), "own": median(own)}
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._new()
        new.write_text(json_line(record), encoding="ascii")
        new.replace(self._path(self._rank))

    def _read(self) -> dict[int, Reading]:
        """What the ranks say that have written lately. Clocks of other machines are not relied upon."""
        found = {}
        for rank in range(self._size):
            record = self._record(rank)
            if record is None:
                continue
            seen = self._seen.setdefault(rank, _Seen(record["number"]))  # perhaps left by an earlier run
            if record["number"] != seen.number:
                seen.number, seen.fresh = record["number"], _FRESH
            if seen.fresh:
                seen.fresh -= 1
                found[rank] = Reading(record["step"], record["seconds"], record["own"])
        return found

    def _record(self, rank: int) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(rank).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and record.keys() >= _FIELDS and record["seconds"] > 0 else None

    def _compare(self, readings: Mapping[int, Reading]) -> None:
        for rank in [rank for rank in self._slow if rank not in readings]:
            del self._slow[rank]
        for rank, reading in readings.items():
            others = [other.own for number, other in readings.items() if number != rank]
            if not others:
                return
            lost = (reading.own - median(others)) / reading.seconds
            times = self._slow.get(rank, 0)
            if lost > self._share:
                self._slow[rank] = times + 1
                if times + 1 == _LASTING:
                    events.emit(
                        events.StragglerDetected,
                        step=reading.step,
                        rank=rank,
                        seconds=reading.own,
                        usual_seconds=median(others),
                        reported_by=self._rank,
                    )
            elif times < _LASTING or lost < self._share / 2:
                self._slow.pop(rank, None)
