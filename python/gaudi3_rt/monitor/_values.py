"""Figures of a step as the user gives them: numbers, or tensors that are not waited for."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError

Held = int | float | Tensor | None
"""A number, or a 0-d tensor on a device, whose number is read later."""


def hold(name: str, value: Any) -> Held:
    """A figure that later changes of ``value`` do not reach, without waiting for a device.

    What is in the memory of the CPU is read at once. Of what is on a device a copy is made there: 4 bytes, in the order
    of its other work, because the memory of a loss is often written again by the next step.

    Raises:
        ParameterValidationError: it is no single real number.
    """
    kind = type(value)
    if kind is float or kind is int or value is None:
        return value  # type: ignore[no-any-return]  # its type was looked at above
    if isinstance(value, Tensor):
        return _hold_tensor(name, value)
    try:
        if isinstance(value, str | bytes):
            raise TypeError  # noqa: TRY301 (float takes texts)
        return float(value)
    except (TypeError, ValueError):
        msg = f"{name}={value!r:.80}: must be a number, or a tensor of one element"
        raise ParameterValidationError(msg) from None


def _hold_tensor(name: str, value: Tensor) -> Held:
    if value.numel() != 1 or value.is_complex() or value.is_meta:
        seen = f"a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
        msg = f"{name} is {seen}: must be one real number, e.g. {name}.mean()"
        raise ParameterValidationError(msg)
    if type(value) is not Tensor and hasattr(value, "full_tensor"):
        msg = f"{name} is a DTensor; reading it would make ranks wait for one another. Give {name}.full_tensor()"
        raise ParameterValidationError(msg)
    return value.item() if value.device.type == "cpu" else value.detach().clone()


def is_held_elsewhere(value: object) -> bool:
    """Whether reading it waits for a device."""
    return isinstance(value, Tensor)


def read(value: Held) -> float | None:
    """The number; waits for the device if it is there."""
    return value.item() if isinstance(value, Tensor) else value


def is_bad(value: float | None) -> bool:
    """Whether a number is given and is NaN or infinite."""
    return value is not None and not math.isfinite(value)
