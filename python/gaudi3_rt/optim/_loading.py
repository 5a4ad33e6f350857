"""Whether a state_dict fits an optimizer; asked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaudi3_rt import _core

if TYPE_CHECKING:
    from gaudi3_rt.optim._fused import Fused

# Options that torch gives a default when it loads a checkpoint that is older than they are.
_FILLED_IN_BY_TORCH = {
    "amsgrad",
    "maximize",
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
        if not state:
            continue
        wanted = {"step", *_core.describe_kernel(kernel_of[key])["state"]}
        if not wanted <= set(state):
            msg = (
                f"the saved state of parameter {i} has the keys {sorted(map(str, state))}, {type(optimizer).__name__} "
                f"needs {sorted(wanted)}; was it saved by another class of optimizer?"
            )
            raise ValueError(msg)
        for name in sorted(wanted - {"step"}):
            saved_shape = getattr(state[name], "shape", None)
            if saved_shape != param.shape:
                has = "is no tensor" if saved_shape is None else f"has shape {tuple(saved_shape)}"
                needed = tuple(param.shape)
                msg = f"the saved {name} of parameter {i} {has}, the parameter has {needed}; they must be equal"
                raise ValueError(msg)


def refuse_differentiable(cls: type, group: Mapping[str, Any]) -> None:
    """Refuses a group with ``differentiable=True``."""
    if group.get("differentiable"):
        msg = (
            f"differentiable=True: {cls.__name__} writes memory that autograd does not see, so no gradient can flow "
            "through its step; use the class of torch.optim for that"
        )
        raise ValueError(msg)
