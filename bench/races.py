"""Ours, the peers and the memory limit against each other at one question: the rounds, and what they say."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from entrants import Contender, Limit, RivalError, RivalProcess, Started
from harness import LIMIT, OURS, Row, Scale, Wanted, Workload
from questions import BEST, Question

SETTLE_SECONDS = 0.02  # after a rival's turn: its threads wait for more work at first, and take a core each


@dataclass
class Outcome:
    """What became of one rival."""

    seconds: list[float] = field(default_factory=list)  # of every round; none if it was lost
    started: Started | None = None
    excess: float | None = None  # of its results beyond the relative tolerance, if they are compared
    error: str = ""


@dataclass(frozen=True)
class Race:
    """One question on one workload, and what became of each rival."""

    question: Question
    workload: Workload
    outcomes: Mapping[str, Outcome]

    @property
    def moved_bytes(self) -> int:
        """What an ideal implementation reads and writes."""
        elements = self.workload.nbytes // self.workload.dtype.itemsize
        return round(self.question.bytes_per_element * elements)

    @property
    def best_peer(self) -> str | None:
        """The peer with the least median, if one has run."""
        times = {label: self.outcomes[label].seconds for label in self.question.peers if self.outcomes[label].seconds}
        return min(times, key=lambda label: statistics.median(times[label]), default=None)

    @property
    def wanted(self) -> list[Wanted]:
        """What is hoped for on this workload."""
        return list(self.question.wanted.get(self.workload.name, ()))

    def row(self, rival: str | None, ours: str = OURS) -> Row:
        """Ours, or someone else, against a rival and the limit."""
        samples = {label: outcome.seconds for label, outcome in self.outcomes.items() if outcome.seconds}
        moved = self.moved_bytes or None
        return Row(self.question.name, self.workload.name, samples, ours=ours, rival=rival or "", moved_bytes=moved)

    def reached(self, wanted: Wanted) -> bool | None:
        """Whether the median reaches what is hoped for; ``None`` if one of the two has not run."""
        row = self.row(self.best_peer if wanted.rival == BEST else wanted.rival)
        return None if row.speed is None else row.reached(wanted)

    def agrees(self, label: str) -> bool:
        """Whether results are ours to within the tolerance; true if they are not compared."""
        excess = self.outcomes[label].excess
        return excess is None or excess <= self.question.tolerance[1]

    @property
    def faults(self) -> list[str]:
        """What must not be: one of ours or the limit is lost, or a result differs that should not."""
        name = f"{self.question.name}, {self.workload.name}"
        must_run = [label for label in self.outcomes if label not in self.question.peers]
        lost = [f"{name}: {label}: {self.outcomes[label].error}" for label in must_run if self.outcomes[label].error]
        return lost + [f"{name}: {label} differs from ours" for label in self.outcomes if not self.agrees(label)]


class Track:
    """The rivals of one race, each in a process of its own, running one at a time."""

    def __init__(self, question: Question, workload: Workload, context: BaseContext, directory: Path) -> None:
        """Starts the processes; compiled loops and what the rivals print go to the directory."""
        makers: dict[str, Callable[[], Any]] = {
            label: partial(Contender, question, entrant, workload) for label, entrant in question.entrants.items()
        }
        if question.traffic:
            makers[LIMIT] = partial(Limit, question, workload, directory)
        self._outcomes = {label: Outcome() for label in makers}
        self.race = Race(question, workload, self._outcomes)
        self._rivals = {label: RivalProcess(context, make, directory / "peers.log") for label, make in makers.items()}

    def run(self, scale: Scale) -> Race:
        """Starts the rivals, compares their results with ours, and times them in rounds."""
        try:
            for label in list(self._rivals):
                self._turn(label, RivalProcess.wait)
            for label in list(self._rivals):
                self._outcomes[label].started = self._turn(label, lambda rival: rival.ask("start"))
            self._rounds(scale.rounds_for(self._warm_up()))
        finally:
            for rival in self._rivals.values():
                rival.close()
        return self.race

    def _turn(self, label: str, action: Callable[[RivalProcess], Any]) -> Any:
        """Lets a rival do something; if it fails, it is out and keeps no times."""
        try:
            return action(self._rivals[label])
        except RivalError as error:
            self._outcomes[label] = Outcome(error=str(error))
            self._rivals.pop(label).close()
            return None

    def _warm_up(self) -> float:
        """A second run of each, the results of which are compared; returns the seconds of a round."""

        def again(rival: RivalProcess, label: str, file: Path) -> float:
            rival.ask("restore")
            seconds = rival.ask("run")
            if label == OURS:
                rival.ask("save", file)
            elif OURS in self._rivals and label != LIMIT and not self.race.question.entrants[label].differs:
                self._outcomes[label].excess = rival.ask("compare", file)
            rival.ask("restore")
            return float(seconds)

        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "results"
            taken = [self._turn(label, partial(again, label=label, file=file)) for label in list(self._rivals)]
        return sum(seconds for seconds in taken if seconds is not None)

    def _rounds(self, count: int) -> None:
        """All once per round, in an order shuffled anew each round, as in ``harness.race``."""

        def timed(rival: RivalProcess) -> float:
            time.sleep(SETTLE_SECONDS)
            seconds = rival.ask("run")
            rival.ask("restore")
            return float(seconds)

        shuffle = random.Random(0).shuffle  # noqa: S311 (no secret)
        for _ in range(count):
            order = list(self._rivals)
            shuffle(order)
            for label in order:
                seconds = self._turn(label, timed)
                if seconds is not None:
                    self._outcomes[label].seconds.append(seconds)
