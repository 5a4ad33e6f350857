"""What a certificate says, measured: the updates that follow in the source and in the target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics.convert._layouts import Layout
from gaudi3_rt.numerics.convert._records import MOMENTS, OptimizerState, Request, class_of
from gaudi3_rt.numerics.convert._sample import cut_state, gradient_size, numel, sample

_SIZE = 0.02
"""Largest magnitude of synthetic parameters: that of a layer with a few thousand inputs."""

_MOVES = 16
"""They are no larger than this many of their first updates, so that a rounding of theirs is small beside an update."""

ROUNDING = 4 * _MOVES * torch.finfo(torch.float32).eps
"""A relative update error up to this is called rounding. One rounding of a parameter is at most ``_MOVES`` distances of
two numbers, and both sides have one in each update."""


@dataclass(frozen=True)
class Measured:
    """Figures of a certificate, by its names."""

    parameters: tuple[int, int]
    elements: tuple[int, int]
    state_equal: bool
    ulp: Mapping[str, float]
    update_error: Mapping[int, float]
    rounding: float = ROUNDING


@dataclass(frozen=True)
class Side:
    """A ``state_dict`` to go on from: source or target.

    Attributes:
        layout: that it has.
        state_dict: its tensors may be ``Values``.
        request: how to read it.
    """

    layout: Layout
    state_dict: Mapping[str, Any]
    request: Request


def measure(state: OptimizerState, source: Side, target: Side, steps: int) -> Measured:
    """Compares both sides.

    Args:
        state: as it was read from the source, in the order of the target: a parameter's key is that of the source, its
            position that of the target.
        source: where it came from.
        target: what was written.
        steps: updates to compare.

    Raises:
        DataValidationError: moments are not finite.
    """
    numbered = [(position, param) for position, param in enumerate(state.params()) if param.moments]
    if not numbered:
        return Measured((0, 0), (0, 0), state_equal=True, ulp={}, update_error={})
    counts = sample([param for _, param in numbered], source.state_dict)
    chosen = [(position, param) for position, param in numbered if param.key in counts]
    keys = {position: param.key for position, param in chosen}
    sizes = {}
    for _, param in chosen:
        count = counts[param.key]
        shape = (param.shape or ()) if count is None else (count,)
        sizes[param.key] = gradient_size(state, param, math.prod(shape)).view(shape)

    def gradients(step: int) -> dict[Any, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return {key: size * torch.randn(size.shape, generator=generator) for key, size in sizes.items()}

    one = _Run(source, counts, {key: key for key in counts}, gradients)
    two = _Run(target, {position: counts[key] for position, key in keys.items()}, keys, gradients)
    starts = _starts(one, sizes)
    return Measured(
        (len(numbered), sum(1 for count in counts.values() if count != 0)),
        (sum(numel(param) for _, param in numbered), sum(size.numel() for size in sizes.values())),
        *_compare(one.states(starts, steps), two.states(starts, steps), MOMENTS[state.algorithm]),
    )


def _starts(run: _Run, like: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Synthetic parameters, as small as their first updates want them."""
    generator = torch.Generator().manual_seed(0)
    starts = {key: _SIZE * (2 * torch.rand(one.shape, generator=generator) - 1) for key, one in like.items()}
    *_, after = run.states(starts, 1)
    for key, start in starts.items():
        move = float((after.params[key].double() - start.double()).square().mean().sqrt()) if start.numel() else 0.0
        if move:
            start.mul_(min(1.0, _MOVES * move / _SIZE))
    return starts


