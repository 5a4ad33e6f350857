"""What a certificate looks at: the first elements of each parameter, and how large their gradients must have been."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import _torchao
from gaudi3_rt.numerics.convert._codes import BLOCK
from gaudi3_rt.numerics.convert._records import OptimizerState, Parameter
from gaudi3_rt.numerics.convert._values import Values

SAMPLE = 2**17
"""Elements that are compared: of larger states the first ones of each parameter, about as many of each."""

_LR = 1e-3
"""Taken on both sides for a learning rate of 0, with which no update would show anything."""

_QUIET = 1e-3
"""Of gradients where the state says nothing of their size."""


def numel(param: Parameter) -> int:
    """How many elements it has."""
    return math.prod(param.shape or ())


def sample(params: Sequence[Parameter], state_dict: Mapping[str, Any]) -> dict[Any, int | None]:
    """By key, how many of its first elements are compared; None for all of them.

    These are whole blocks of codes. If there are not enough for one of each parameter, some parameters have none.
    """
    if sum(map(numel, params)) <= SAMPLE:
        return {param.key: None for param in params}
    each = max(SAMPLE // len(params) // BLOCK, 1) * BLOCK
    share = min(SAMPLE // each / len(params), 1.0)
    found: dict[Any, int | None] = {}
    for number, param in enumerate(params):
        chosen = math.ceil((number + 1) * share) > math.ceil(number * share)
        if chosen and numel(param) <= each:
            found[param.key] = None
        elif _can_be_cut(state_dict["state"][param.key]):
            found[param.key] = each if chosen else 0
    return found if any(count != 0 for count in found.values()) else {min(params, key=numel).key: None}


def _can_be_cut(entry: Mapping[str, Any]) -> bool:
    """Blocks of codes that are not in the order of indices have other elements than the first ones."""
    return all(value.is_contiguous() for key, value in entry.items() if str(key).endswith("_codes"))


def cut_state(state_dict: Mapping[str, Any], counts: Mapping[Any, int | None]) -> dict[str, Any]:
    """Some parameters of a state_dict, or the first elements of them, with tensors of their own."""
    groups = []
    for group in state_dict["param_groups"]:
        keep = [key in counts for key in group["params"]]
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
    state = {key: _cut_entry(state_dict["state"][key], count) for key, count in counts.items()}
    return {"state": state, "param_groups": groups}


def _cut_entry(entry: Mapping[str, Any], count: int | None) -> dict[str, Any]:
    """The first elements, in one dimension; as many scales as they have blocks; tables and counts stay."""
    if count is None:
        return {key: _own(value) for key, value in entry.items()}

    def cut(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(name, inside) for name, inside in value.items()}
        if not isinstance(value, Tensor | Values) or key == "step" or key.startswith("qmap"):
            return _own(value)
        if _torchao.is_coded(value):
            return _torchao.decoded(value).part(0, count)  # only torchao could cut it, and it is decoded once anyway
        blocks = -(-count // BLOCK)
        if isinstance(value, Tensor) and key.endswith("_scales"):
            return _own(value.reshape(-1, value.shape[-1])[:blocks])
        values = value if isinstance(value, Values) else Values.of(value)
        return _own(values.part(0, min(blocks if key.startswith("absmax") else count, values.numel)))

    return {key: cut(str(key), value) for key, value in entry.items()}


def _own(value: Any) -> Any:
    if isinstance(value, Values):
        return _own(value.make())
    if isinstance(value, Mapping):
        return {key: _own(item) for key, item in value.items()}
    return value.detach().to("cpu", copy=True) if type(value) is Tensor else value


def gradient_size(state: OptimizerState, param: Parameter, count: int) -> Tensor:
    """What the first gradients must have been for the moments to be what they are; 1e-3 where nothing tells.

    Raises:
        DataValidationError: moments are not finite, or there are some without a count.
    """
    moments = {name: values.part(0, count).cpu() for name, values in param.moments.items()}
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
