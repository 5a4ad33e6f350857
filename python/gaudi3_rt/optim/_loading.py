"""Whether a state_dict fits an optimizer; asked before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim._storage import local_tensor, scales_shape
from gaudi3_rt.reduce import all_finite

if TYPE_CHECKING:
    from gaudi3_rt.optim._fused import Fused

# Options that torch gives a default when it loads a checkpoint that is older than they are.
_FILLED_IN_BY_TORCH = {
    "amsgrad",
    "maximize",
    "nesterov",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
}


def pairs(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> list[tuple[Any, Tensor]]:
    """Keys of saved state with the parameters of this optimizer that they stand for, in order."""
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return list(zip(keys, params, strict=True))


def check_loadable(optimizer: Fused, state_dict: Mapping[str, Any]) -> None:
    """Refuses a state_dict that this optimizer could not go on from.

    Raises:
        ValueError: what does not fit, and what would.
    """
    saved = [len(group["params"]) for group in state_dict["param_groups"]]
    own = [len(group["params"]) for group in optimizer.param_groups]
    if saved != own:
        msg = f"the saved groups have {saved} parameters, this optimizer's have {own}; they must match"
        raise ValueError(msg)
    kernel_of = {}
    for group in state_dict["param_groups"]:
        refuse_differentiable(type(optimizer), group)
        absent = sorted(optimizer.defaults.keys() - _FILLED_IN_BY_TORCH - group.keys())
        if absent:
            msg = f"a saved group has no {absent}; was it saved by another class of optimizer?"
            raise ValueError(msg)
        for key in group["params"]:
            kernel_of[key] = optimizer._kernel({**optimizer.defaults, **group})
    for i, (key, param) in enumerate(pairs(optimizer, state_dict)):
        state = state_dict["state"].get(key)
        if state:
            _check_state(optimizer, kernel_of[key], i, state, param)


def _check_state(optimizer: Fused, kernel: str, i: int, state: Mapping[str, Any], param: Tensor) -> None:
    described = _core.describe_kernel(kernel)
    required = optimizer._required_state(kernel)
    complete = {key.removesuffix("_codes") for key, value in state.items() if value is not None}
    if not required <= complete:
        msg = (
            f"the saved state of parameter {i} has the keys {sorted(map(str, state))}, {type(optimizer).__name__} "
            f"needs {sorted(required)}; was it saved by another class of optimizer?"
        )
        raise ValueError(msg)
    for name, positive in zip(described["state"], described["positive"], strict=True):
        if f"{name}_codes" in state:
            _check_codes(i, name, state, param, positive=positive)
        elif state.get(name) is not None:
            _check_shape(f"the saved {name} of parameter {i}", state[name], param.shape)
    for name in ("param_low", "param_master", "ema"):
        if name in state:
            _check_shape(f"the saved {name} of parameter {i}", state[name], param.shape)
    for name, value in state.items():
        if _is_wide(value) and not all_finite([local_tensor(value)]):
            msg = f"the saved {name} of parameter {i} has elements that are not finite; load an earlier checkpoint"
            raise ValueError(msg)


def _is_wide(value: Any) -> bool:
    """Floating-point, and not of 8 bits: codes are finite if their scales are."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.element_size() > 1


def _check_codes(i: int, name: str, state: Mapping[str, Any], param: Tensor, *, positive: bool) -> None:
    codes, scales = (f"the saved {name}_{part} of parameter {i}" for part in ("codes", "scales"))
    _check_shape(codes, state[f"{name}_codes"], param.shape)
    try:
        shape = scales_shape(param.shape, state[f"{name}_codes"], positive=positive)
    except ValueError as error:
        msg = f"{codes}: {error}"
        raise ValueError(msg) from None
    saved = getattr(state.get(f"{name}_scales"), "shape", None)
    if saved != torch.Size(shape):
        has = "are missing" if saved is None else f"have shape {tuple(saved)}"
        msg = f"{scales} {has}, blocks of {_core.BLOCK} elements need {shape}"
        raise ValueError(msg)
    dtype = state[f"{name}_scales"].dtype
    if dtype is not torch.float32:
        msg = f"{scales} have dtype {dtype}; needed is torch.float32"
        raise ValueError(msg)


def _check_shape(what: str, saved: Any, shape: torch.Size) -> None:
    if getattr(saved, "shape", None) != shape:
        has = f"has shape {tuple(saved.shape)}" if isinstance(saved, Tensor) else "is no tensor"
        msg = f"{what} {has}, the parameter has {tuple(shape)}; they must be equal"
        raise ValueError(msg)


def refuse_differentiable(what: type | Callable[..., None], group: Mapping[str, Any]) -> None:
    """Refuses a group with ``differentiable=True``, in the name of an optimizer or of a function."""
    if group.get("differentiable"):
        msg = (
            f"differentiable=True: {what.__name__} writes memory that autograd does not see, so no gradient can flow "
            "through its step; use the class of torch.optim for that"
        )
        raise ValueError(msg)
