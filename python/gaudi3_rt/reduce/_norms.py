"""Reductions over lists of tensors whose bits depend neither on the number of threads nor on the CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gaudi3_rt import _config, _core

__all__ = ["all_finite", "sum_squares"]


def sum_squares(tensors: Iterable[Tensor]) -> float:
    """The sum of squares of all elements of all tensors, accumulated in float64.

    Not finite exactly when some element is not: the square of a float32 neither overflows nor underflows there.

    Args:
        tensors: real floating-point tensors of any shape; float32, bfloat16 and float16 on the CPU are read by the
            kernel (those with gaps in memory from a copy), others by torch.
    """
    total = 0.0
    for tensor, value in _reduce("sum_squares", tensors):
        total += float(tensor.to(torch.float64).square().sum()) if value is None else value
    return total


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no element of any tensor is infinite or NaN; tensors as for ``sum_squares``."""
    return all(
        bool(torch.isfinite(tensor).all()) if value is None else value == 1
        for tensor, value in _reduce("all_finite", tensors)
    )


def _reduce(reduction: str, tensors: Iterable[Tensor]) -> list[tuple[Tensor, float | None]]:
    listed = [tensor.detach() for tensor in tensors]
    values = _core.reduce(_config.isa(), torch.Tensor, reduction, listed, torch.get_num_threads())
    gaps = [i for i, tensor in enumerate(listed) if values[i] is None and _has_gaps(tensor)]
    copies = [listed[i].contiguous() for i in gaps]
    if copies:
        reduced = _core.reduce(_config.isa(), torch.Tensor, reduction, copies, torch.get_num_threads())
        for i, value in zip(gaps, reduced, strict=True):
            values[i] = value
    return list(zip(listed, values, strict=True))


def _has_gaps(tensor: Tensor) -> bool:
    """Whether only a copy could be in dense CPU memory."""
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.is_contiguous()


@torch.library.custom_op("gaudi3_rt::sum_squares", mutates_args=())
def _sum_squares_op(tensors: list[Tensor]) -> Tensor:
    """``sum_squares`` as a 0-d float64 tensor on the CPU."""
    return torch.tensor(sum_squares(tensors), dtype=torch.float64)


@_sum_squares_op.register_fake
def _(tensors: list[Tensor]) -> Tensor:
    return torch.empty((), dtype=torch.float64)
