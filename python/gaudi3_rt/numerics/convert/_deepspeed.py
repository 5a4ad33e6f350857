"""The layout of DeepSpeed's optimizers: a count for each parameter, as a number. Files of ZeRO are read by ``_zero``.

``FusedAdam`` advances the count of the last parameter of a group alone, and corrects the bias of all of them with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import _reading, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, adam_moments, with_model
from gaudi3_rt.numerics.convert._scheme import Scheme, count, entries, keys_of

_ADAM = {"lr": 1e-3, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

SCHEME = Scheme(
    library="DeepSpeed",
    moments={
        "adam": {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"},
        "lion": {"exp_avg": "exp_avg"},
        "adagrad": {"sum": "exp_avg_sq"},
    },
    options={
        "adam": {**_ADAM, "amsgrad": False},
        "lion": {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0},
        "adagrad": {"lr": 1e-2, "eps": 1e-10, "weight_decay": 0.0, "amsgrad": False},
    },
    step="number",
)


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    group_keys, state_keys = keys_of(state_dict)
    if group_keys & {"maximize", "grad_averaging", "foreach", "lr_decay", "momentum", "alpha"}:
        return ()
    if group_keys >= _ADAM.keys():
        return _recognise_adam(state_dict, state_keys)
    if state_keys == {"step", "exp_avg"} and group_keys >= {"lr", "betas", "weight_decay"} and "eps" not in group_keys:
        return ("Lion's state, and groups without maximize",)
    if state_keys == {"step", "exp_avg_sq"} and group_keys >= {"lr", "eps", "amsgrad"} and "betas" not in group_keys:
        return ("Adagrad's sums are called exp_avg_sq",)
    return ()


def _recognise_adam(state_dict: Mapping[str, Any], state_keys: frozenset[str]) -> tuple[str, ...]:
    if not state_keys:
        return ("groups have bias_correction, and nothing was updated yet",)
    if state_keys != {"step", "exp_avg", "exp_avg_sq"}:
        return ()
    if any(count(group.get("step", 0), "a group") for group in state_dict["param_groups"]):
        return ()
    most = max(count(entry["step"], "a parameter") for entry in entries(state_dict) if "step" in entry)
    return (f"groups have bias_correction and no count; parameters count steps (up to {most})",)


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups, counts and moments."""
    whole, notes = _counted(state_dict, given=request.step is not None)
    state = _reading.read(SCHEME, whole, request)
    return OptimizerState(algorithm=state.algorithm, groups=state.groups, notes=(*state.notes, *notes), lost=state.lost)


def _counted(state_dict: Mapping[str, Any], *, given: bool = False) -> tuple[dict[str, Any], list[str]]:
    """With the last count of a group for all of its parameters, where ``FusedAdam`` has counted."""
    state = dict(state_dict["state"])
    notes = []
    for number, group in enumerate(state_dict["param_groups"]):
        owners = [key for key in group["params"] if state.get(key)]
        if given or len(owners) < 2 or "step" not in state[owners[-1]]:  # noqa: PLR2004 (one alone is the last)
            continue
        *others, last = (count(state[key]["step"], f"parameter {key}") for key in owners)
        if not last or any(others):
            continue
        dtypes = {state[key]["exp_avg"].dtype for key in owners}
        if len(dtypes) > 1:
            message = (
                f"group {number} of DeepSpeed's FusedAdam has moments of {len(dtypes)} dtypes, and then it counts more "
                f"than one step at a time: {last} is no count of updates"
            )
            raise DataValidationError(message, suggestions=("Give step=, the number of updates that were made",))
        state |= {key: {**state[key], "step": last} for key in owners}
        notes.append(
            f"group {number} has only a count of its last parameter, {last}, as FusedAdam keeps it: used for all"
        )
    return {**state_dict, "state": state}, notes


def write(state: OptimizerState, request: Request) -> Written:
    """As ``DeepSpeedCPUAdam``, ``FusedAdam``, ``DeepSpeedCPULion`` and ``DeepSpeedCPUAdagrad`` load it."""
    return _writing.write(SCHEME, state, request)


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by models of the CPU optimizers; ``params`` are updated in place."""
    models = {"Lion": _lion, "Adagrad": _adagrad}
    update = models.get(optimizer) or functools.partial(_adam, decoupled=optimizer == "AdamW")
    return with_model(update, _counted(state_dict)[0], params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"a model of DeepSpeedCPU{optimizer.removesuffix('W')}"


def _adam(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any], *, decoupled: bool) -> None:
    """The root is corrected, then eps is added; decay is a part of the parameter (or of the gradient, for Adam)."""
    own["step"] += 1
    t = own["step"] if group["bias_correction"] else math.inf
    beta1, beta2 = group["betas"]
    if not decoupled:
        gradient = gradient + group["weight_decay"] * param
    first, second = adam_moments(gradient, own["exp_avg"], own["exp_avg_sq"], group["betas"])
    update = first / (second.sqrt() * (1 / math.sqrt(1 - beta2**t)) + group["eps"])
    if decoupled:
        param.add_(param, alpha=-group["lr"] * group["weight_decay"])
    param.add_(update, alpha=-group["lr"] / (1 - beta1**t))
    own["exp_avg"].copy_(first)
    own["exp_avg_sq"].copy_(second)


def _lion(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Decay of the parameter, then the sign of the first average; the kept one has the other beta."""
    own["step"] += 1
    beta1, beta2 = group["betas"]
    first = own["exp_avg"].float()
    direction = (beta1 * first + (1 - beta1) * gradient).sign()
    param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * direction)
    own["exp_avg"].copy_(beta2 * first + (1 - beta2) * gradient)


def _adagrad(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Decay is a part of the gradient; eps is added to the root."""
    own["step"] += 1
    gradient = gradient + group["weight_decay"] * param
    total = own["exp_avg_sq"].float() + gradient * gradient
    param.sub_(group["lr"] * gradient / (total.sqrt() + group["eps"]))
    own["exp_avg_sq"].copy_(total)
