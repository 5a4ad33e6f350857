"""Where entries go: a stream or a file of this rank. When they cannot be written, that is said once and counted."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gaudi3_rt.errors import InvalidConfigurationError

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # takes a type only from Python 3.11 on


class StreamSink(_StreamHandler):
    """A stream; standard error as it is at each entry if None was given.

    Attributes:
        failed: how many entries could not be written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._given = stream
        self.failed = 0
        super().__init__(stream)

    @property
    def stream(self) -> TextIO:
        """Where the next entry goes."""
        return self._given or sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """What :class:`logging.StreamHandler` sets is what was given."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes an entry; the original asks four times which stream it is."""
        try:
            stream = self.stream
            stream.write(self.format(record) + self.terminator)
            if hasattr(stream, "flush"):
                stream.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 (whatever a stream raises)
            self.handleError(record)

    def is_terminal(self) -> bool:
        """Whether people look at it; a daemon has no standard error at all."""
        return self.stream is not None and self.stream.isatty()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Entries are lost, training is not."""
        del record
        self.failed += 1
        if self.failed == 1:
            _say_once(f"the log's stream {getattr(self.stream, 'name', '')}")


class FileSink(RotatingFileHandler):
    """A file that this process alone writes and rotates, held by a lock.

    A forked child appends to it, follows when its parent rotates it, and does not rotate it.

    Args:
        path: of the file; its folder is made if it is missing.
        max_bytes: the file is rotated when it is as long; 0 for never.
        backup_count: how many old files are kept.

    Attributes:
        failed: how many entries could not be written.

    Raises:
        InvalidConfigurationError: another process writes this file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int, backup_count: int) -> None:
        self.failed = 0
        self._is_closed = False
        self._owner = os.getpid()
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, "a", max_bytes, backup_count, "utf-8", errors="backslashreplace")
        if not self.lock_file():
            self.close()
            msg = f"log file {path} is written by another process; give each process a file of its own"
            raise InvalidConfigurationError(msg, context={"file": str(path)})

    def emit(self, record: logging.LogRecord) -> None:
        """Writes an entry; one of a thread that comes as the file is closed would open it again, for ever."""
        if not self._is_closed:
            super().emit(record)

    def lock_file(self) -> bool:
        """Holds the file; False if another process does. Where the file system has no locks, nobody can."""
        return self._flock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock_file(self) -> None:
        """Lets another handler hold it."""
        self._flock(fcntl.LOCK_UN)

    def _flock(self, operation: int) -> bool:
        try:
            if self.stream is not None:
                fcntl.flock(self.stream, operation)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 (logging's name)
        """By the file's length alone: the original formats every entry twice."""
        del record
        if self.stream is None:  # the last rotation failed
            self.stream = self._open()
            self.lock_file()
        status = os.fstat(self.stream.fileno())
        if os.getpid() != self._owner:
            self._follow(self.stream, status)
            return False
        return 0 < self.maxBytes <= status.st_size

    def doRollover(self) -> None:  # noqa: N802 (logging's name)
        """Rotates, and holds the new file."""
        super().doRollover()
        self.lock_file()

    def _follow(self, stream: TextIO, status: os.stat_result) -> None:
        """In a forked child: the file of that name, if its parent has rotated the old one away."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.baseFilename).st_ino != status.st_ino:  # noqa: PTH116 (as logging names it)
                stream.close()
                self.stream = self._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Entries are lost, training is not."""
        del record
        self.failed += 1
        if self.failed == 1:
            _say_once(f"log file {self.baseFilename}")

    def close(self) -> None:
        """Closes the file; what cannot be written any more is lost."""
        self._is_closed = True
        try:
            super().close()
        except OSError:
            self.failed += 1


def _say_once(what: str) -> None:
    """To standard error, if there is one, and no further."""
    error = sys.exc_info()[1]
    with contextlib.suppress(Exception):
        sys.stderr.write(f"gaudi3_rt: {what} takes no entries ({error}); training goes on, later losses are counted\n")


def file_of_rank(path: Path, rank: int) -> Path:
    """``train.log`` -> ``train.rank3.log``."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
