"""Columns that grow record by record: a step takes about 130 bytes in them, and 4 KB as a record."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

GIVEN = ("samples", "tokens", "loss", "accuracy", "gradient_norm", "learning_rate")
"""Fields of a step that the user gives, or not."""


class StepColumns:
    """Completed steps of one rank, in the order of their numbers; what was not given is NaN.

    Attributes:
        number: of each step.
        skipped: 1 if the optimizer left the parameters as they were.
        stands_for: how many steps each stands for, in the older part of a long history.
        floats: ``time``, ``seconds``, and each of ``GIVEN``.
        phases: seconds, for each phase that any step has.
    """

    def __init__(self) -> None:
        self.number = array("q")
        self.skipped = array("b")
        self.stands_for = array("q")
        self.floats = _floats(("time", "seconds", *GIVEN))
        self.phases: dict[str, array[float]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """One more step; it makes those of its number and above undone."""
        self.undo(record["step"])
        phases = record.get("phases", {})
        for name in phases:
            if name not in self.phases:
                self.phases[name] = array("d", [math.nan]) * len(self.number)
        for name, column in self.phases.items():
            column.append(phases.get(name, math.nan))
        _append(self.floats, record)
        self.skipped.append(record.get("skipped", False))
        self.stands_for.append(record.get("stands_for", 1))
        self.number.append(record["step"])

    def undo(self, number: int) -> None:
        """Steps from this one on are taken again, since the run goes on from a checkpoint."""
        if not self.number or self.number[-1] < number:
            return
        kept = bisect_left(self.number, number)
        stays = number - 1 - (self.number[kept] - self.stands_for[kept])
        if kept and stays > 0:  # of the steps that the first of these stands for
            self.stands_for[kept - 1] += stays
        columns: list[array[Any]] = [self.number, self.skipped, self.stands_for]
        for column in (*columns, *self.floats.values(), *self.phases.values()):
            del column[kept:]


class DeviceColumns:
    """Readings of one device; what it did not say is NaN.

    Attributes:
        simulated: whether any of them is.
        floats: ``time``, and each reading.
    """

    def __init__(self, readings: Iterable[str]) -> None:
        self.simulated = False
        self.floats = _floats(("time", *readings))

    def add(self, record: Mapping[str, Any]) -> None:
        """One more."""
        self.simulated |= record.get("simulated", False)
        _append(self.floats, record)


def _floats(names: Iterable[str]) -> dict[str, array[float]]:
    return {name: array("d") for name in names}


def _append(columns: Mapping[str, array[float]], record: Mapping[str, Any]) -> None:
    for name, column in columns.items():
        value = record.get(name)
        column.append(math.nan if value is None else value)
