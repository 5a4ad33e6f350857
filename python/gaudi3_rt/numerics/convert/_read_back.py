"""What the target reads back otherwise than the source said it: names, options, counts and kinds of moments.

Updates alone do not show it all: decay beside a small learning rate, or a count of a million, is less than rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gaudi3_rt.numerics.convert._layouts import Layout
from gaudi3_rt.numerics.convert._records import COUNTED, NEUTRAL, OptimizerState, Parameter, Request

_FLOAT32 = 1e-7
"""A learning rate in a tensor is rounded to float32, by half of this at most."""


def changed(
    state: OptimizerState,
    source: Mapping[Any, str | None],
    target: Layout,
    written: Mapping[str, Any],
    request: Request,
) -> tuple[str, ...]:
    """One sentence for each difference, a few at most.

    Args:
        state: as it was read, in the order of the target.
        source: names that the source has for its keys.
        target: layout that was written.
        written: its ``state_dict``.
        request: how to read it.
    """
    back = target.read(written, request)
    if [len(group.params) for group in back.groups] != [len(group.params) for group in state.groups]:
        return ("the target has other groups",)
    found = list(_differences(state, back, source))
    return tuple(found[:_MOST]) + ((f"{len(found) - _MOST} more",) if len(found) > _MOST else ())


_MOST = 5


def _differences(state: OptimizerState, back: OptimizerState, names: Mapping[Any, str | None]) -> Iterator[str]:
    for number, (one, two) in enumerate(zip(state.groups, back.groups, strict=True)):
        for key in NEUTRAL[state.algorithm]:
            mine, theirs = _plain(one.options[key]), _plain(two.options[key])
            matters = key != "decoupled_weight_decay" or one.options["weight_decay"] != 0
            if matters and not _same(mine, theirs):
                yield f"{key} of group {number} was {mine!r} and is {theirs!r}"
        for mine, theirs in zip(one.params, two.params, strict=True):
            yield from _of_parameter(mine, theirs, names, counted=state.algorithm in COUNTED)


def _of_parameter(
    mine: Parameter, theirs: Parameter, names: Mapping[Any, str | None], *, counted: bool
) -> Iterator[str]:
    was = names.get(mine.key)
    if was is not None and theirs.name != was:
        yield f"the state of {was!r} is that of {theirs.name!r}"
    if mine.moments.keys() != theirs.moments.keys():
        yield f"{mine} had {sorted(mine.moments) or 'no moments'} and has {sorted(theirs.moments) or 'none'}"
    if mine.shape != theirs.shape:
        yield f"{mine} had the shape {mine.shape} and has {theirs.shape}"
    if counted and mine.moments and mine.step != theirs.step:
        yield f"the count of {mine} was {mine.step} and is {theirs.step}"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, bool) or isinstance(two, bool) or not isinstance(one, int | float):
        return bool(one == two)
    return isinstance(two, int | float) and math.isclose(one, two, rel_tol=_FLOAT32)
