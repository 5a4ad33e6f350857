"""The layout of ``apex.optimizers``: one count for a group, none for a parameter."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gaudi3_rt.numerics.convert import _reading, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, adam_moments, with_model
from gaudi3_rt.numerics.convert._scheme import Scheme, entries, keys_of

_ADAM = {"lr": 1e-3, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

SCHEME = Scheme(
    library="apex",
    moments={"adam": {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}},
    options={"adam": _ADAM},
    step="group",
)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    group_keys, state_keys = keys_of(state_dict)
    if not _ADAM.keys() <= group_keys or group_keys & {"grad_averaging", "amsgrad", "maximize"}:
        return ()
    if not entries(state_dict):
        return ("groups have bias_correction, and nothing was updated yet",)
    if state_keys != {"exp_avg", "exp_avg_sq"}:
        return ()
    counted = "count steps" if "step" in group_keys else "have no count"
    return (f"groups have bias_correction and {counted}; no parameter has a count",)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups and moments; each parameter gets the count of its group."""
    return _reading.read(SCHEME, state_dict, request)


def write(state: OptimizerState, request: Request) -> Written:
    """As ``apex.optimizers.FusedAdam`` loads it."""
    return _writing.write(SCHEME, state, request)


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by a model of FusedAdam; ``params`` are updated in place."""
    return with_model(functools.partial(_update, decoupled=optimizer == "AdamW"), state_dict, params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"a model of apex.optimizers.FusedAdam ({optimizer})"


def _update(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any], *, decoupled: bool) -> None:
    """Moments are divided by their corrections; decay is added to the update (or to the gradient, for Adam)."""
    t = int(group["step"]) if group["bias_correction"] else math.inf
    beta1, beta2 = group["betas"]
    if not decoupled:
        gradient = gradient + group["weight_decay"] * param
    first, second = adam_moments(gradient, own["exp_avg"], own["exp_avg_sq"], group["betas"])
    update = (first / (1 - beta1**t)) / ((second / (1 - beta2**t)).sqrt() + group["eps"])
    if decoupled:
        update = update + group["weight_decay"] * param
    param.sub_(group["lr"] * update)
    own["exp_avg"].copy_(first)
    own["exp_avg_sq"].copy_(second)
