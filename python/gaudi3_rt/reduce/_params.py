"""Which parameters are reduced."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def named_parameters(
    module_or_params: torch.nn.Module | Iterable[Tensor],
) -> tuple[list[str], list[Tensor], list[tuple[str, Tensor]]]:
    """Names of parameters that need a gradient, these parameters, and those that need none with their names.

    Raises:
        ParameterValidationError: there are none, or one cannot be reduced.
    """
    every: list[tuple[str, Tensor]]
    if isinstance(module_or_params, torch.nn.Module):
        every = list(module_or_params.named_parameters())
    else:
        params = dict.fromkeys(module_or_params)  # tensors hash by identity
        every = [(str(i), p) for i, p in enumerate(params)]
    named = [(name, p) for name, p in every if p.requires_grad]
    if not named:
        msg = "there is no parameter that needs a gradient"
        raise ParameterValidationError(msg)
    for name, param in named:
        if not param.is_leaf or hasattr(param, "device_mesh") or param.dtype not in DTYPES:
            what = (
                "a DTensor"
                if hasattr(param, "device_mesh")
                else f"{param.dtype}{'' if param.is_leaf else ', not a leaf'}"
            )
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            msg = f"parameter {name!r} is {what}; reduced are gradients of leaves of {allowed} that are no DTensors"
            raise ParameterValidationError(msg)
    frozen = [(name, p) for name, p in every if not p.requires_grad]
    return [name for name, _ in named], [param for _, param in named], frozen
