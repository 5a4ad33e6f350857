"""Is an audit log what was written?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gaudi3_rt.audit._chain import GENESIS, LONGEST_LINE, BrokenChainError, Link, decode, follow
from gaudi3_rt.errors import ParameterValidationError


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """What :func:`verify` found.

    Attributes:
        ok: every line is the record that was written there, and the anchored head is among them, if one was given.
        records: how many records were found good, from the beginning.
        head: hash of the last good one, to be anchored.
        first_bad_line: number of the first line that is not what was written, from 1; None if there is none. For a
            head that is missing, the number of the line after the last.
        reason: what is wrong there, in words; None if nothing is.
        torn_lines: numbers of lines that begin with what a crash left, and go on with a record that vouches for it.
    """

    ok: bool
    records: int
    head: str
    first_bad_line: int | None = None
    reason: str | None = None
    torn_lines: tuple[int, ...] = ()


def check_head(head: str) -> str:
    """A hash as :meth:`AuditLog.head` gives it.

    Raises:
        ParameterValidationError: it is none.
    """
    if not re.fullmatch("[0-9a-f]{64}", head):
        msg = f"head {head!r} is not a hash: 64 digits 0-9 and a-f, as AuditLog.head() and verify() give it"
        raise ParameterValidationError(msg)
    return head


def verify(path: str | os.PathLike[str], head: str | None = None) -> VerificationResult:
    """Reads an audit log and finds the first line that was edited, inserted, left out, or moved.

    A file that was cut off at the end is a good shorter one. Only somebody who knows a later head can tell: give
    ``head``, a hash from :meth:`AuditLog.head` that was kept elsewhere. The file may have grown since, and may be
    written meanwhile: what was there at the beginning is read.

    Raises:
        ParameterValidationError: ``head`` is no hash.
        OSError: the file cannot be read.
    """
    anchored = None if head is None else check_head(head)
    with Path(path).open("rb") as file:
        chain = _Chain(anchored)
        bad = chain.read(file, _whole_records(file))
    if bad is None and not chain.has_anchor:
        line = chain.line + 1
        bad = (line, "the anchored head is not in the file: records at the end are missing, or it is another file")
    return VerificationResult(
        ok=bad is None,
        records=chain.link.seq,
        head=chain.link.head,
        first_bad_line=bad[0] if bad else None,
        reason=bad[1] if bad else None,
        torn_lines=tuple(chain.torn),
    )


def _whole_records(file: BinaryIO) -> int:
    """Length of the file in bytes when no record is half written: a writer holds the lock while it is."""
    with contextlib.suppress(OSError):  # a file system without locks has no writers either
        fcntl.flock(file, fcntl.LOCK_SH)
    length = os.fstat(file.fileno()).st_size
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    return length


class _Chain:
    """The records read so far."""

    def __init__(self, anchored: str | None) -> None:
        self.link = Link()
        self.line = 0
        self.torn: list[int] = []
        self.has_anchor = anchored in {None, GENESIS}
        self._anchored = anchored

    def read(self, file: BinaryIO, length: int) -> tuple[int, str] | None:
        """The number of the first bad line in so many bytes, and what is wrong with it."""
        while text := file.readline(min(LONGEST_LINE, length)):
            length -= len(text)
            self.line += 1
            if not text.endswith(b"\n"):
                what = "it is longer than any record" if len(text) == LONGEST_LINE else "it has no end"
                return self.line, f"{what}: a crash while it was written, or an edit"
            try:
                record, is_torn = decode(text[:-1])
                self.link = follow(self.link, record)
            except BrokenChainError as error:
                return self.line, str(error)
            if is_torn:
                self.torn.append(self.line)
            self.has_anchor = self.has_anchor or record["hash"] == self._anchored
        return None
