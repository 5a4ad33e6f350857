"""What happened in a run? Its history files, read back, whatever a crash left of them."""

from __future__ import annotations

import heapq
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaudi3_rt.errors import ParameterValidationError

_FILE = re.compile(r"history-rank(\d+)\.jsonl")
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class History:
    """The records of a run.

    Attributes:
        records: of all ranks, by time. Each is a line of a file: ``event``, ``time`` and the event's fields, and the
            ``rank`` whose file it is from as ``recorded_by``. Fields that are missing were None. NaN and infinities are
            numbers again. A step that is left of several in a long history says in ``stands_for`` of how many.
        damaged_lines: how many lines were no records, such as the last one of a process that was killed.
        files: where they are from.
    """

    records: tuple[Mapping[str, Any], ...]
    damaged_lines: int
    files: tuple[Path, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those that wrote."""
        return tuple(sorted({record["recorded_by"] for record in self.records}))

    def of(self, *events: str, rank: int | None = None) -> list[Mapping[str, Any]]:
        """The records of these classes of events, by name; of one rank if it is given."""
        return [
            record
            for record in self.records
            if record["event"] in events and (rank is None or record["recorded_by"] == rank)
        ]

    def steps(self, rank: int = 0) -> list[Mapping[str, Any]]:
        """The ``StepCompleted`` of a rank, one for each step, in order.

        A run that goes on from a checkpoint takes steps again that it had taken; the last ones count.
        """
        found: list[Mapping[str, Any]] = []
        for record in self.of("RunStarted", "StepCompleted", rank=rank):
            undone = record["start_step"] + 1 if record["event"] == "RunStarted" else record["step"]
            # A new attempt begins after start_step; a step that comes twice is the later one.
            while found and found[-1]["step"] >= undone:
                del found[-1]
            if record["event"] == "StepCompleted":
                found.append(record)
        return found


def read_history(path: str | os.PathLike[str]) -> History:
    """Reads a run directory with the files of its ranks, or one file. It may be written at the same time.

    All records are kept: about 4 KB for each step of a rank. :func:`iterate_history` keeps none.

    Raises:
        ParameterValidationError: there is no history.
    """
    of_ranks: dict[int, list[Mapping[str, Any]]] = {}
    damaged = 0
    for rank, record in iterate_history(path):
        if record is None:
            damaged += 1
        else:
            of_ranks.setdefault(rank, []).append({**record, "recorded_by": rank})
    # A rank's own order holds, even if its clock was set back.
    records = tuple(heapq.merge(*of_ranks.values(), key=lambda record: float(record["time"])))
    return History(records, damaged, tuple(file for _, file in _files(path)))


def iterate_history(path: str | os.PathLike[str]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """The records of a run one after the other, rank after rank, each with its rank; None for a damaged line.

    Raises:
        ParameterValidationError: there is no history.
    """
    for rank, file in _files(path):
        for record in _lines(file):
            yield rank, record


def _files(path: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """By rank."""
    given = Path(path)
    found = [(_FILE.fullmatch(file.name), file) for file in (given.iterdir() if given.is_dir() else [given])]
    files = [(int(name[1]) if name else 0, file) for name, file in found if name or file == given]
    if not files or not all(file.is_file() for _, file in files):
        msg = f"{given} has no history of a run: expected a folder with history-rank0.jsonl, or such a file"
        raise ParameterValidationError(msg)
    return sorted(files)


def _lines(file: Path) -> Iterator[dict[str, Any] | None]:
    """The records of a file; None for a line that is none."""
    with file.open("rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                record = json.loads(line, parse_constant=_refuse)
            except ValueError:
                yield None
                continue
            is_record = isinstance(record, dict) and isinstance(record.get("event"), str)
            if is_record and isinstance(record.get("time"), int | float):
                yield {name: _number(value) for name, value in record.items()}
            else:
                yield None


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(item) for name, item in value.items()}
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _refuse(constant: str) -> None:
    msg = f"{constant} is not JSON"
    raise ValueError(msg)