def _compare(
    ones: Iterator[_State], twos: Iterator[_State], moments: Sequence[str]
) -> tuple[bool, dict[str, float], dict[int, float]]:
    """Whether the states are equal to begin with, ulps by name, and relative errors after the first and last update."""
    largest: dict[tuple[Any, str], Tensor] = {}
    errors: dict[int, float] = {}
    state_equal = True
    before: Mapping[Any, Tensor] = {}
    ways: dict[Any, float] = {}
    pairs: dict[tuple[Any, str], tuple[Tensor, Tensor]] = {}
    for count, (one, two) in enumerate(zip(ones, twos, strict=True)):
        pairs = {
            (key, name): (mine, theirs)
            for key, name in itertools.product(one.params, ("parameter", *moments))
            if (mine := one.values(key, name)) is not None and (theirs := two.values(key, name)) is not None
        }
        for where, (mine, theirs) in pairs.items():
            seen = torch.maximum(mine.float().abs(), theirs.float().abs())
            largest[where] = torch.maximum(seen, largest[where]) if where in largest else seen
        if count == 0:
            state_equal = _equal(one, two)
        else:
            ways = {key: ways.get(key, 0.0) + _distance(param, before[key]) for key, param in one.params.items()}
            errors[count] = max(_ratio(_distance(one.params[key], two.params[key]), way) for key, way in ways.items())
        before = one.params
    ulps: dict[str, float] = {}
    for (key, name), (mine, theirs) in pairs.items():
        ulps[name] = max(ulps.get(name, 0.0), _ulps(mine, theirs, largest[key, name]))
    return state_equal, ulps, {count: errors[count] for count in errors if count in {1, len(errors)}}


# Running one side


@dataclass(frozen=True)
class _State:
    params: Mapping[Any, Tensor]
    moments: Mapping[Any, tuple[int, Mapping[str, Tensor]]]

    def values(self, key: Any, name: str) -> Tensor | None:
        return self.params[key] if name == "parameter" else self.moments[key][1].get(name)


@dataclass(frozen=True)
class _Run:
    """One side, cut.

    Attributes:
        side: what goes on.
        counts: how many elements of which parameters, by the key that they have there.
        names: by the same key, what a parameter is called on both sides.
        gradients: of each step, by that name.
    """

    side: Side
    counts: Mapping[Any, int | None]
    names: Mapping[Any, Any]
    gradients: Callable[[int], Mapping[Any, Tensor]]

    def states(self, starts: Mapping[Any, Tensor], steps: int) -> Iterator[_State]:
        """Before the first update and after each; it is saved and loaded in between."""
        layout, request = self.side.layout, self.side.request
        state_dict: Mapping[str, Any] = cut_state(self.side.state_dict, self.counts)
        names = [self.names[key] for group in state_dict["param_groups"] for key in group["params"]]
        params = [starts[name].clone() for name in names]
        optimizer = class_of(layout.read(state_dict, request))
        after = replace(request, optimizer=optimizer, step=None)
        for count in range(steps + 1):
            if count:
                by_name = self.gradients(count)
                state_dict = {**state_dict, "state": _float32(state_dict["state"])} if count == 1 else state_dict
                state_dict = layout.continued(state_dict, params, [[by_name[name] for name in names]], optimizer)
            read = layout.read(state_dict, after if count else request).params()
            yield _State(
                dict(zip(names, (param.clone() for param in params), strict=True)),
                {
                    # Copied: what goes on writes into moments that exist.
                    name: (param.step, {key: values.make().clone() for key, values in param.moments.items()})
                    for name, param in zip(names, read, strict=True)
                },
            )


def _float32(value: Any) -> Any:
    """With moments of other dtypes in float32, so that what differs is not how each library rounds them."""
    if isinstance(value, Mapping):
        return {key: _float32(item) for key, item in value.items()}
    plain = type(value) is Tensor and value.dtype in {torch.bfloat16, torch.float16, torch.float64}
    return value.float() if plain else value


# Comparing


def _equal(one: _State, two: _State) -> bool:
    """Counts, moments and their dtypes."""
    for key in one.params:
        (step, moments), (other_step, others) = one.moments[key], two.moments[key]
        if step != other_step or moments.keys() != others.keys():
            return False
        if any(moments[n].dtype is not others[n].dtype or not torch.equal(moments[n], others[n]) for n in moments):
            return False
    return True


def _distance(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two.double()).norm())


def _ratio(error: float, way: float) -> float:
    return error / way if way else (math.inf if error else 0.0)


def _ulps(one: Tensor, two: Tensor, largest: Tensor) -> float:
    """The largest difference, in units in the last place, float32, of the largest magnitude of each element."""
    if not largest.numel():
        return 0.0
    info = torch.finfo(torch.float32)
    _, exponent = torch.frexp(largest.clamp(min=info.tiny))
    unit = torch.ldexp(torch.full_like(largest, info.eps, dtype=torch.float64), exponent - 1)
    return float(((one.double() - two.double()).abs() / unit).max())
