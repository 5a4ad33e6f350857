"""What becomes of a history that grows too long? Of its older steps every second is kept, then every fourth, and so on.

A curve is drawn of hundreds of points, not of millions: so a run of any length is seen from its first step on, and its
newest steps one by one. Files that are cut off at one end, or begun anew, would lose either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_STEP = re.compile(rb'\{"event":"StepCompleted","time":[^,]*,"step":([0-9]+),')
_SAMPLE = b'{"event":"DeviceSampled",'
_ATTEMPT = (b'{"event":"RunStarted",', b'{"event":"RunFinished",')
_SKIPPED = b'"skipped":true'
_STANDS_FOR = re.compile(rb',"stands_for":([0-9]+)\}$')
_STEPS, _SAMPLES = 0, 1
_CHUNK = 1 << 16
_LEVELS = 64


class Thinning:
    """Writes a shorter copy of a history in small parts, and puts it in the place of the history at the end.

    The newest quarter of ``limit`` stays as it is. Of what is older, those steps are kept whose numbers are multiples
    of the least power of two with which it takes up half of ``limit`` at most; each says in ``stands_for`` for how
    many. So all ranks keep the same steps, and a file that is thinned again and again has them evenly. Samples of
    devices are thinned alike, by the number of their interval, but only once they take more of the file than the steps
    that are left. Everything else is kept, also skipped steps and the last one of each attempt.

    Attributes:
        every: of so many steps that are older, one is kept at least.

    Args:
        path: of the history.
        file: it, open for reading. It may be appended to by the same thread.
        limit: bytes.

    Raises:
        OSError: the copy cannot be made.
    """

    def __init__(self, path: Path, file: int, limit: int) -> None:
        self._path = path.resolve()  # of a symbolic link the target is replaced
        self._copy = copy_path(self._path)
        self._old, self._limit = file, limit
        self._new = os.open(self._copy, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._work = self._run()
        self.every = 1

    def advance(self) -> int | None:
        """Does a small part of the work.

        Returns:
            The new file, open for reading and appending, once it is in its place; None before.

        Raises:
            OSError: the copy cannot be written; the history is as it was.
        """
        for _ in self._work:
            return None
        return self._new

    def abandon(self) -> None:
        """Leaves the history as it is."""
        os.close(self._new)
        with contextlib.suppress(OSError):
            self._copy.unlink()

    def _run(self) -> Iterator[None]:
        end = _end_of_line(self._old, os.fstat(self._old).st_size - self._limit // 4)
        sizes = [0] * _LEVELS, [0] * _LEVELS
        for lines in _chunks(self._old, end):
            for line in lines:
                if (place := _place(line)) is not None:
                    kind, level = place
                    sizes[kind][level] += len(line)
            yield
        levels, left = [0, 0], end
        while left > self._limit // 2 and any(map(any, sizes)):
            kind = max(_STEPS, _SAMPLES, key=lambda one: sum(sizes[one]))
            left -= sizes[kind][levels[kind]]
            sizes[kind][levels[kind]] = 0
            levels[kind] += 1
        self.every = 1 << levels[_STEPS]
        kept = _Kept(levels)
        for lines in _chunks(self._old, end):
            _write(self._new, b"".join(kept.of(lines)))
            yield
        _write(self._new, b"".join(kept.held()))
        while block := os.pread(self._old, _CHUNK, end):
            _write(self._new, block)
            end += len(block)
            if len(block) == _CHUNK:  # else nothing may be appended before the copy is in its place
                yield
        os.fsync(self._new)
        self._copy.replace(self._path)
        _sync_folder(self._path.parent)


class _Kept:
    """Which lines are kept: of each kind those whose level is not below its own."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = levels
        self._last = b""  # step that was left out
        self._steps = 0  # for which no line stands so far

    def of(self, lines: list[bytes]) -> Iterator[bytes]:
        for line in lines:
            kind, level = _place(line) or (None, 0)
            if kind is None:
                if line.startswith(_ATTEMPT):
                    yield from self.held()
                yield line
            elif kind == _STEPS:
                found = _STANDS_FOR.search(line)
                self._steps += int(found[1]) if found else 1
                self._last = line
                if level >= self._levels[_STEPS]:
                    yield from self.held()
            elif level >= self._levels[_SAMPLES]:
                yield line

    def held(self) -> Iterator[bytes]:
        """The last step, with how many it stands for."""
        if self._steps > 1:
            yield _STANDS_FOR.sub(b"}", self._last.rstrip())[:-1] + b',"stands_for":%d}\n' % self._steps
        elif self._steps:
            yield self._last
        self._steps = 0


def copy_path(path: Path) -> Path:
    """Where the shorter copy is made; what is there was left by a process that was killed."""
    return path.with_name(f".{path.name}.thinned")


def _place(line: bytes) -> tuple[int, int] | None:
    """Its kind, and the highest level at which it is kept: level n keeps one of 2 to the n. None: it is always kept."""
    number = 0
    kind = _STEPS
    if (step := _STEP.match(line)) and _SKIPPED not in line:
        number = int(step[1])
    elif line.startswith(_SAMPLE):
        kind = _SAMPLES
        with contextlib.suppress(ValueError, KeyError, TypeError, ZeroDivisionError):  # a damaged line
            sample = json.loads(line)
            number = int(sample["time"] / sample["interval_seconds"])
    return (kind, min((number & -number).bit_length(), _LEVELS) - 1) if number > 0 else None


def _chunks(file: int, end: int) -> Iterator[list[bytes]]:
    """The lines before ``end``, which is the end of one, some at a time."""
    position, rest = 0, b""
    while block := os.pread(file, min(_CHUNK, end - position), position):
        position += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield [line + b"\n" for line in lines]


def _end_of_line(file: int, most: int) -> int:
    """The last end of a line that is not beyond ``most``."""
    begin = max(most - _CHUNK, 0)
    return begin + os.pread(file, max(most - begin, 0), begin).rfind(b"\n") + 1


def _sync_folder(folder: Path) -> None:
    """Else a crash of the machine may bring the old file back, without what was appended to the new one."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(file: int, block: bytes) -> None:
    while block:
        block = block[os.write(file, block) :]
