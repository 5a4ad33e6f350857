"""The layout of bitsandbytes: ``state1`` and ``state2``, float32 or blocks of codes, wrapped since release 0.47."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert import _codes, _reading, _writing
from gaudi3_rt.numerics.convert._records import OptimizerState, Request, Written
from gaudi3_rt.numerics.convert._running import Gradients, adam_moments, with_model
from gaudi3_rt.numerics.convert._scheme import Entry, Losses, Scheme, entries
from gaudi3_rt.numerics.convert._values import Values

_WRAPPED = "__bnb_optimizer_quant_state__"
_MIN_CODED = 4096
"""Moments of smaller parameters are float32 in any case."""

_CODED = "bitsandbytes rounds moments in codes again after each update; where they are float32, nothing is rounded"

_NONE = {"alpha": 0.0, "t_alpha": None, "t_beta3": None}

SCHEME = Scheme(
    library="bitsandbytes",
    moments={
        "adam": {"exp_avg": "state1", "exp_avg_sq": "state2"},
        "sgd": {"momentum_buffer": "state1"},
        "lion": {"exp_avg": "state1"},
        "adagrad": {"sum": "state1"},
    },
    options={
        "adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0} | _NONE,
        "sgd": {"lr": 1e-3, "betas": (0.9, 0.0), "eps": 0.0, "weight_decay": 0.0, "momentum": 0.0},
        "lion": {"lr": 1e-4, "betas": (0.9, 0.99), "eps": 0.0, "weight_decay": 0.0},
        "adagrad": {"lr": 1e-2, "betas": (0.9, 0.0), "eps": 1e-10, "weight_decay": 0.0},
    },
    step="number",
    decoupled="always",
    beside=frozenset({"qmap1", "qmap2", "absmax1", "absmax2"}),
    ignored=frozenset({"alpha", "t_alpha", "t_beta3"}),
)


def _unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    state = {
        key: {**{k: v for k, v in entry.items() if k != _WRAPPED}, **entry.get(_WRAPPED, {})}
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """What shows that it is of this layout; nothing if it is not."""
    if any(_WRAPPED in entry for entry in entries(state_dict)):
        return (f"states have {_WRAPPED}",)
    keys = {key for entry in entries(state_dict) for key in entry}
    if "state1" in keys:
        return (f"states have {', '.join(sorted(keys & {'state1', 'state2', 'qmap1', 'absmax1'}))}",)
    return ("groups have t_alpha",) if all("t_alpha" in group for group in state_dict["param_groups"]) else ()


def read(state_dict: Mapping[str, Any], request: Request) -> OptimizerState:
    """Its groups, counts and moments; codes become float32."""
    plain = _unwrapped(state_dict)
    if request.optimizer == "SGD":
        groups = [{**group, "momentum": group["betas"][0]} for group in plain["param_groups"]]
        plain["param_groups"] = [{k: v for k, v in group.items() if k not in {"betas", "eps"}} for group in groups]
    unused = {"Lion": {"eps"}, "Adagrad": {"betas"}}.get(request.optimizer or "", set())
    plain["param_groups"] = [{k: v for k, v in group.items() if k not in unused} for group in plain["param_groups"]]
    two_averages = [group for group in plain["param_groups"] if group.get("alpha")]
    if two_averages:
        message = f"alpha={two_averages[0]['alpha']!r} says AdEMAMix, whose state is not converted"
        raise DataValidationError(message)
    state = _reading.read(SCHEME, plain, request, _moment)
    coded = any("qmap1" in entry for entry in plain["state"].values())
    return replace(state, notes=(*state.notes, _CODED)) if coded else state


def _moment(name: str, entry: Entry, where: str) -> Values | None:
    value = entry.get(name)
    if not isinstance(value, Tensor) or value.dtype is not torch.uint8:
        return _reading.plain_moment(name, entry, where)
    number = name.removeprefix("state")
    numbers, scales = entry.get(f"qmap{number}"), entry.get(f"absmax{number}")
    if not isinstance(numbers, Tensor) or not isinstance(scales, Tensor) or numbers.numel() != 256:  # noqa: PLR2004 (codes of 8 bits)
        message = f"{name} of {where} is in codes, but qmap{number} or absmax{number} is missing"
        raise DataValidationError(message)
    if scales.numel() != -(-value.numel() // _codes.BLOCK):
        message = f"{name} of {where} has {value.numel()} codes and {scales.numel()} scales; one for 256 is needed"
        raise DataValidationError(message, suggestions=("Only states in blocks are converted (block_wise=True)",))
    return _codes.decoded(value, scales, numbers)


def write(state: OptimizerState, request: Request) -> Written:
    """As its optimizers load it: float32, or codes with ``moments_dtype=torch.uint8``."""
    if request.moments_dtype not in {None, torch.float32, torch.uint8}:
        message = (
            f"moments_dtype={request.moments_dtype}: bitsandbytes has torch.float32 and torch.uint8 (blocks of codes)"
        )
        raise ParameterValidationError(message)
    coded = request.moments_dtype is torch.uint8
    ours = {theirs: name for name, theirs in SCHEME.moments[state.algorithm].items()}

    def moment(name: str, where: str, values: Values, lost: Losses) -> Mapping[str, Any]:
        wide = _writing.cast(values, torch.float32, name, where, lost)
        if not coded or wide.numel < _MIN_CODED:
            return {name: wide}
        lost.add(f"{ours[name]} of {{}} is rounded to codes of 8 bits in blocks of {_codes.BLOCK}", where)
        number = name.removeprefix("state")
        numbers = _codes.dynamic_map(signed=not (name == "state2" or state.algorithm == "adagrad"))
        codes, scales = _codes.encoded(wide, numbers)
        return {name: codes, f"qmap{number}": Values.of(numbers), f"absmax{number}": scales}

    plain = Request(optimizer=request.optimizer, step=request.step, names=request.names)
    written = _writing.write(SCHEME, state, plain, moment)
    for group in written.state_dict["param_groups"]:
        if state.algorithm == "sgd":
            group["betas"] = (group.pop("momentum"), 0.0)
    for key, entry in written.state_dict["state"].items():
        moments = {name: value for name, value in entry.items() if name != "step"}
        written.state_dict["state"][key] = {"step": entry["step"], _WRAPPED: moments}
    return written


def continued(
    state_dict: Mapping[str, Any], params: Sequence[Tensor], gradients: Gradients, optimizer: str
) -> dict[str, Any]:
    """The state after these gradients, by a model of its kernels; ``params`` are updated in place.

    Codes are decoded before each update and made anew after it, as by the kernels.
    """
    update = {"AdamW": _adam, "SGD": _momentum, "Lion": _lion, "Adagrad": _adagrad}[optimizer]
    return with_model(update, _unwrapped(state_dict), params, gradients)


def ran(state_dict: Mapping[str, Any], optimizer: str) -> str:  # noqa: ARG001 (one signature for all)
    """What ``continued`` runs."""
    return f"a model of bitsandbytes.optim.{optimizer}"


def _load(own: Mapping[str, Any], number: int) -> Tensor:
    value = own[f"state{number}"]
    return (
        value.float()
        if f"qmap{number}" not in own
        else _codes.decode(value, own[f"absmax{number}"], own[f"qmap{number}"])
    )


def _store(own: Mapping[str, Any], number: int, value: Tensor) -> None:
    coded = f"qmap{number}" in own
    own[f"state{number}"].copy_(_codes.encode(value, own[f"qmap{number}"]) if coded else value)
    if coded:
        own[f"absmax{number}"].copy_(_codes.scales_of(value))


def _adam(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Corrections are put into the step size and eps; the parameter is decayed first."""
    own["step"] += 1
    beta1, beta2 = group["betas"][:2]
    first, second = adam_moments(gradient, _load(own, 1), _load(own, 2), group["betas"])
    root = math.sqrt(1 - beta2 ** own["step"])
    param.mul_(1 - group["lr"] * group["weight_decay"])
    param.sub_(group["lr"] * root / (1 - beta1 ** own["step"]) * (first / (second.sqrt() + group["eps"] * root)))
    _store(own, 1, first)
    _store(own, 2, second)


def _momentum(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """No dampening."""
    own["step"] += 1
    buffer = _load(own, 1) * group["betas"][0] + gradient + group["weight_decay"] * param
    param.sub_(group["lr"] * buffer)
    _store(own, 1, buffer)


def _lion(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Decay of the parameter, then the sign of the first average; the kept one has the other beta."""
    own["step"] += 1
    beta1, beta2 = group["betas"][:2]
    first = _load(own, 1)
    param.mul_(1 - group["lr"] * group["weight_decay"])
    param.sub_(group["lr"] * (beta1 * first + (1 - beta1) * gradient).sign())
    _store(own, 1, beta2 * first + (1 - beta2) * gradient)


def _adagrad(param: Tensor, gradient: Tensor, own: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Decay is a part of the gradient; eps is added to the root."""
    own["step"] += 1
    gradient = gradient + group["weight_decay"] * param
    total = _load(own, 1) + gradient * gradient
    param.sub_(group["lr"] * gradient / (total.sqrt() + group["eps"]))
    _store(own, 1, total)
