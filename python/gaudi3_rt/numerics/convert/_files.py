"""Files of states: read without executing anything, converted one tensor at a time, replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from gaudi3_rt.errors import (
    CheckpointError,
    DataValidationError,
    InsufficientStorageError,
    ParameterValidationError,
)
from gaudi3_rt.numerics.convert import _zero
from gaudi3_rt.numerics.convert._certificate import Certificate
from gaudi3_rt.numerics.convert._convert import Options, filled, plan
from gaudi3_rt.numerics.convert._documents import find, get, put
from gaudi3_rt.numerics.convert._loading import load, one_line
from gaudi3_rt.numerics.convert._records import Values

_ALIGNMENT = 64
_BESIDE = 2**20
"""Bytes that a file has besides its tensors, generously."""


def convert_file(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    options: Options,
    *,
    key: str | None = None,
    overwrite: bool = False,
) -> tuple[tuple[Path, ...], Certificate]:
    """Converts the state of an optimizer in a file, or in one file for each rank.

    Files are mapped and not loaded; what changes is converted one tensor at a time, in a scratch file beside the
    target. The target is written beside its place and moved there when it is complete. What else is in a single file
    is kept; of several files, or into several, only the optimizer's state is. A file goes without its certificate: a
    conversion that does not reproduce is written with ``allow_lossy`` only.

    Args:
        source: made by ``torch.save``; several for the ranks, in order.
        target: the file to write; of several shards, ``out.pt`` becomes ``out-00000-of-00004.pt``.
        options: what to convert to, and how.
        key: where in the file the state is, e.g. ``optimizer`` or ``optimizer_states.0``; looked for when not given.
        overwrite: replace a target that exists.

    Returns:
        What was written, and the certificate.

    Raises:
        CheckpointNotFoundError: there is no such source.
        CheckpointCorruptError: it is no file of ``torch.save``, or cut off.
        DataValidationError: it would execute something, holds no state of an optimizer or several, or as for
            ``convert_state``; or the target would not go on as the source, and ``allow_lossy`` is false.
        ParameterValidationError: the target is one of the sources, or exists.
        InsufficientStorageError: the target's file system is too full.
        CheckpointError: the target cannot be written.
    """
    sources = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    targets = _targets(Path(target), options.shards)
    for path in targets:
        _check_target(path, sources, overwrite=overwrite)
    documents = [load(path) for path in sources]
    places = [find(document, key, path) for document, path in zip(documents, sources, strict=True)]
    states = [get(document, place) for document, place in zip(documents, places, strict=True)]
    planned, certificate = plan(states, options)
    _refuse_difference(certificate, options)
    notes = tuple(
        f"the state was found at {'.'.join(map(str, place))}" for place in places[:1] if place and key is None
    )
    alone = len(sources) == len(targets) == 1 and not _zero.is_rank(states[0])
    if not alone and any(places):
        notes += ("only the state of the optimizer was written, not what else the files have",)
    need = sum(_sizes(one) for one in planned) + (_size_of(documents[0]) - _size_of(states[0]) if alone else 0)
    folder = targets[0].parent
    _check_space(folder, need)
    with ExitStack() as stack:
        scratch = stack.enter_context(Scratch(folder))
        made = [filled(one, scratch.reserve) for one in planned]
        complete = [filled(one, lambda values: values.make()) for one in made]
        waiting = [
            stack.enter_context(_beside(path, put(documents[0], places[0], one) if alone else one))
            for path, one in zip(targets, complete, strict=True)
        ]
        for temporary, path in zip(waiting, targets, strict=True):
            temporary.replace(path)
        _sync_folder(folder)
    return targets, replace(certificate, notes=certificate.notes + notes)


def _refuse_difference(certificate: Certificate, options: Options) -> None:
    if not certificate.reproduces and not options.allow_lossy:
        message = (
            f"{certificate.target} would not go on as {certificate.source} does: {'; '.join(certificate.shortfall)}; "
            f"nothing was written"
        )
        consent = "Give allow_lossy=True (--allow-lossy) to convert all the same, with the whole certificate"
        raise DataValidationError(message, suggestions=(consent,))


def names_in(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a file with the state of a model; of ``model`` or ``state_dict`` in it.

    Raises:
        DataValidationError: there are none.
    """
    document = load(Path(path))
    for inside in (document, *(document.get(key) for key in ("model", "state_dict", "module"))):
        if isinstance(inside, Mapping):
            found = {str(k): tuple(v.shape) for k, v in inside.items() if isinstance(v, Tensor)}
            if found:
                return found
    message = f"{path} has no tensors by name, neither at its top nor in model, state_dict or module"
    raise DataValidationError(message)


