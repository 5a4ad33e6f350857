"""Gradient tools: norms, clipping and unscaling with the signatures of torch.nn.utils, each one or two passes.

They differ from torch's in this:

- A norm is accumulated in float64. It is returned as float32, also for bfloat16 and float16 gradients, and as float64
  if one of the tensors is float64.
- ``clip_grad_norm_`` and ``clip_grads_with_norm_`` write nothing where the coefficient is 1. For that the host has to
  know the norm, so it waits for a device, if that is not an HPU whose operators are loaded (see below).
- ``parameters`` may be pairs of name and tensor, like those of ``named_parameters()``; errors then give the name.
- Negative bounds and NaN as a bound are refused. After an error every gradient is as it was.

A gradient that is listed twice, or that shares memory with another, is counted and multiplied as often as it is
listed, as in torch. For DTensor gradients the norm is that of all shards, as a plain tensor, and every rank of the
mesh has to make the call. The bits of all results are the same for any number of threads and on every CPU as long as
the tensors are float32, bfloat16 or float16 in dense CPU memory and norms are of order 1, 2 or infinity; everything
else is left to torch's operations.

If all tensors are float32 or bfloat16 on one HPU, its operators (``gaudi3_rt.hpu.load``) compute norms of order 2, clip
and unscale, and the host waits for nothing but what ``error_if_nonfinite`` has to know. A sum of squares is then formed
in float32: it is infinite beyond 3e38, and squares below 1.2e-38 may be lost. Other orders and dtypes are left to
torch's operations, which is said once.

``foreach`` chooses between torch's own implementations: accepted, changes nothing.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from gaudi3_rt import _pending
from gaudi3_rt.grads._gathered import Gathered

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "unscale_"]

Tensors: TypeAlias = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""A tensor, any iterable of tensors, or one of pairs of name and tensor."""


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,  # noqa: ARG001 (torch's signature)
) -> Tensor:
    """Multiplies gradients by ``min(1, max_norm / (norm + 1e-6))``, as ``torch.nn.utils.clip_grad_norm_``.

    Norm and multiplication are one parallel region. If the norm is NaN, all gradients become NaN; if it is infinite,
    they become 0, and NaN where they were infinite.

    Args:
        parameters: those without gradients are passed over.
        max_norm: bound of the norm of all gradients together, >= 0.
        norm_type: order of the norm; 1, 2 and infinity are computed by kernels.
        error_if_nonfinite: raise an error instead of multiplying by what a norm that is not finite gives.
        foreach: changes nothing.

    Returns:
        The norm before clipping, 0-d, on the device of the first gradient; 0 if there is none.

    Raises:
        ValueError: ``max_norm`` is negative or NaN, or a gradient to be multiplied is an expanded view.
        TypeError: a gradient is sparse or not floating-point, or a partial sum.
        RuntimeError: the norm is not finite and ``error_if_nonfinite`` is set; the message says which gradient is to
            blame.
    """
    bound = _bound("max_norm", max_norm)
    listed, names = _listed(parameters)
    if isinstance(parameters, types.GeneratorType) and not listed:
        warnings.warn("`parameters` is an empty generator: there is nothing to clip", stacklevel=2)
    _pending.join(listed)
    gathered = Gathered.of_parameters(listed, names)
    order = float(norm_type)
    norm = gathered.clip(order, bound, skip_nonfinite=error_if_nonfinite)
    if error_if_nonfinite:
        gathered.check_finite(order, norm)
    return gathered.as_tensor(norm)


@torch.no_grad()
def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,  # noqa: ARG001 (torch's signature)
) -> Tensor:
    """The norm of all elements of all tensors, as ``torch.nn.utils.get_total_norm``.

    Args:
        tensors: the tensors themselves, not parameters whose gradients are meant.
        norm_type: order of the norm; 1, 2 and infinity are computed by kernels.
        error_if_nonfinite: raise an error if the norm is infinite or NaN.
        foreach: changes nothing.

    Returns:
        A 0-d tensor on the device of the first tensor; 0 if there is none.

    Raises:
        TypeError: a tensor is sparse or not floating-point, or a partial sum.
        RuntimeError: the norm is not finite and ``error_if_nonfinite`` is set; the message says which tensor is to
            blame.
    """
    gathered = Gathered.of_tensors(*_listed(tensors))
    order = float(norm_type)
    norm = gathered.norm(order)
    if error_if_nonfinite:
        gathered.check_finite(order, norm)
    return gathered.as_tensor(norm)


