"""Writing a ``state_dict`` with the names and places of a layout, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.numerics.convert._records import (
    COUNTED,
    NEUTRAL,
    Algorithm,
    Group,
    OptimizerState,
    Parameter,
    Request,
    Written,
)
from gaudi3_rt.numerics.convert._scheme import Losses, Scheme, class_name, several
from gaudi3_rt.numerics.convert._values import Values

Writer = Callable[[str, str, Values, Losses], Mapping[str, Any]]
"""Gives what stands for a moment: by the layout's name of it, what to call the parameter, the numbers, and losses."""


def write_plain(name: str, where: str, values: Values, lost: Losses) -> Mapping[str, Any]:  # noqa: ARG001 (one signature for all)
    """A moment as it is."""
    return {name: values}


def cast(values: Values, dtype: torch.dtype | None, name: str, param: object, lost: Losses) -> Values:
    """Moments in the dtype of a policy; says so where that has fewer bits."""
    if dtype is None or dtype is values.dtype:
        return values
    if torch.promote_types(values.dtype, dtype) is not dtype:
        lost.add(f"{name} of {{}} is rounded from {_short(values.dtype)} to {_short(dtype)}", param)
    return values.to(dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write(scheme: Scheme, state: OptimizerState, request: Request, moment: Writer = write_plain) -> Written:
    """A ``state_dict`` with the given names and places; what does not fit is in ``lost``.

    Raises:
        ParameterValidationError: the library has no such optimizer.
    """
    if state.algorithm not in scheme.moments:
        has = ", ".join(map(class_name, scheme.moments))
        message = f"{scheme.library} has no {class_name(state.algorithm)}; it has {has}"
        raise ParameterValidationError(message)
    lost = Losses()
    notes: list[str] = []
    saved: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    named = all(param.name is not None for param in state.params())
    for group in state.groups:
        first = sum(len(before["params"]) for before in groups)
        keys = list(range(first, first + len(group.params)))
        written = _write_options(scheme, state.algorithm, group, lost, notes)
        if named:
            written["param_names"] = [param.name for param in group.params]
        written["params"] = keys
        for key, param in zip(keys, group.params, strict=True):
            if param.moments:
                saved[key] = _write_parameter(scheme, state.algorithm, param, request, lost, moment)
        if scheme.step == "group" and state.algorithm in COUNTED - scheme.uncounted:
            written["step"] = _common_step(scheme, group, lost, notes)
        groups.append(written)
    return Written({"state": saved, "param_groups": groups}, lost.texts(), tuple(dict.fromkeys(notes)))


def _write_parameter(
    scheme: Scheme, algorithm: Algorithm, param: Parameter, request: Request, lost: Losses, moment: Writer
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if scheme.step != "group" and algorithm not in scheme.uncounted:
        entry["step"] = torch.tensor(float(param.step)) if scheme.step == "tensor" else param.step
    for ours, values in param.moments.items():
        theirs = scheme.moments[algorithm].get(ours)
        if theirs is None:
            lost.add(f"{ours} of {{}}: {scheme.library} has no amsgrad", param)
            continue
        wide = values.to(torch.float32) if values.dtype.itemsize == 1 else values
        entry |= moment(theirs, str(param), cast(wide, request.moments_dtype, ours, param, lost), lost)
    return entry


def _write_options(
    scheme: Scheme, algorithm: Algorithm, group: Group, lost: Losses, notes: list[str]
) -> dict[str, Any]:
    has = scheme.options[algorithm]
    written = dict(has)
    for key, value in group.options.items():
        if key in has or key not in NEUTRAL[algorithm]:
            written[key] = value.item() if key == "lr" and isinstance(value, Tensor) else value
        elif key == "decoupled_weight_decay":
            if not value and group.options["weight_decay"] != 0:
                if scheme.decoupled == "always":
                    lost.add(f"weight decay in the gradient (Adam): {scheme.library} knows decoupled decay only")
                else:
                    notes.append(f"make the {scheme.library} optimizer that loads it with decay in the gradient (Adam)")
        elif value != NEUTRAL[algorithm][key]:
            lost.add(f"{key}={value!r}: {scheme.library} has no such option")
    return written


def _common_step(scheme: Scheme, group: Group, lost: Losses, notes: list[str]) -> int:
    common = max((param.step for param in group.params), default=0)
    if new := [str(param) for param in group.params if not param.moments]:
        notes.append(
            f"{several(new)} had no update yet; at the first one, {scheme.library} corrects its bias with the count of "
            f"its group, {common}"
        )
    for param in group.params:
        if param.moments and param.step != common:
            lost.add(
                f"the step count of {{}}: {scheme.library} has one for a group, {common}", f"{param} ({param.step})"
            )
    return common
