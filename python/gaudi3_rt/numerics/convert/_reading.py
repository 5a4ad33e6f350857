"""Reading a ``state_dict`` by the names and places of its layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import DataValidationError, ParameterValidationError
from gaudi3_rt.numerics.convert._records import (
    ALGORITHMS,
    COUNTED,
    NEUTRAL,
    NO_FORMULA,
    OPTIONAL_MOMENT,
    Algorithm,
    Group,
    OptimizerState,
    Parameter,
    Request,
)
from gaudi3_rt.numerics.convert._scheme import Entry, Losses, Scheme, algorithm_of, count, keys_of
from gaudi3_rt.numerics.convert._values import Values

Reader = Callable[[str, Entry, str], "Values | None"]
"""Gives a moment by the layout's name of it, an entry and what to call it in messages; None if it is not there."""


def plain_moment(name: str, entry: Entry, where: str) -> Values | None:
    """A moment that is a floating-point tensor.

    Raises:
        DataValidationError: it is something else.
    """
    value = entry.get(name)
    if value is None or isinstance(value, Values):
        return value
    if isinstance(value, Tensor) and (
        hasattr(value, "full_tensor") or value.layout is not torch.strided or value.is_meta
    ):
        kind = "a DTensor" if hasattr(value, "full_tensor") else f"a tensor of {value.layout} on {value.device.type}"
        advice = "Give what each rank has of it, value.to_local(), as a list of states, or value.full_tensor()"
        message = f"{name} of {where} is {kind}; needed is a plain tensor"
        raise DataValidationError(message, suggestions=(advice,) if kind == "a DTensor" else ())
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.element_size() == 1:
        seen = f"of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        message = f"{name} of {where} is {seen}; needed is a floating-point tensor of 16 bits or more"
        raise DataValidationError(message)
    return Values.of(value)


def read(
    scheme: Scheme, state_dict: Mapping[str, Any], request: Request, moment: Reader = plain_moment
) -> OptimizerState:
    """A ``state_dict`` with the given names and places.

    Raises:
        DataValidationError: moments or counts are missing or are not what they should be.
    """
    group_keys, state_keys = keys_of(state_dict)
    algorithm = algorithm_of(scheme, state_keys, group_keys, request)
    notes: list[str] = []
    lost = Losses()
    groups = []
    for number, group in enumerate(state_dict["param_groups"]):
        names = group.get("param_names")
        params = []
        for position, key in enumerate(group["params"]):
            name = names[position] if names else key if isinstance(key, str) else None
            own = Parameter(key=key, name=name)
            entry = state_dict["state"].get(key)
            if entry:
                own = _parameter(scheme, algorithm, own, entry, (group, number), request, moment)
                known = {*scheme.moments[algorithm].values(), *scheme.beside, "step"}
                for extra in sorted(map(str, entry.keys() - known)):
                    lost.add(f"{extra} of {{}}", own)
            params.append(own)
        groups.append(Group(options=_options(scheme, algorithm, group, request, notes), params=tuple(params)))
    in_groups = {key for group in state_dict["param_groups"] for key in group["params"]}
    for key in state_dict["state"].keys() - in_groups:
        lost.add("the state of {}, which is in no group", repr(key))
    return OptimizerState(
        algorithm=algorithm, groups=tuple(groups), notes=tuple(dict.fromkeys(notes)), lost=lost.texts()
    )


def _parameter(
    scheme: Scheme,
    algorithm: Algorithm,
    own: Parameter,
    entry: Entry,
    of: tuple[Mapping[str, Any], int],
    request: Request,
    moment: Reader,
) -> Parameter:
    moments = {}
    for ours, theirs in scheme.moments[algorithm].items():
        values = moment(theirs, entry, str(own))
        if values is not None:
            moments[ours] = values
        elif of[0].get("amsgrad") if ours == OPTIONAL_MOMENT else algorithm != "sgd":
            message = f"{own} has no {theirs}; its state has the keys {sorted(map(str, entry))}"
            raise DataValidationError(message)
    shapes = {values.shape for values in moments.values()}
    if len(shapes) > 1:
        message = f"the moments of {own} have shapes {sorted(shapes)}; they must be equal"
        raise DataValidationError(message)
    return Parameter(
        key=own.key, name=own.name, step=_step(scheme, algorithm, own, entry, of, request), moments=moments
    )


def _step(
    scheme: Scheme,
    algorithm: Algorithm,
    own: Parameter,
    entry: Entry,
    of: tuple[Mapping[str, Any], int],
    request: Request,
) -> int:
    group, number = of
    if scheme.step == "group":
        saved, where = group.get("step"), f"group {number}"
    else:
        saved, where = entry.get("step"), str(own)
    if request.step is not None and (saved is None or algorithm in COUNTED):
        return request.step
    if saved is not None:
        return count(saved, where)
    if algorithm in scheme.uncounted or algorithm not in COUNTED:
        return 1  # that there was a step is all that counts
    message = f"{scheme.library}: {where} has no step count, and without it bias correction would start again"
    raise DataValidationError(message, suggestions=("Give step=, the number of updates that were made",))


def _options(
    scheme: Scheme, algorithm: Algorithm, group: Mapping[str, Any], request: Request, notes: list[str]
) -> dict[str, Any]:
    options = dict(NEUTRAL[algorithm])
    dropped = NO_FORMULA | scheme.ignored | {"params", "param_names"}
    options |= {key: value for key, value in group.items() if key not in dropped}
    missing = sorted(key for key, value in options.items() if value is None and key in {"lr", "betas", "eps"})
    if missing:
        message = f"{scheme.library}: a group has no {missing}; its keys are {sorted(map(str, group))}"
        raise DataValidationError(message)
    _check_values(options)
    if algorithm == "adam":
        options["decoupled_weight_decay"] = _decoupled(scheme, options, request, notes)
    return options


def _check_values(options: Mapping[str, Any]) -> None:
    betas = options.get("betas", ())
    numbers = {key: options[key] for key in ("lr", "eps", "weight_decay", "momentum", "dampening") if key in options}
    wrong = [f"{key} is {value!r}" for key, value in numbers.items() if not _is_number(value)]
    pair = isinstance(betas, Sequence) and (not betas or len(betas) > 1)
    if not pair or any(not _is_number(beta) or not 0 <= beta < 1 for beta in betas):
        wrong.append(f"betas is {betas!r}")
    if wrong:
        message = f"{', '.join(wrong)}; needed are finite numbers, and two of at least 0 and less than 1 for betas"
        raise DataValidationError(message)


def _is_number(value: Any) -> bool:
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return isinstance(plain, int | float) and math.isfinite(plain)


def _decoupled(scheme: Scheme, options: Mapping[str, Any], request: Request, notes: list[str]) -> bool:
    said = options["decoupled_weight_decay"]
    named = ALGORITHMS[request.optimizer][1] if request.optimizer is not None else None
    if scheme.decoupled == "always":
        said = True
    if said is not None and named is not None and bool(said) is not named and options["weight_decay"] != 0:
        message = f"optimizer={request.optimizer!r}, but the state is that of {'AdamW' if said else 'Adam'}"
        raise ParameterValidationError(message)
    if said is None and named is None and options["weight_decay"] != 0:
        notes.append(
            f"{scheme.library} does not save whether its weight decay is decoupled; taken as decoupled (AdamW): "
            'give optimizer="Adam" if it was not'
        )
    return bool(named if said is None and named is not None else True if said is None else said)
