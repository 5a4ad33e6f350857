"""Sensors of HPUs through the command hl-smi, where HLML cannot be used."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import threading
import time

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Clock, Telemetry
from gaudi3_rt.device._sources import Board, SourceError

COMMAND = "hl-smi"
TIMEOUT = 10.0
"""Seconds; a driver that hangs must not hang its reader."""
LAST = 1.0
"""Seconds for the command to end once it was killed: one that waits inside the driver ends when the driver does."""

FRESH = 0.5
"""Seconds for which a table serves all devices: it has the whole machine, and takes longer than that to print."""

FIELDS = (
    "module_id",
    "index",
    "name",
    "serial",
    "uuid",
    "bus_id",
    "driver_version",
    "temperature.aip",
    "utilization.aip",
    "memory.total",
    "memory.used",
    "power.draw",
    "ecc.errors.corrected.volatile.total",
    "ecc.errors.uncorrected.volatile.total",
    "clocks.current.soc",
)
_SCALES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "mw": 1e-3, "%": 1e-2, "w": 1, "c": 1, "mhz": 1e6, "": 1}
_HEADER = re.compile(r"([a-z_.-]+)\s*(?:\[([^\]]*)\])?", re.IGNORECASE)
_VALUE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z%]*)")

_left_behind: set[subprocess.Popen[str]] = set()
"""Commands of this process that were killed and have not ended: nobody starts another beside them, and the next who
asks waits for them if they have."""


class HlSmi:
    """The command, run without a shell; one run serves all that is asked for within ``FRESH`` seconds.

    Args:
        clock: what time it is.
    """

    def __init__(self, clock: Clock = time) -> None:
        self._clock = clock
        self._answer: tuple[float, dict[int, Row] | SourceError] | None = None
        self._after_fork()
        reset_in_children(self)

    def _after_fork(self) -> None:
        """Also at the start."""
        self._lock = threading.Lock()

    def boards(self) -> list[Board]:
        """All HPUs that the driver shows.

        Raises:
            SourceError: the command is not there, fails, hangs, or prints no table.
        """
        return [
            Board(
                module=module,
                name=row.text("name"),
                serial=row.text("serial"),
                uuid=row.text("uuid"),
                bus_id=row.text("bus_id"),
                driver_version=row.text("driver_version"),
                memory_total=row.whole("memory.total"),
            )
            for module, row in sorted(self._rows().items())
        ]

    def telemetry(self, module: int) -> Telemetry:
        """Readings; None where the table has ``N/A`` or something that cannot be read.

        Raises:
            SourceError: as :meth:`boards`, or the module is not in the table.
        """
        rows = self._rows()
        if module not in rows:
            msg = f"{COMMAND} shows modules {sorted(rows)}, not {module}"
            raise SourceError(msg)
        row = rows[module]
        return Telemetry(
            temperature_celsius=row.number("temperature.aip"),
            power_watts=row.number("power.draw"),
            utilization_ratio=row.number("utilization.aip"),
            memory_used_bytes=row.whole("memory.used"),
            memory_total_bytes=row.whole("memory.total"),
            ecc_corrected=row.whole("ecc.errors.corrected.volatile.total"),
            ecc_uncorrected=row.whole("ecc.errors.uncorrected.volatile.total"),
            clock_hertz=row.number("clocks.current.soc"),
        )

    def close(self) -> None:
        """Nothing is kept."""

    def _rows(self) -> dict[int, Row]:
        """The table, by number of module, or why there was none."""
        with self._lock:
            if self._answer is None or self._clock.monotonic() - self._answer[0] > FRESH:
                try:
                    answer: dict[int, Row] | SourceError = self._run()
                except SourceError as error:
                    answer = error
                self._answer = self._clock.monotonic(), answer
            answer = self._answer[1]
        if isinstance(answer, SourceError):
            raise SourceError(*answer.args) from answer
        return answer

    def _run(self) -> dict[int, Row]:
        """Runs the command, but not beside one that still hangs."""
        for process in list(_left_behind):  # others may look at the same time
            if process.poll() is None:
                msg = f"{COMMAND} (pid {process.pid}) has not answered, and has not ended since it was killed"
                raise SourceError(msg)
            _left_behind.discard(process)
        path = shutil.which(COMMAND)
        if path is None:
            msg = f"{COMMAND} is not on the path"
            raise SourceError(msg)
        try:
            process = subprocess.Popen(  # noqa: S603 (the vendor's command, found on the path)
                [path, "-Q", ",".join(FIELDS), "-f", "csv"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            msg = f"{COMMAND} cannot be run: {error}"
            raise SourceError(msg) from error
        try:
            table, complaint = process.communicate(timeout=TIMEOUT)
        except BaseException as error:
            self._end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            msg = f"{COMMAND} did not answer within {TIMEOUT:g} s"
            raise SourceError(msg) from error
        if process.returncode != 0:
            said = (complaint.strip() or table.strip()).splitlines()
            msg = f"{COMMAND} failed with status {process.returncode}: {said[0] if said else 'it said nothing'}"
            raise SourceError(msg)
        return parse_table(table)

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        """Kills the command, and remembers it if that takes long."""
        process.kill()
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()
        try:
            process.wait(LAST)
        except subprocess.TimeoutExpired:
            _left_behind.add(process)


class Row:
    """One line of the table; values by field."""

    def __init__(self, values: dict[str, tuple[str, str]]) -> None:
        self._values = values

    def text(self, field: str) -> str | None:
        """The value as it is; None where there is none."""
        value, _ = self._values.get(field, ("", ""))
        return None if value.lower() in {"", "n/a", "na", "[n/a]", "[not supported]", "unknown"} else value

    def number(self, field: str) -> float | None:
        """In the base unit: bytes, watts, Celsius, hertz, 0 to 1; the unit is the value's own or the header's."""
        match = _VALUE.fullmatch(self.text(field) or "")
        if match is None:
            return None
        scale = _SCALES.get((match[2] or self._values[field][1]).lower())
        return None if scale is None else float(match[1]) * scale

    def whole(self, field: str) -> int | None:
        """A number of bytes or of events."""
        number = self.number(field)
        return int(number) if number is not None and number.is_integer() else None


def parse_table(text: str) -> dict[int, Row]:
    """Rows by number of module, or by index in a table without modules; the columns may have any order.

    Raises:
        SourceError: there is no header with one of the two.
    """
    try:
        lines = list(csv.reader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:  # a cell of over 131,072 characters; before Python 3.11 a NUL, too
        msg = f"{COMMAND} printed no table: {error}"
        raise SourceError(msg) from error
    for number, header in enumerate(lines, 1):
        names = [_HEADER.fullmatch(cell.strip()) for cell in header]
        columns = [("", "") if match is None else (match[1].lower(), match[2] or "") for match in names]
        if any(name in {"module_id", "index"} for name, _ in columns):
            body = lines[number:]
            break
    else:
        msg = f"{COMMAND} printed no table with module_id or index"
        raise SourceError(msg)
    rows = {}
    for cells in body:
        row = Row({name: (cell.strip(), unit) for (name, unit), cell in zip(columns, cells, strict=False)})
        module = row.whole("module_id")
        module = row.whole("index") if module is None else module
        if module is not None:
            rows[module] = row
    return rows
