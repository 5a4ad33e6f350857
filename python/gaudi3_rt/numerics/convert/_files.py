"""Files of states: read without executing anything, converted one tensor at a time, replaced whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gaudi3_rt.errors import CheckpointError, DataValidationError, InsufficientStorageError, ParameterValidationError
from gaudi3_rt.numerics.convert import _zero
from gaudi3_rt.numerics.convert._certificate import Certificate
from gaudi3_rt.numerics.convert._convert import Options, filled, plan
from gaudi3_rt.numerics.convert._documents import find, get, put
from gaudi3_rt.numerics.convert._loading import load
from gaudi3_rt.numerics.convert._outputs import Kept, Scratch, beside, exists, publish
from gaudi3_rt.numerics.convert._values import Values

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
    _check_ranks(sources)
    before = [_version(path) for path in sources]
    documents = [load(path) for path in sources]
    places = [find(document, key, path) for document, path in zip(documents, sources, strict=True)]
    states = [get(document, place) for document, place in zip(documents, places, strict=True)]
    planned, certificate = plan(states, options)
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
        kept = [filled(one, scratch.keep) for one in planned]
        made = [filled(one, scratch.mapped, Kept) for one in kept]
        complete = [
            stack.enter_context(beside(path, put(documents[0], places[0], one) if alone else one))
            for path, one in zip(targets, made, strict=True)
        ]
        _check_unchanged(sources, before)
        publish(complete, targets, overwrite=overwrite)
    return targets, replace(certificate, notes=certificate.notes + notes)


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


# Before anything is written


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
        raise exists(path)


_RANK = re.compile(r"-(\d{5})-of-(\d{5})$")


def _check_ranks(sources: Sequence[Path]) -> None:
    """Where names number the files of ranks, all are given, in order: one that is not would be missing in the state."""
    found = [_RANK.search(path.stem) for path in sources]
    if len(sources) == 1 or not any(found):
        return
    numbers = [int(one[1]) for one in found if one]
    in_all = {int(one[2]) for one in found if one}
    if in_all != {len(sources)} or numbers != list(range(numbers[0], numbers[0] + len(sources))):
        names = ", ".join(path.name for path in sources)
        message = f"{names} are not the files of all ranks, each once and in order"
        raise DataValidationError(message, suggestions=("Give those of one checkpoint: ... *-of-00004.pt ...",))


def _version(path: Path) -> tuple[int, ...]:
    """What is another after a file was written to or replaced; nothing of one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_unchanged(sources: Sequence[Path], before: Sequence[tuple[int, ...]]) -> None:
    for path, version in zip(sources, before, strict=True):
        if _version(path) != version:
            message = f"{path} was written to or replaced while it was converted; nothing was written"
            raise CheckpointError(message, suggestions=("Convert it when nobody writes it, or a copy of it",))


def _sizes(planned: Any) -> int:
    """Bytes of the tensors to write, and of those in the scratch file."""
    total = 0

    def add(values: Values) -> None:
        nonlocal total
        total += values.numel * values.dtype.itemsize * (2 if values.held is None else 1)

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
