"""What a run's history says, as arrays: the steps of each rank, readings of devices, and what happened when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.events import (
    Anomaly,
    CheckpointCompleted,
    DeviceSampled,
    Event,
    RunFinished,
    RunStarted,
    TrainingResumed,
)
from gaudi3_rt.monitor import History, read_history

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

GIVEN = ("samples", "tokens", "loss", "accuracy", "gradient_norm", "learning_rate")
"""Fields of a step that the user gives, or not."""

READINGS = (
    "temperature_celsius",
    "power_watts",
    "utilization_ratio",
    "clock_hertz",
    "memory_used_bytes",
    "memory_total_bytes",
    "memory_allocated_bytes",
    "memory_peak_bytes",
    "memory_limit_bytes",
)
"""Fields of a device's sample that are drawn."""

RESUMED = "resumed"
"""The kind of what ends a stall."""

_NOT_DETAILS = {"event", "time", "step", "rank", "recorded_by"}
_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True)
class RankSteps:
    """Completed steps of one rank, in the order of their numbers.

    Those that a restart from a checkpoint made undone are left out. What was not given is NaN.

    Attributes:
        number: from 1 on.
        time: when it ended, seconds since the epoch.
        seconds: how long it took.
        skipped: the optimizer left the parameters as they were.
        given: a column for each of ``GIVEN``.
        phases: a column of seconds for each phase that any step has.
    """

    number: Numbers
    time: Floats
    seconds: Floats
    skipped: npt.NDArray[np.bool_]
    given: Mapping[str, Floats]
    phases: Mapping[str, Floats]

    def column(self, name: str) -> Floats:
        """``seconds``, one of ``GIVEN``, or a phase."""
        if name == "seconds":
            return self.seconds
        nothing = np.full(len(self.number), np.nan)
        return self.given[name] if name in self.given else self.phases.get(name, nothing)


@dataclass(frozen=True)
class DeviceSeries:
    """Readings of one device as one rank took them.

    Attributes:
        name: as in a specification, e.g. ``hpu:0``.
        rank: which took them.
        simulated: they are of the software HPU.
        time: seconds since the epoch.
        readings: a column for each of ``READINGS``; NaN where there is none.
    """

    name: str
    rank: int
    simulated: bool
    time: Floats
    readings: Mapping[str, Floats]


@dataclass(frozen=True)
class Happening:
    """An anomaly, or its end.

    Attributes:
        time: seconds since the epoch.
        kind: as of the event, e.g. ``stall``.
        step: in or after which.
        rank: which it concerns.
        details: its other fields.
    """

    time: float
    kind: str
    step: int
    rank: int
    details: Mapping[str, Any]


@dataclass(frozen=True)
class RunData:
    """All of it.

    Attributes:
        run_id: of the run.
        starts: of each rank, in order; more than one if it was restarted.
        finishes: how each rank ended, in order.
        ranks: steps by rank.
        devices: in the order of ranks and names.
        happenings: in order of time, those that several ranks tell once.
        checkpoints: in order of time, as the lowest rank tells them.
        damaged_lines: of the files, which could not be read.
    """

    run_id: str
    starts: tuple[RunStarted, ...]
    finishes: tuple[RunFinished, ...]
    ranks: Mapping[int, RankSteps]
    devices: tuple[DeviceSeries, ...]
    happenings: tuple[Happening, ...]
    checkpoints: tuple[CheckpointCompleted, ...]
    damaged_lines: int

    @property
    def world_size(self) -> int:
        """Of the last start."""
        return max(self.starts, key=lambda start: start.time).world_size

    @property
    def began(self) -> float:
        """Seconds since the epoch."""
        return min(start.time for start in self.starts)

    @property
    def ended(self) -> float:
        """When the last that is known happened, in seconds since the epoch."""
        times = [event.time for event in (*self.starts, *self.finishes)]
        times += [float(series.time[-1]) for series in self.devices if len(series.time)]
        times += [float(steps.time.max()) for steps in self.ranks.values() if len(steps.time)]
        return max(times)

    @property
    def restarts(self) -> tuple[RunStarted, ...]:
        """Of the lowest rank."""
        lowest = min(start.rank for start in self.starts)
        return tuple(start for start in self.starts if start.rank == lowest)[1:]

    def over_ranks(self, name: str) -> tuple[Numbers, Floats]:
        """Numbers of steps, and a row of a column for each rank that has steps; NaN where it does not have one."""
        numbers = np.unique(np.concatenate([steps.number for steps in self.ranks.values()]))
        rows = np.full((len(self.ranks), len(numbers)), np.nan)
        for row, steps in zip(rows, self.ranks.values(), strict=True):
            row[np.searchsorted(numbers, steps.number)] = steps.column(name)
        return numbers, rows

    def expected_ranks(self, numbers: Numbers) -> Numbers:
        """How many ranks a step should have: as many as the last start before it says."""
        starts = sorted(self.starts, key=lambda start: start.time)
        begins = np.array([start.start_step for start in starts])
        sizes = np.array([start.world_size for start in starts])
        expected = np.full(len(numbers), sizes[0])
        for begin, size in zip(begins, sizes, strict=True):
            expected[numbers > begin] = size
        return expected


