"""Writing an audit log: one record at a time, on disk before the call returns, by any number of processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from typing_extensions import Self

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._redact import redact, redact_text
from gaudi3_rt.audit._chain import TORN, BrokenChainError, Link, decode, encode, follow, torn_fields
from gaudi3_rt.errors import DataValidationError, InsufficientStorageError

_log = logging.getLogger(__name__)
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o600
_TAIL = 1 << 16  # bytes that are verified when a file is opened, at least


class AuditLog:
    """An append-only file of records, each with the hash of the one before. Also a context manager.

    Threads, forked children and other processes may write the same file: each record is written under a lock, after
    what others have written since was verified. The file is made with mode 0600 if it is missing; of one that exists,
    the end is verified. A last line whose writing was cut off by a crash stays as it is: a record ``audit.torn_line``
    with the length and hash of what is there ends it, and the chain goes on from the record before.

    A signal handler that comes while its own thread writes a record cannot write one: set a flag there, and write it
    outside of the handler.

    Args:
        path: of the file. Its folder has to exist.
        actor: who acts, if a record does not say; the user that this process runs as, if left out.
        clock: seconds since the epoch.

    Raises:
        DataValidationError: the end of the file is not what was written.
        OSError: the file cannot be opened, or is a symbolic link.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, actor: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path).absolute()
        self.actor = actor or _user()
        self._clock = clock
        self._after_fork()
        reset_in_children(self)
        self._link = Link()
        self._end: tuple[int, int] | None = None  # inode and length at the last look
        with self._locked() as descriptor:
            self._catch_up(descriptor)

    def _after_fork(self) -> None:
        """Also at the start. What a parent's thread was writing, the child finds in the file."""
        self._lock = threading.RLock()
        self._is_held = False

    def append(self, event: str, /, *, actor: str | None = None, **fields: Any) -> str:
        """Writes a record and waits until it is on disk.

        Args:
            event: what was done, e.g. ``"checkpoint.deleted"``.
            actor: who did it; the log's actor if left out.
            **fields: about it; secrets are masked, sizes bounded.

        Returns:
            The record's hash, which is the head of the chain now.

        Raises:
            DataValidationError: the file is not what was written, or was cut off.
            InsufficientStorageError: the file system is full; what was written of the record is a torn line.
            OSError: it cannot be written for another reason.
            RuntimeError: a signal handler interrupted a call of this log in the same thread.
        """
        content = (redact_text(actor or self.actor), redact_text(event), redact(fields))
        with self._locked() as descriptor:
            self._catch_up(descriptor)
            self._write(descriptor, *content)
            return self._link.head

    def head(self) -> str:
        """Hash of the last record, with what others have written by now: keep it where the file's writers cannot.

        Raises:
            DataValidationError: the file is not what was written, or was cut off.
            RuntimeError: as for :meth:`append`.
        """
        with self._locked() as descriptor:
            self._catch_up(descriptor)
            return self._link.head

    def close(self) -> None:
        """Nothing is open between records; for symmetry with files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, newly opened and locked; a child forked meanwhile has it, too, so closing does not unlock it."""
        with self._lock:
            if self._is_held:  # only by this thread: waiting for the lock of the file would never end
                message = f"audit log {self.path} is being written by what this signal handler interrupted; set a flag"
                raise RuntimeError(message)
            is_first = self._end is None  # later a file that is missing is not made again
            descriptor = os.open(self.path, _FLAGS | (os.O_CREAT if is_first else 0), _MODE)
            try:
                self._is_held = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_first:
                    _sync_folder(self.path.parent)
                yield descriptor
            finally:
                try:
                    with contextlib.suppress(OSError):
                        fcntl.flock(descriptor, fcntl.LOCK_UN)
                    os.close(descriptor)
                finally:  # also if Ctrl-C comes in between
                    self._is_held = False

    def _catch_up(self, descriptor: int) -> None:
        """Verifies what was written since the last look, and ends a line that is torn."""
        status = os.fstat(descriptor)
        inode, size = status.st_ino, status.st_size
        if self._end == (inode, size):
            return
        if self._end is None:
            link, lines = _tail(descriptor, size)
        elif inode != self._end[0] or size < self._end[1]:
            reason = "it was replaced or cut off since this process looked at it"
            raise self._refused(reason)
        else:
            link, lines = self._link, _read(descriptor, self._end[1], size).split(b"\n")
        rest = lines.pop()
        try:
            for line in lines:
                record, _ = decode(line)
                link = follow(link or Link(record["seq"], record["prev_hash"]), record)
        except BrokenChainError as error:
            reason = f"near its end there is a line that is not what was written: {error}"
            raise self._refused(reason) from error
        self._link, self._end = link or Link(), (inode, size - len(rest))
        if rest:
            _log.warning("audit log %s ends in %d bytes of a torn line; the chain goes on", self.path, len(rest))
            self._write(descriptor, redact_text(self.actor), TORN, torn_fields(rest))

    def _write(self, descriptor: int, actor: str, event: str, fields: dict[str, Any]) -> None:
        when = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="microseconds")
        line, link = encode(self._link, f"{when[:-6]}Z", actor, event, fields)
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                msg = f"audit log {self.path} cannot take a record: {error.strerror}; free space, then append it again"
                raise InsufficientStorageError(msg, context={"path": str(self.path), "event": event}) from error
            raise
        status = os.fstat(descriptor)
        self._link, self._end = link, (status.st_ino, status.st_size)

    def _refused(self, what: str) -> DataValidationError:
        return DataValidationError(
            f"audit log {self.path} takes no records: {what}",
            context={"path": str(self.path)},
            suggestions=[f"gaudi3-rt audit-log verify {self.path}", "keep the file as evidence and begin a new one"],
        )


def _tail(descriptor: int, size: int) -> tuple[Link | None, list[bytes]]:
    """The last lines of a file, and the link that the first of them follows: None if it is not the file's first."""
    length = _TAIL
    while length < size:
        _, end, complete = _read(descriptor, size - length, size).partition(b"\n")
        if end and b"\n" in complete:
            return None, complete.split(b"\n")
        length *= 2
    return Link(), _read(descriptor, 0, size).split(b"\n")


def _read(descriptor: int, begin: int, end: int) -> bytes:
    parts = []
    while begin < end and (part := os.pread(descriptor, end - begin, begin)):
        parts.append(part)
        begin += len(part)
    return b"".join(parts)


def _sync_folder(folder: Path) -> None:
    """So that a new file's name is on disk, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's arbitrary user
        return f"uid {os.getuid()}"