@torch.no_grad()
def clip_grads_with_norm_(
    parameters: Tensors,
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,  # noqa: ARG001 (torch's signature)
) -> None:
    """Multiplies gradients by ``min(1, max_norm / (total_norm + 1e-6))``, as ``torch.nn.utils.clip_grads_with_norm_``.

    After ``get_total_norm`` of the same gradients the result is that of ``clip_grad_norm_``, bit by bit.

    Args:
        parameters: those without gradients are passed over.
        max_norm: bound of the norm, >= 0.
        total_norm: one element: the norm of all gradients together. One that stays on an HPU is not looked at before.
        foreach: changes nothing.

    Raises:
        ValueError: ``max_norm`` is negative or NaN, ``total_norm`` is negative or has not one element, or a gradient
            to be multiplied is an expanded view.
        TypeError: a gradient is sparse or not floating-point, or a partial sum.
    """
    bound = _bound("max_norm", max_norm)
    norm: float | Tensor = _one("total_norm", total_norm)
    gathered = Gathered.of_parameters(*_listed(parameters))
    on_hpu = isinstance(norm, Tensor) and norm.device.type == "hpu"
    if not (gathered.has_operators("scaling") and on_hpu):
        norm = float(norm)
        if norm < 0:
            msg = f"total_norm={norm}: a norm is a number >= 0"
            raise ValueError(msg)
    gathered.clip_with_norm(norm, bound)


@torch.no_grad()
def clip_grad_value_(
    parameters: Tensors,
    clip_value: float,
    foreach: bool | None = None,  # noqa: ARG001 (torch's signature)
) -> None:
    """Puts every element of a gradient into ``[-clip_value, clip_value]``, as ``torch.nn.utils.clip_grad_value_``.

    Infinities become the bound; a NaN stays.

    Args:
        parameters: those without gradients are passed over.
        clip_value: bound of the magnitude, >= 0; rounded to the dtype of each gradient.
        foreach: changes nothing.

    Raises:
        ValueError: ``clip_value`` is negative or NaN, or a gradient is an expanded view.
        TypeError: a gradient is sparse, complex or not floating-point, or a partial sum.
    """
    bound = _bound("clip_value", clip_value)
    listed, names = _listed(parameters)
    _pending.join(listed)
    Gathered.of_parameters(listed, names).clamp(bound)


@torch.no_grad()
def unscale_(tensors: Tensors, inv_scale: Tensor | float, found_inf: Tensor) -> None:
    """Multiplies gradients by ``inv_scale`` and looks for values that are not finite, in one pass.

    What ``torch.amp.GradScaler`` does with ``torch._amp_foreach_non_finite_check_and_unscale_``, for tensors of any
    dtypes and devices together.

    Args:
        tensors: the gradients themselves.
        inv_scale: one element: the reciprocal of the loss scale.
        found_inf: one floating-point element, set to 1 if some element of ``tensors`` was infinite or NaN before the
            multiplication; else it is left as it is. For DTensors it takes all shards into account.

    Raises:
        ValueError: ``inv_scale`` or ``found_inf`` has not one element, or a tensor is an expanded view.
        TypeError: a tensor is sparse, complex or not floating-point, or a partial sum, or ``found_inf`` is no
            floating-point tensor.
    """
    factor = _one("inv_scale", inv_scale)
    if not isinstance(found_inf, Tensor) or not found_inf.is_floating_point():
        seen = found_inf.dtype if isinstance(found_inf, Tensor) else type(found_inf).__name__
        msg = f"found_inf is written to, so it has to be a floating-point tensor of one element, got {seen}"
        raise TypeError(msg)
    _one("found_inf", found_inf)
    Gathered.of_tensors(*_listed(tensors)).unscale(factor, found_inf)


def _listed(tensors: Tensors) -> tuple[list[Tensor], list[str] | None]:
    """The tensors, and their names if they came as pairs."""
    if isinstance(tensors, Tensor):
        return [tensors], None
    listed = list(tensors)
    if not listed or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in listed):  # noqa: PLR2004 (a pair)
        return listed, None  # anything that is no tensor is refused when it is gathered
    names, values = zip(*listed, strict=True)
    return list(values), list(names)


def _bound(name: str, value: float) -> float:
    bound = float(value)
    if math.isnan(bound) or bound < 0:
        msg = f"{name}={bound}: must be a number >= 0; {math.inf} bounds nothing"
        raise ValueError(msg)
    return bound


def _one(name: str, value: Tensor | float) -> Tensor | float:
    if isinstance(value, Tensor) and value.numel() != 1:
        msg = f"{name} has shape {tuple(value.shape)}: it must have one element"
        raise ValueError(msg)
    return value