def gather(run: str | Path) -> RunData:
    """Reads the history in a run's folder, of a training that may still go on.

    Raises:
        ParameterValidationError: the folder is not there or has no history that can be used.
    """
    history = read_history(run)
    starts = _events(history, RunStarted)
    if not starts:
        msg = f"the history in {str(run)!r} does not say how the run began: it has no RunStarted"
        raise ParameterValidationError(msg, suggestions=["look whether the first lines of its files have been cut off"])
    checkpoints = _events(history, CheckpointCompleted)
    lowest = min((event.rank for event in checkpoints), default=0)
    return RunData(
        run_id=starts[-1].run_id,
        starts=starts,
        finishes=_events(history, RunFinished),
        ranks={rank: _steps(steps) for rank in history.ranks if (steps := history.steps(rank))},
        devices=tuple(_devices(history)),
        happenings=_happenings(history),
        checkpoints=tuple(event for event in checkpoints if event.rank == lowest),
        damaged_lines=history.damaged_lines,
    )


def _events(history: History, kind: type[_E]) -> tuple[_E, ...]:
    """The records of a class as such, in order of time."""
    names = {field.name for field in fields(kind)}
    found = history.of(kind.__name__)
    return tuple(kind(**{name: value for name, value in record.items() if name in names}) for record in found)


def _column(records: Sequence[Mapping[str, Any]], name: str) -> Floats:
    values = (record.get(name) for record in records)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _steps(steps: Sequence[Mapping[str, Any]]) -> RankSteps:
    phases = dict.fromkeys(phase for step in steps for phase in step.get("phases", ()))
    return RankSteps(
        number=np.array([step["step"] for step in steps], dtype=np.int64),
        time=_column(steps, "time"),
        seconds=_column(steps, "seconds"),
        skipped=np.array([step.get("skipped", False) for step in steps], dtype=np.bool_),
        given={name: _column(steps, name) for name in GIVEN},
        phases={name: np.array([step.get("phases", {}).get(name, np.nan) for step in steps]) for name in phases},
    )


def _devices(history: History) -> Iterator[DeviceSeries]:
    samples: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for record in history.of(DeviceSampled.__name__):
        samples.setdefault((record["recorded_by"], record["device"]), []).append(record)
    for (rank, name), records in sorted(samples.items()):
        yield DeviceSeries(
            name=name,
            rank=rank,
            simulated=any(record.get("simulated", False) for record in records),
            time=_column(records, "time"),
            readings={reading: _column(records, reading) for reading in READINGS},
        )


def _happenings(history: History) -> tuple[Happening, ...]:
    """Each anomaly, and each end of a stall; of those that several ranks tell of one rank and step, the first."""
    kinds = {kind.__name__: kind.kind for kind in Anomaly.__subclasses__()} | {TrainingResumed.__name__: RESUMED}
    found: dict[tuple[str, int, int], Happening] = {}
    for record in history.of(*kinds):
        kind, step, rank = kinds[record["event"]], record["step"], record.get("rank", 0)
        details = {name: value for name, value in record.items() if name not in _NOT_DETAILS}
        found.setdefault((kind, step, rank), Happening(record["time"], kind, step, rank, details))
    return tuple(found.values())
