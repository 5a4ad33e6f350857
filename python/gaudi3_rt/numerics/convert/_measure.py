"""What a certificate says, measured: the updates that follow in the source and in the target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert._codes import BLOCK
from gaudi3_rt.numerics.convert._layouts import Layout
from gaudi3_rt.numerics.convert._records import MOMENTS, OptimizerState, Parameter, Request, Values, class_of

SAMPLE = 2**18
"""Elements that are compared: of larger states the first rows of each parameter, about as many of each."""

_SIZE = 0.02
"""Largest magnitude of synthetic parameters: that of a layer with a few thousand inputs."""

_MOVES = 16
"""They are no larger than this many of their first updates, so that a rounding of theirs is small beside an update."""

ROUNDING = 4 * _MOVES * torch.finfo(torch.float32).eps
"""A relative update error up to this is called rounding. One rounding of a parameter is at most ``_MOVES`` distances of
two numbers, and both sides have one in each update."""

_LR = 1e-3
"""Taken on both sides for a learning rate of 0, with which no update would show anything."""

_QUIET = 1e-3
"""Of gradients where the state says nothing of their size."""


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
    total = sum(_numel(param) for _, param in numbered)
    rows = _sample([param for _, param in numbered], source.state_dict, total)
    chosen = [(position, param) for position, param in numbered if param.key in rows]
    looked_at = sum(math.prod(_cut(param.shape or (), rows[param.key])) for _, param in chosen)
    counts = (len(numbered), len(chosen)), (total, looked_at)
    if not chosen:
        return Measured(*counts, state_equal=True, ulp={}, update_error={})
    generator = torch.Generator().manual_seed(0)
    starts, gradients = {}, {}
    for _, param in chosen:
        size = _gradient_size(state, param, rows[param.key])
        shape = _cut(param.shape or (), rows[param.key])
        starts[param.key] = _SIZE * (2 * torch.rand(shape, generator=generator) - 1)
        gradients[param.key] = [size * torch.randn(shape, generator=generator) for _ in range(steps)]
    to_target = {param.key: position for position, param in chosen}
    from_source = _keys_in_order(source.state_dict, to_target.keys())
    from_target = _keys_in_order(target.state_dict, to_target.values())
    back = {position: key for key, position in to_target.items()}
    source_rows = {key: rows[key] for key in from_source}
    target_rows = {position: rows[back[position]] for position in from_target}
    pilot = list(_run(source, source_rows, from_source, starts, gradients, 1))[1]
    for key, start in starts.items():
        move = float((pilot.params[key].double() - start.double()).square().mean().sqrt()) if start.numel() else 0.0
        if move:
            starts[key] = start * min(1.0, _MOVES * move / _SIZE)
    from_back = [back[position] for position in from_target]
    ways: dict[tuple[Any, str], _Way] = {}
    errors: dict[int, float] = {}
    moved = dict.fromkeys(starts, 0.0)
    before: Mapping[Any, Tensor] = starts
    state_equal = True
    both = zip(
        _run(source, source_rows, from_source, starts, gradients, steps),
        _run(target, target_rows, from_back, starts, gradients, steps),
        strict=True,
    )
    for count, (one, two) in enumerate(both):
        for key, name in itertools.product(starts, ("parameter", *MOMENTS[state.algorithm])):
            mine, theirs = one.values(key, name), two.values(key, name)
            if mine is not None and theirs is not None:
                ways.setdefault((key, name), _Way()).add(mine, theirs)
        if count == 0:
            state_equal = _equal(one, two, starts)
        moved = {key: moved[key] + _distance(one.params[key], before[key]) for key in starts}
        before = one.params
        if count in {1, steps}:
            errors[count] = max(_ratio(_distance(one.params[key], two.params[key]), moved[key]) for key in starts)
    names = dict.fromkeys(name for _, name in ways)
    return Measured(
        *counts,
        state_equal=state_equal,
        ulp={name: max(way.ulps() for (_, of), way in ways.items() if of == name) for name in names},
        update_error=errors,
    )


def _numel(param: Parameter) -> int:
    return math.prod(param.shape or ())


def _sample(params: Sequence[Parameter], state_dict: Mapping[str, Any], total: int) -> dict[Any, int | None]:
    """By key, how many rows of a parameter are compared; None for all of them."""
    if total <= SAMPLE:
        return {param.key: None for param in params}
    each = max(SAMPLE // len(params), 1)
    rows: dict[Any, int | None] = {}
    for param in params:
        if _numel(param) <= each:
            rows[param.key] = None
        elif all(_can_be_cut(value) for value in state_dict["state"][param.key].values()):
            rows[param.key] = max(each // math.prod((param.shape or ())[1:]), 1)
    return rows or {min(params, key=_numel).key: None}


def _can_be_cut(value: Any) -> bool:
    """Codes of torchao are in tensors that only it can cut."""
    return not isinstance(getattr(value, "codes", None), Tensor)


def _cut(shape: tuple[int, ...], rows: int | None) -> tuple[int, ...]:
    return shape if rows is None else (rows, *shape[1:])


def _gradient_size(state: OptimizerState, param: Parameter, rows: int | None) -> Tensor:
    """What gradients must have been for the moments to be what they are; 1e-3 where nothing tells."""
    # Copied, so that a moment that was made for this is forgotten before the next is made.
    moments = {
        name: values.make().detach()[slice(rows) if values.shape else ...].to("cpu", copy=True)
        for name, values in param.moments.items()
    }
    if not all(bool(moment.isfinite().all()) for moment in moments.values()):
        message = f"moments of {param} are not finite; an optimizer that goes on from them makes its parameters NaN"
        raise DataValidationError(message, suggestions=("Convert an earlier checkpoint",))
    if state.algorithm == "adam" and not param.step and any(bool(moment.any()) for moment in moments.values()):
        message = f"{param} has moments that are not 0 and a count of 0 updates; its bias correction would start again"
        raise DataValidationError(
            message, suggestions=("Give source=, or step=, the number of updates that were made",)
        )
    name = next(name for name in ("exp_avg_sq", "sum", "exp_avg", "momentum_buffer") if name in moments)
    values = moments[name].double()
    if name == "exp_avg_sq" and state.algorithm == "adam":
        beta2 = next(g.options["betas"][1] for g in state.groups if param in g.params)
        size = (values / (1 - beta2 ** max(param.step, 1))).clamp(min=0).sqrt()
    elif name in {"exp_avg_sq", "sum"}:
        size = (values / max(param.step, 1)).clamp(min=0).sqrt()
    else:
        size = values.abs()
    typical = float(size.square().mean().sqrt()) if size.numel() else 0.0
    return torch.where(size > 0, size, typical or _QUIET).float()


# Running both


def _run(
    side: Side,
    rows: Mapping[Any, int | None],
    names: Sequence[Any],
    starts: Mapping[Any, Tensor],
    gradients: Mapping[Any, Sequence[Tensor]],
    steps: int,
) -> Iterator[_State]:
    """A sample of one side, before its first update and after each; it is saved and loaded in between."""
    params = [starts[name].clone() for name in names]
    state_dict: Mapping[str, Any] = _subset(side.state_dict, rows)
    optimizer = class_of(side.layout.read(state_dict, side.request))
    after = replace(side.request, optimizer=optimizer, step=None)
    for count in range(steps + 1):
        if count:
            step = [gradients[name][count - 1] for name in names]
            state_dict = {**state_dict, "state": _float32(state_dict["state"])} if count == 1 else state_dict
            state_dict = side.layout.continued(state_dict, params, [step], optimizer)
        read = side.layout.read(state_dict, after if count else side.request).params()
        yield _State(
            dict(zip(names, (param.clone() for param in params), strict=True)),
            {
                # Copied: what goes on writes into moments that exist.
                name: (param.step, {key: values.make().clone() for key, values in param.moments.items()})
                for name, param in zip(names, read, strict=True)
            },
        )


@dataclass(frozen=True)
class _State:
    params: Mapping[Any, Tensor]
    moments: Mapping[Any, tuple[int, Mapping[str, Tensor]]]

    def values(self, key: Any, name: str) -> Tensor | None:
        return self.params[key] if name == "parameter" else self.moments[key][1].get(name)


def _keys_in_order(state_dict: Mapping[str, Any], keys: Iterable[Any]) -> list[Any]:
    wanted = set(keys)
    return [key for group in state_dict["param_groups"] for key in group["params"] if key in wanted]


def _subset(state_dict: Mapping[str, Any], rows: Mapping[Any, int | None]) -> dict[str, Any]:
    """Some parameters of a state_dict, or the first rows of them, with tensors of their own."""
    groups = []
    for group in state_dict["param_groups"]:
        keep = [key in rows for key in group["params"]]
        if any(keep):
            names = ("params", "param_names")
            groups.append(
                {
                    key: list(itertools.compress(value, keep)) if key in names else _own(value)
                    for key, value in group.items()
                }
            )
            if groups[-1]["lr"] == 0:
                groups[-1]["lr"] = groups[-1]["lr"] + _LR
    state = {key: _first_rows(state_dict["state"][key], count) for key, count in rows.items()}
    return {"state": state, "param_groups": groups}


def _float32(value: Any) -> Any:
    """With moments of other dtypes in float32, so that what differs is not how each library rounds them."""
    if isinstance(value, Mapping):
        return {key: _float32(item) for key, item in value.items()}
    plain = type(value) is Tensor and value.dtype in {torch.bfloat16, torch.float16, torch.float64}
    return value.float() if plain else value


def _first_rows(entry: Mapping[str, Any], rows: int | None) -> dict[str, Any]:
    """The state of the first rows of a parameter; scales of blocks go by elements, tables and counts stay."""
    if rows is None:
        return {key: _own(value) for key, value in entry.items()}
    shapes = [value.shape for value in _leaves(entry) if isinstance(value, Tensor | Values)]
    shape = max(shapes, key=math.prod)
    elements = rows * math.prod(shape[1:])

    def cut(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(name, inside) for name, inside in value.items()}
        if not isinstance(value, Tensor | Values):
            return value
        tensor = value.make() if isinstance(value, Values) else value
        along_rows = key.endswith("_scales") and tensor.dim() == len(shape) + 1 and len(shape) > 1
        if tuple(tensor.shape) == tuple(shape) or along_rows:
            return _own(tensor[:rows])
        by_block = key.startswith("absmax") or key.endswith("_scales")
        return _own(tensor[: -(-elements // BLOCK) if by_block else None] if tensor.dim() else tensor)

    return {key: cut(key, value) for key, value in entry.items()}


def _leaves(entry: Mapping[str, Any]) -> Iterator[Any]:
    for value in entry.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


def _own(value: Any) -> Any:
    if isinstance(value, Values):
        return _own(value.make())
    if isinstance(value, Mapping):
        return {key: _own(item) for key, item in value.items()}
    return value.detach().to("cpu", copy=True) if type(value) is Tensor else value


# Comparing


def _equal(one: _State, two: _State, keys: Iterable[Any]) -> bool:
    """Counts, moments and their dtypes."""
    for key in keys:
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


class _Way:
    """How far two tensors are apart, in units in the last place, float32, of the largest magnitude of each element."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None
        self._difference = torch.zeros(())

    def add(self, one: Tensor, two: Tensor) -> None:
        """What they are after one more update."""
        seen = torch.maximum(one.double().abs(), two.double().abs())
        self._largest = seen if self._largest is None else torch.maximum(self._largest, seen)
        self._difference = (one.double() - two.double()).abs()

    def ulps(self) -> float:
        """The largest difference after the last update."""
        if self._largest is None or not self._largest.numel():
            return 0.0
        info = torch.finfo(torch.float32)
        _, exponent = torch.frexp(self._largest.clamp(min=info.tiny))
        unit = torch.ldexp(torch.full_like(self._largest, info.eps), exponent - 1)
        return float((self._difference / unit).max())
