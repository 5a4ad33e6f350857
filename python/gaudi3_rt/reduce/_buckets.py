"""Gradients into one flat bucket and back, cast and scaled on the way."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gaudi3_rt.reduce._checks import check_tensor, check_written
from gaudi3_rt.reduce._overlap import check_apart
from gaudi3_rt.reduce._transfers import transfer


@torch.no_grad()
def pack_(bucket: Tensor, tensors: Iterable[Tensor], *, scale: float = 1.0) -> Tensor:
    """Fills a bucket with ``scale * tensor``, one tensor after the other, each in the order of its indices.

    Args:
        bucket: 1-d and contiguous, float32, bfloat16 or float16.
        tensors: of any shape and of any of these dtypes, together as long as the bucket.
        scale: rounded to float32; multiplied in float32, before the product is rounded to the bucket's dtype.

    Returns:
        ``bucket``.

    Raises:
        ValueError: lengths or devices do not agree, a dtype is another one, the bucket is not contiguous or shares
            memory with a tensor. Nothing has been written then.
        TypeError: something is no tensor.
    """
    listed = _checked(tensors, bucket)
    parts = _parts(bucket, listed)
    check_apart(parts, [[tensor] for tensor in listed])
    transfer("cast", [tensor.contiguous() for tensor in listed], parts, scale)
    return bucket


@torch.no_grad()
def unpack_(tensors: Iterable[Tensor], bucket: Tensor, *, scale: float = 1.0) -> None:
    """Fills tensors with ``scale * bucket``: the reverse of ``pack_``.

    Args:
        tensors: what is written: of any shape, float32, bfloat16 or float16, together as long as the bucket.
        bucket: 1-d and contiguous, of any of these dtypes.
        scale: rounded to float32; multiplied in float32, before the product is rounded to each tensor's dtype.

    Raises:
        ValueError: as for ``pack_``, or two tensors share memory. Nothing has been written then.
        TypeError: something is no tensor.
    """
    listed = _checked(tensors, bucket)
    parts = _parts(bucket, listed)
    for i, tensor in enumerate(listed):
        check_written(f"tensor {i}", tensor)
    check_apart(listed, [[part] for part in parts])
    targets = [tensor if tensor.is_contiguous() else _plain_like(tensor) for tensor in listed]
    transfer("cast", parts, targets, scale)
    for tensor, target in zip(listed, targets, strict=True):
        if target is not tensor:
            tensor.copy_(target)


def _checked(tensors: Iterable[Tensor], bucket: Tensor) -> list[Tensor]:
    """The tensors, without autograd."""
    check_tensor("the bucket", bucket)
    listed = list(tensors)
    for i, tensor in enumerate(listed):
        check_tensor(f"tensor {i}", tensor)
    return [tensor.detach() for tensor in listed]


def _plain_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _parts(bucket: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The parts of a bucket, each in the shape of its tensor."""
    total = sum(tensor.numel() for tensor in tensors)
    if bucket.dim() != 1 or not bucket.is_contiguous() or bucket.numel() != total:
        state = "" if bucket.is_contiguous() else ", not contiguous,"
        msg = (
            f"a bucket of shape {tuple(bucket.shape)}{state} for {len(tensors)} tensors of {total} elements together: "
            "it has to be 1-d, contiguous and as long as they are"
        )
        raise ValueError(msg)
    parts = torch.split(bucket.detach(), [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
