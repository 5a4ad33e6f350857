"""Where is the run written down? Every event of this process as a line of JSON, appended to one file a rank."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from gaudi3_rt._json import json_line
from gaudi3_rt._redact import redact_fields
from gaudi3_rt.errors import InsufficientStorageError
from gaudi3_rt.events import Event, StepCompleted
from gaudi3_rt.monitor._thinning import Thinning, copy_path

SYNC_SECONDS = 30.0
"""How much of the history a crash of the machine may cost; a crash of the process costs what is still in its queue,
where a record waits for others for 50 ms."""

_log = logging.getLogger(__name__)


def history_path(run_dir: Path, rank: int) -> Path:
    """The file of a rank."""
    return run_dir / f"history-rank{rank}.jsonl"


class HistoryWriter:
    """A hook for events. Each record is handed to the system as it comes, and to the disk every 30 s and at the end.

    If that fails, because the disk is full for example, a warning is logged once, and each further record is tried.

    A file that has grown beyond the limit is thinned, a small part with each further record; that is said once.

    Args:
        path: is made with its folder if it is missing, and appended to.
        limit: bytes, of which a quarter can be freed if steps are most of the file; None: no limit.
        monotonic: what time it is.

    Raises:
        InsufficientStorageError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, limit: int | None, monotonic: Callable[[], float]) -> None:
        self.path = path
        self.lost = 0
        """Records that could not be written."""
        self._monotonic = monotonic
        self._pid = os.getpid()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            msg = f"the history of the run cannot be written to {path}: {error.strerror}. Choose another run_dir"
            raise InsufficientStorageError(msg, context={"path": str(path)}) from error
        self._size = os.fstat(self._file).st_size
        self._is_torn = self._size > 0 and os.pread(self._file, 1, self._size - 1) != b"\n"
        self._synced = monotonic()
        self._failing = False
        self._limit = limit
        self._thin_at = limit
        self._thinning: Thinning | None = None
        self._has_thinned = False
        copy_path(path.resolve()).unlink(missing_ok=True)

    def __call__(self, event: Event) -> None:
        """Writes a record."""
        if os.getpid() != self._pid:  # a forked child, which is not the rank
            return
        line = encode(event)
        try:
            self._write(b"\n" + line if self._is_torn else line)
            self._sync()
        except OSError as error:
            self.lost += 1
            if not self._failing:
                self._failing = True
                _log.warning(
                    "the history %s cannot be written (%s): training goes on, records are lost until it can be again",
                    self.path,
                    error.strerror,
                )
            return
        if self._failing:
            self._failing = False
            _log.warning("the history %s is written again; %d records are lost", self.path, self.lost)
        if self._thin_at is not None and self._size > self._thin_at:
            self._thin()

    def close(self) -> None:
        """Hands what was written to the disk, and closes the file; neither may hide what ended the run."""
        is_own = os.getpid() == self._pid
        if is_own and self._thinning is not None:
            self._thinning.abandon()
        for end in (os.fsync, os.close) if is_own else (os.close,):
            try:
                end(self._file)
            except OSError as error:  # noqa: PERF203 (two; some file systems say only at the end that they are full)
                _log.warning("the history %s may not be complete on the disk: %s", self.path, error.strerror)

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        self._size += written
        self._is_torn = written < len(line)
        while written < len(line):  # the disk is nearly full, and the next call says why
            more = os.write(self._file, line[written:])
            self._size += more
            written += more
        self._is_torn = False

    def _sync(self) -> None:
        now = self._monotonic()
        if now - self._synced >= SYNC_SECONDS:
            self._synced = now
            os.fsync(self._file)

    def _thin(self) -> None:
        """Makes the file shorter, bit by bit. What cannot be done now is tried again when it has grown further."""
        limit = self._limit or 0
        try:
            if self._thinning is None:
                self._thinning = Thinning(self.path, self._file, limit)
            shorter = self._thinning.advance()
            if shorter is None:
                return
            os.close(self._file)
            self._file, self._size = shorter, os.fstat(shorter).st_size
            if not self._has_thinned:
                _log.info(
                    "the history %s had reached its limit of %d bytes: of its older steps one of %d is kept",
                    self.path,
                    limit,
                    self._thinning.every,
                )
            self._has_thinned = True
        except OSError as error:
            _log.warning("the history %s cannot be made shorter (%s): it grows on", self.path, error.strerror)
            if self._thinning is not None:
                self._thinning.abandon()
        self._thinning = None
        self._thin_at = max(limit, self._size + limit // 4)


def encode(event: Event) -> bytes:
    """The line of an event: its class, its time, and its fields but those that are None; secrets are masked."""
    fields = {name: value for name, value in vars(event).items() if value is not None}
    if not isinstance(event, StepCompleted):  # which has no texts but the names of phases
        fields = redact_fields(fields)
    return f"{json_line({'event': type(event).__name__, **fields})}\n".encode()
