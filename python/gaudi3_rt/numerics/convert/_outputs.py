"""Files of a result: complete before they are seen, all of them or none, and no file that was there is lost."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from gaudi3_rt.errors import CheckpointError, InsufficientStorageError, ParameterValidationError
from gaudi3_rt.numerics.convert._loading import one_line
from gaudi3_rt.numerics.convert._values import Values

_ALIGNMENT = 64
_FULL = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full for this user, whose quota is used up",
    errno.EFBIG: "takes no file as large as this (limit of the process: ulimit -f; or of the file system)",
}
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True)
class Kept:
    """Where in a scratch file a tensor is."""

    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Scratch:
    """Tensors that are made block by block in a file without a name, and mapped from there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._all: Any = None

    def __enter__(self) -> Self:
        with storage_errors(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # closed in __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, values: Values) -> Tensor | Kept:
        """A tensor that exists already as it is; one that has to be made is written."""
        if values.held is not None or not values.numel:
            return values.make()
        file = self._opened()
        start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        file.seek(start)
        for block in values.blocks():
            data = block.cpu().contiguous().view(torch.uint8).numpy().data
            with storage_errors(self._folder):
                file.write(data)
        with storage_errors(self._folder):
            file.flush()
        return Kept(start, file.tell(), values.shape, values.dtype)

    def mapped(self, kept: Kept) -> Tensor:
        """A tensor that was written; after the last one was."""
        if self._all is None:
            self._all = np.memmap(self._opened(), dtype=np.uint8, mode="c")
        return torch.from_numpy(self._all[kept.start : kept.stop]).view(kept.dtype).view(kept.shape)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            message = "the scratch file is open inside a with block only"
            raise RuntimeError(message)
        return self._file


@contextmanager
def beside(path: Path, document: Any) -> Iterator[Path]:
    """A complete file in the folder of its place; it is gone afterwards, if it was not moved."""
    temporary = _hidden(path, "tmp")
    try:
        with storage_errors(path.parent):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                torch.save(document, file)
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(complete: Sequence[Path], targets: Sequence[Path], *, overwrite: bool) -> None:
    """Moves complete files of one folder to their places in it.

    One file is moved at once. Of several, old ones are first moved aside, and back if something fails: at no time are
    old and new ones at these places together, also if the process or the machine stops.

    Raises:
        ParameterValidationError: a target exists, and ``overwrite`` is false.
        CheckpointError: a file cannot be moved; nothing was replaced.
    """
    folder = targets[0].parent
    with storage_errors(folder):
        if len(targets) == 1 and overwrite:
            complete[0].replace(targets[0])
        else:
            _publish_all(complete, targets, overwrite=overwrite)
        sync_folder(folder)


def _publish_all(complete: Sequence[Path], targets: Sequence[Path], *, overwrite: bool) -> None:
    aside: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path in targets:
            if overwrite and path.exists():
                aside[path] = _hidden(path, "old")
                path.replace(aside[path])
        sync_folder(targets[0].parent)
        for temporary, path in zip(complete, targets, strict=True):
            _place(temporary, path)
            placed.append(path)
        sync_folder(targets[0].parent)
    except BaseException:
        for path in placed:
            path.unlink()
        for path, old in aside.items():
            if old.exists():
                old.replace(path)
        raise
    for old in aside.values():
        old.unlink()


def _place(temporary: Path, path: Path) -> None:
    """Never over a file that came there meanwhile, unless the file system has no links and it comes in this instant."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise exists(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise exists(path) from None
        temporary.replace(path)


def exists(path: Path) -> ParameterValidationError:
    """What says that a file is not overwritten."""
    advice = "Give another target, or overwrite=True (--overwrite)"
    return ParameterValidationError(f"{path} exists", suggestions=(advice,))


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Says of what ends a write what it means.

    Raises:
        InsufficientStorageError: the file system is full, or a limit is reached.
        CheckpointError: the folder cannot be written to.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        if not isinstance(cause, Exception):
            raise cause from None
        full = _FULL.get(cause.errno or 0) if isinstance(cause, OSError) else None
        kind = InsufficientStorageError if full else CheckpointError
        message = f"{folder} {full or 'cannot be written to'}: {one_line(cause)}; nothing was replaced"
        raise kind(message) from error


def _cause(error: BaseException) -> BaseException:
    """What ended a write: torch closes its archive after that, which fails again and says nothing of it."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error


def sync_folder(folder: Path) -> None:
    """Makes moves in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