# Writing


class Scratch:
    """Tensors that are made, written to a file without a name, and mapped from there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._mapped: Any = None

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile(dir=self._folder)  # closed in __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def reserve(self, values: Values) -> Any:
        """A tensor that exists already as it is; one that has to be made is made, written, and forgotten."""
        if values.is_held:
            return values.make()
        tensor = values.make().contiguous()
        if not tensor.numel():
            return tensor
        file = self._opened()
        start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        with _storage_errors(self._folder):
            file.seek(start)
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            file.flush()
        stop = file.tell()
        shape, dtype = tuple(tensor.shape), tensor.dtype
        return Values(shape, dtype, lambda: self._from(start, stop).view(dtype).reshape(shape))

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            message = "the scratch file is open inside a with block only"
            raise RuntimeError(message)
        return self._file

    def _from(self, start: int, stop: int) -> Tensor:
        if self._mapped is None:
            self._mapped = np.memmap(self._opened(), dtype=np.uint8, mode="c")
        return torch.from_numpy(self._mapped[start:stop])


@contextmanager
def _beside(path: Path, document: Any) -> Iterator[Path]:
    """A complete file in the folder of its place; it is gone afterwards, if it was not moved."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _storage_errors(path.parent):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                torch.save(document, file)
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        if not isinstance(cause, Exception):
            raise cause from None
        full = isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}
        kind = InsufficientStorageError if full else CheckpointError
        message = f"{folder} {'is full' if full else 'cannot be written to'}: {one_line(cause)}; nothing was replaced"
        raise kind(message) from error


def _cause(error: BaseException) -> BaseException:
    """What ended a write: torch closes its archive after that, which fails again and says nothing of it."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error


def _targets(target: Path, shards: int | None) -> tuple[Path, ...]:
    real = Path(os.path.realpath(target))  # a link stays a link: what it points to is replaced
    if shards is None:
        return (real,)
    return tuple(real.with_name(f"{real.stem}-{n:05d}-of-{shards:05d}{real.suffix}") for n in range(shards))


def _check_target(path: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    if any(path.exists() and source.exists() and path.samefile(source) for source in sources):
        message = f"{path} is the source, which is never written to; give another target"
        raise ParameterValidationError(message, suggestions=("Give another target",))
    if path.is_dir() or not path.parent.is_dir():
        message = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder that exists"
        raise ParameterValidationError(message)
    if path.exists() and not overwrite:
        message = f"{path} exists"
        raise ParameterValidationError(message, suggestions=("Give another target, or overwrite=True (--overwrite)",))


def _sizes(planned: Any) -> int:
    """Bytes of the tensors to write, and of those in the scratch file."""
    total = 0

    def add(values: Values) -> None:
        nonlocal total
        total += values.numel * values.dtype.itemsize * (1 if values.is_held else 2)

    filled(planned, add)
    return total + _BESIDE


def _size_of(document: Any) -> int:
    """Bytes of all tensors in it."""
    if isinstance(document, Tensor):
        return document.numel() * document.element_size()
    inside = (
        document.values() if isinstance(document, Mapping) else document if isinstance(document, list | tuple) else ()
    )
    return sum(map(_size_of, inside))


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        message = f"{folder} has {free:,} bytes free; {need:,} are needed, the scratch file among them"
        raise InsufficientStorageError(message, context={"free_bytes": free, "needed_bytes": need})


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
