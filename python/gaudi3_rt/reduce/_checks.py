"""What all functions of this package ask of tensors before they write, and tell autograd afterwards."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raises TypeError for what is no tensor, ValueError for a sparse one."""
    if not isinstance(tensor, Tensor):
        msg = f"{name} is of type {type(tensor).__name__}; expected a tensor"
        raise TypeError(msg)
    if tensor.layout is not torch.strided:
        msg = f"{name} has layout {tensor.layout}: it has to be dense; to_dense() makes it so"
        raise ValueError(msg)


def check_read(name: str, tensor: Tensor) -> None:
    """As ``check_tensor``; ValueError for a dtype that the kernels do not know, too."""
    check_tensor(name, tensor)
    if tensor.dtype not in FLOATS:
        msg = f"{name} is {tensor.dtype}: it has to be float32, bfloat16 or float16"
        raise ValueError(msg)


def check_written(name: str, tensor: Tensor) -> None:
    """As ``check_read``; ValueError for an expanded view too."""
    check_read(name, tensor)
    if tensor.numel() > 0 and any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True)):
        msg = f"{name} is an expanded view whose elements share memory, so it cannot be written; clone() it first"
        raise ValueError(msg)


def count_versions(written: Iterable[Tensor]) -> None:
    """Kernels write behind autograd's back: a backward through an old value has to fail, as it does in torch."""
    torch.autograd.graph.increment_version([tensor for tensor in written if not tensor.is_inference()])


def float32(scale: float) -> float:
    """A number rounded to float32, as the kernels round it."""
    return float(torch.tensor(float(scale), dtype=torch.float32))


def words(tensor: Tensor) -> str:
    """Dtype, shape and device, for an error."""
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
