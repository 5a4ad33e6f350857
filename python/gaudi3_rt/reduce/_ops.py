"""``torch.ops.gaudi3_rt.*`` of reduction, so that torch.compile can see what these functions read and write."""

from __future__ import annotations

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.reduce._accumulate import accumulate_
from gaudi3_rt.reduce._compress import DTYPES, HEADER, compress, decompress
from gaudi3_rt.reduce._shards import reduce_shards


@torch.library.custom_op("gaudi3_rt::reduce_shards", mutates_args=())
def _reduce_shards_op(shards: list[Tensor], op: str = "sum", scale: float = 1.0) -> Tensor:
    """``reduce_shards`` into a new tensor."""
    return reduce_shards(shards, op=op, scale=scale)  # type: ignore[arg-type]  # a schema knows no literals


@_reduce_shards_op.register_fake
def _(shards: list[Tensor], op: str = "sum", scale: float = 1.0) -> Tensor:
    return torch.empty_like(shards[0])


@torch.library.custom_op("gaudi3_rt::accumulate_", mutates_args=("main_grads",))
def _accumulate_op(main_grads: list[Tensor], grads: list[Tensor], scale: float = 1.0) -> None:
    """``accumulate_`` for lists."""
    accumulate_(main_grads, grads, scale=scale)


@_accumulate_op.register_fake
def _(main_grads: list[Tensor], grads: list[Tensor], scale: float = 1.0) -> None:
    return None


@torch.library.custom_op("gaudi3_rt::compress", mutates_args=("residual",))
def _compress_op(tensor: Tensor, wire: str, scale: float = 1.0, residual: Tensor | None = None) -> Tensor:
    """``compress`` into a new tensor."""
    return compress(tensor, wire, scale=scale, residual=residual)  # type: ignore[arg-type]  # as above


@_compress_op.register_fake
def _(tensor: Tensor, wire: str, scale: float = 1.0, residual: Tensor | None = None) -> Tensor:
    n = tensor.numel()
    numel = n if wire == "bfloat16" else n + HEADER * ((n + _core.BLOCK - 1) // _core.BLOCK)
    return tensor.new_empty(numel, dtype=DTYPES[wire])


@torch.library.custom_op("gaudi3_rt::decompress", mutates_args=())
def _decompress_op(compressed: Tensor, scale: float = 1.0) -> Tensor:
    """``decompress`` into a new tensor."""
    return decompress(compressed, scale=scale)


@_decompress_op.register_fake
def _(compressed: Tensor, scale: float = 1.0) -> Tensor:
    n = compressed.numel()
    if compressed.dtype != torch.bfloat16:
        size = HEADER + _core.BLOCK
        n -= HEADER * ((n + size - 1) // size)
    return compressed.new_empty(n, dtype=torch.float32)
