"""What a run's history says, as arrays: the steps of each rank, readings of devices, and what happened when."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
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
    StepCompleted,
    TrainingResumed,
)
from gaudi3_rt.monitor import iterate_history
from gaudi3_rt.report._columns import DeviceColumns, StepColumns

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

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

_NOT_DETAILS = {"event", "time", "step", "rank"}
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
        stands_for: how many steps it stands for, which the older part of a long history has no more.
        given: a column for each of ``GIVEN``.
        phases: a column of seconds for each phase that any step has.
    """

    number: Numbers
    time: Floats
    seconds: Floats
    skipped: npt.NDArray[np.bool_]
    stands_for: Numbers
    given: Mapping[str, Floats]
    phases: Mapping[str, Floats]

    def column(self, name: str) -> Floats:
        """``seconds``, one of ``GIVEN``, or a phase."""
        if name == "seconds":
            return self.seconds
        nothing = np.full(len(self.number), np.nan)
        return self.given[name] if name in self.given else self.phases.get(name, nothing)

    @property
    def count(self) -> int:
        """How many steps there were."""
        return int(self.stands_for.sum())

    def total(self, name: str) -> float | None:
        """The sum of a column, as if steps that were left out had been like those that stand for them."""
        column = self.column(name)
        return float(np.nansum(column * self.stands_for)) if np.isfinite(column).any() else None


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
    ranks: dict[int, StepColumns] = {}
    devices: dict[tuple[int, str], DeviceColumns] = {}
    others: dict[int, list[Mapping[str, Any]]] = {}
    damaged = 0
    for rank, record in iterate_history(run):
        if record is None:
            damaged += 1
        elif record["event"] == StepCompleted.__name__:
            ranks.setdefault(rank, StepColumns()).add(record)
        elif record["event"] == DeviceSampled.__name__:
            devices.setdefault((rank, record["device"]), DeviceColumns(READINGS)).add(record)
        else:
            others.setdefault(rank, []).append(record)
            if record["event"] == RunStarted.__name__ and rank in ranks:
                ranks[rank].undo(record["start_step"] + 1)
    records = list(heapq.merge(*others.values(), key=lambda record: float(record["time"])))
    starts = _events(records, RunStarted)
    if not starts:
        msg = f"the history in {str(run)!r} does not say how the run began: it has no RunStarted"
        raise ParameterValidationError(msg, suggestions=["look whether the first lines of its files have been cut off"])
    checkpoints = _events(records, CheckpointCompleted)
    lowest = min((event.rank for event in checkpoints), default=0)
    return RunData(
        run_id=starts[-1].run_id,
        starts=starts,
        finishes=_events(records, RunFinished),
        ranks={rank: _steps(columns) for rank, columns in ranks.items() if columns.number},
        devices=tuple(_device(*key, columns) for key, columns in sorted(devices.items(), key=lambda row: row[0])),
        happenings=_happenings(records),
        checkpoints=tuple(event for event in checkpoints if event.rank == lowest),
        damaged_lines=damaged,
    )


def _events(records: Sequence[Mapping[str, Any]], kind: type[_E]) -> tuple[_E, ...]:
    """The records of a class as such, in order of time."""
    names = {field.name for field in fields(kind)}
    found = (record for record in records if record["event"] == kind.__name__)
    return tuple(kind(**{name: value for name, value in record.items() if name in names}) for record in found)


def _steps(columns: StepColumns) -> RankSteps:
    floats = {name: np.array(column) for name, column in columns.floats.items()}
    phases = {name: np.array(column) for name, column in columns.phases.items()}
    return RankSteps(
        number=np.array(columns.number, dtype=np.int64),
        time=floats.pop("time"),
        seconds=floats.pop("seconds"),
        skipped=np.array(columns.skipped, dtype=np.bool_),
        stands_for=np.array(columns.stands_for, dtype=np.int64),
        given=floats,
        phases={name: column for name, column in phases.items() if np.isfinite(column).any()},  # others were undone
    )


def _device(rank: int, name: str, columns: DeviceColumns) -> DeviceSeries:
    readings = {reading: np.array(column) for reading, column in columns.floats.items()}
    return DeviceSeries(name=name, rank=rank, simulated=columns.simulated, time=readings.pop("time"), readings=readings)


def _happenings(records: Sequence[Mapping[str, Any]]) -> tuple[Happening, ...]:
    """Each anomaly, and each end of a stall; of those that several ranks tell of one rank and step, the first."""
    kinds = {kind.__name__: kind.kind for kind in Anomaly.__subclasses__()} | {TrainingResumed.__name__: RESUMED}
    found: dict[tuple[str, int, int], Happening] = {}
    for record in records:
        if record["event"] not in kinds:
            continue
        kind, step, rank = kinds[record["event"]], record["step"], record.get("rank", 0)
        details = {name: value for name, value in record.items() if name not in _NOT_DETAILS}
        found.setdefault((kind, step, rank), Happening(record["time"], kind, step, rank, details))
    return tuple(found.values())
