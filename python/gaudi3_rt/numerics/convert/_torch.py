"""The layout of ``torch.optim``: a 0-d float32 count and the moments, for each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics.convert import _reading, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, with_class
from gaudi3_rt.numerics.convert._scheme import Scheme, keys_of, same_names

_IMPLEMENTATION = {"foreach": None, "differentiable": False, "fused": None}

OPTIONS: Mapping[Any, Mapping[str, Any]] = {
    "adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
    | _IMPLEMENTATION
    | {"capturable": False, "decoupled_weight_decay": True},
    "sgd": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    | _IMPLEMENTATION,
    "adagrad": {"lr": 1e-2, "lr_decay": 0, "eps": 1e-10, "weight_decay": 0, "initial_accumulator_value": 0}
    | _IMPLEMENTATION
    | {"maximize": False},
}
"""Keys of the groups of torch's classes, with their defaults."""

SCHEME = Scheme(
    library="torch.optim",
    moments=same_names("adam", "sgd", "adagrad"),
    options=OPTIONS,
    step="tensor",
    uncounted=frozenset({"sgd"}),
    decoupled="option",
)

_TELLING = {"amsgrad", "nesterov", "lr_decay"}
"""One of these is in the groups of each class that is converted, and in no group of RAdam, NAdam, RMSprop, ...."""


_OLDER = ({"amsgrad", "betas"}, {"dampening", "nesterov"}, {"lr_decay", "initial_accumulator_value"})
"""Of groups before release 1.12, and of the vendor's SGD."""


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    group_keys, state_keys = keys_of(state_dict)
    of_torch = group_keys & {"maximize", "foreach", "differentiable"}
    older = any(keys <= group_keys for keys in _OLDER) and not any(
        isinstance(group.get("lr"), Tensor) for group in state_dict["param_groups"]
    )
    known = {name for names in SCHEME.moments.values() for name in names} | {"step"}
    if not group_keys & _TELLING or not (of_torch or older) or "bias_correction" in group_keys:
        return ()
    if any("step" in group or "step_t" in group for group in state_dict["param_groups"]):
        return ()  # of a library that counts there; what parameters count is stale
    if state_keys - known or (state_keys and "nesterov" not in group_keys and "step" not in state_keys):
        return ()
    said = f"groups have {', '.join(sorted(group_keys & _TELLING | of_torch))}"
    return (said, f"each state has {', '.join(sorted(state_keys))}") if state_keys else (said,)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups, counts and moments."""
    return _reading.read(SCHEME, state_dict, request)


def write(state: OptimizerState, request: Request) -> Written:
    """As ``torch.optim.Optimizer.load_state_dict`` takes it."""
    return _writing.write(SCHEME, state, request)


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by torch's own class; ``params`` are updated in place."""
    return with_class(lambda groups: getattr(torch.optim, optimizer)(groups, lr=0.0), state_dict, params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"torch.optim.{optimizer} {torch.__version__}"
