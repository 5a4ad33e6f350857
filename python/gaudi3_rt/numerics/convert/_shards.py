"""States of ranks: joined from N, split into M, by rows of each parameter or by elements of a whole group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert._names import Named
from gaudi3_rt.numerics.convert._records import Group, OptimizerState, Parameter
from gaudi3_rt.numerics.convert._values import Values, concatenated

Sharding = Literal["rows", "flat"]
"""``rows``: each parameter along its first dimension, as ``torch.chunk`` cuts it (FSDP2, ``Shard(0)``); tensors without
dimensions are whole on each rank. ``flat``: the parameters of a group one after another, cut into equal numbers of
elements, the last ones shorter (ZeRO 1 and 2); each rank has one flat parameter for a group."""


def split(state: OptimizerState, ranks: int, sharding: Sharding) -> list[OptimizerState]:
    """One state for each rank.

    Raises:
        DataValidationError: flat, and parameters of one group have different counts, dtypes or no moments.
    """
    cut = _cut_rows if sharding == "rows" else _cut_flat
    return [
        replace(state, groups=tuple(cut(group, number, rank, ranks) for number, group in enumerate(state.groups)))
        for rank in range(ranks)
    ]


def join(
    states: Sequence[OptimizerState], sharding: Sharding, named: tuple[tuple[Named, ...], ...] | None
) -> OptimizerState:
    """The whole state.

    Args:
        states: of all ranks, in order.
        sharding: how they were cut.
        named: shapes of the parameters by group; flat shards need them.

    Raises:
        DataValidationError: ranks differ in what they should share, or their parts do not fit together.
    """
    first = states[0]
    for rank, state in enumerate(states[1:], 1):
        _check_alike(first, state, rank)
    groups = []
    for number, parts in enumerate(zip(*(state.groups for state in states), strict=True)):
        if sharding == "rows":
            params = tuple(_joined_rows(pieces) for pieces in zip(*(part.params for part in parts), strict=True))
        else:
            params = _joined_flat(number, [part.params for part in parts], named)
        groups.append(replace(parts[0], params=params))
    return replace(first, groups=tuple(groups))


def _check_alike(first: OptimizerState, other: OptimizerState, rank: int) -> None:
    if [len(group.params) for group in first.groups] != [len(group.params) for group in other.groups]:
        message = f"rank {rank} has other groups or another number of parameters than rank 0"
        raise DataValidationError(message)
    for number, (one, two) in enumerate(zip(first.groups, other.groups, strict=True)):
        for key in one.options.keys() | two.options.keys():
            if one.options.get(key) != two.options.get(key):
                values = one.options.get(key), two.options.get(key)
                message = f"{key} of group {number} is {values[0]!r} on rank 0 and {values[1]!r} on rank {rank}"
                raise DataValidationError(message)
        for mine, theirs in zip(one.params, two.params, strict=True):
            if (mine.step, _kinds(mine)) != (theirs.step, _kinds(theirs)):
                message = (
                    f"{mine} has seen {mine.step} updates on rank 0 and {theirs.step} on rank {rank}; its moments are "
                    f"{_shown(mine)} and {_shown(theirs)}"
                )
                raise DataValidationError(message, suggestions=("Give the files of one checkpoint, one of each rank",))


# By rows


def rows_of(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first row of a rank and the one after its last: equal parts, rounded up, until nothing is left."""
    part = -(-rows // ranks)
    return min(rank * part, rows), min((rank + 1) * part, rows)


def _cut_rows(group: Group, _: int, rank: int, ranks: int) -> Group:
    def cut(values: Values) -> Values:
        if not values.shape:
            return values
        start, stop = rows_of(values.shape[0], rank, ranks)
        return values.window(start * math.prod(values.shape[1:]), (stop - start, *values.shape[1:]))

    params = [replace(p, moments={name: cut(v) for name, v in p.moments.items()}) for p in group.params]
    return replace(group, params=tuple(params))


def _joined_rows(pieces: Sequence[Parameter]) -> Parameter:
    moments = {}
    for name in pieces[0].moments:
        parts = [piece.moments[name] for piece in pieces]
        if len({(part.shape[1:], len(part.shape)) for part in parts}) > 1:
            message = (
                f"{name} of {pieces[0]} has shapes {[part.shape for part in parts]}; only the first number may differ"
            )
            raise DataValidationError(message)
        moments[name] = _stack(parts, f"{name} of {pieces[0]}")
    return replace(pieces[0], moments=moments)


def _stack(parts: Sequence[Values], what: str) -> Values:
    if parts[0].shape:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return concatenated(parts, shape)
    values = [part.make() for part in parts]
    if any(not torch.equal(value, values[0]) for value in values):
        message = f"{what} has no dimension to be cut along, and is not the same on all ranks"
        raise DataValidationError(message)
    return parts[0]


# Flat


def _cut_flat(group: Group, number: int, rank: int, ranks: int) -> Group:
    if not group.params:
        return group
    first = group.params[0]
    if any((p.step, _kinds(p)) != (first.step, _kinds(first)) or not p.moments for p in group.params):
        message = (
            f"the parameters of group {number} have different step counts, moments or dtypes, or none yet; a flat "
            "shard has one of each for the group"
        )
        raise DataValidationError(message, suggestions=("Give sharding='rows'",))
    sizes = [next(iter(param.moments.values())).numel for param in group.params]
    start, stop = rows_of(sum(sizes), rank, ranks)
    moments = {}
    for name in first.moments:
        whole = [param.moments[name] for param in group.params]
        moments[name] = concatenated(whole).window(start, (stop - start,))
    return replace(group, params=(Parameter(key=0, name=None, step=first.step, moments=moments),))


def _kinds(param: Parameter) -> dict[str, torch.dtype]:
    return {name: values.dtype for name, values in param.moments.items()}


def _shown(param: Parameter) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in _kinds(param).items()) or "none"


def _joined_flat(
    number: int, ranks: Sequence[tuple[Parameter, ...]], named: tuple[tuple[Named, ...], ...] | None
) -> tuple[Parameter, ...]:
    if named is None or len(named) <= number or any(shape is None for _, shape in named[number]):
        message = f"flat shards say nothing of the shapes of parameters, and params has none for group {number}"
        raise DataValidationError(message, suggestions=("Give params=, e.g. model.named_parameters(), by group",))
    if any(len(params) != 1 for params in ranks):
        message = f"group {number} has {len(ranks[0])} parameters; a flat shard has one, of one dimension"
        raise DataValidationError(message)
    flat = [params[0] for params in ranks]
    sizes = [math.prod(shape or ()) for _, shape in named[number]]
    for name in flat[0].moments:
        length = sum(piece.moments[name].numel for piece in flat)
        if length < sum(sizes):
            message = f"{name} of group {number} has {length} elements on all ranks together, params has {sum(sizes)}"
            raise DataValidationError(message)
    joined, at = [], 0
    for position, ((own, shape), size) in enumerate(zip(named[number], sizes, strict=True)):
        moments = {}
        for moment in flat[0].moments:
            parts = [piece.moments[moment] for piece in flat]
            moments[moment] = concatenated(parts).window(at, shape or ())
        joined.append(Parameter(key=position, name=own, step=flat[0].step, moments=moments))
        at += size
    return tuple(joined)
