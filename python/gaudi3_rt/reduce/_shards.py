"""The sum or mean of n shards of a gradient, accumulated in float32 along one tree (``_tree.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.reduce import _hpu
from gaudi3_rt.reduce._checks import check_read, check_written, count_versions, float32, words
from gaudi3_rt.reduce._norms import sum_squares
from gaudi3_rt.reduce._overlap import check_apart
from gaudi3_rt.reduce._tree import leaf_merges

Op: TypeAlias = Literal["sum", "mean"]
FEWEST_SHARDS, MOST_SHARDS = 2, 64


@dataclass(frozen=True)
class ReducedShards:
    """What ``reduce_shards_measured`` found.

    Attributes:
        out: the reduced tensor.
        sum_squares: of the elements of ``out`` as stored, in float64; not finite exactly if one of them is not.
        nonfinite: how many elements of ``out`` are infinite or NaN.
    """

    out: Tensor
    sum_squares: float
    nonfinite: int


def reduce_shards(
    shards: Sequence[Tensor] | Tensor, out: Tensor | None = None, op: Op = "sum", *, scale: float = 1.0
) -> Tensor:
    """The sum or mean of shards of one shape: every addition in float32, along one tree, whatever their dtype.

    ``out = scale * sum``, and for the mean ``scale / n * sum``; the factor is rounded to float32 once and multiplied
    after the sum, which is rounded once more where ``out`` is bfloat16 or float16.

    Args:
        shards: 2 to 64 tensors of one shape, device and dtype (float32, bfloat16 or float16), or one tensor whose rows
            they are.
        out: the result: shape and device of a shard, any of the three dtypes. It may be one of the shards.
            ``None``: a new tensor like the shards.
        op: ``"sum"`` or ``"mean"``.
        scale: multiplies the result.

    Returns:
        ``out``.

    Raises:
        ValueError: number, shapes, dtypes or devices are not as above, or ``out`` shares memory with a shard that it
            is not. Nothing has been written then.
        TypeError: something is not a tensor.
    """
    listed, result = _checked(shards, out, op)
    reduce_nodes([result], [listed], leaf_merges(len(listed)), scale=_factor(op, scale, len(listed)))
    return result


def reduce_shards_measured(
    shards: Sequence[Tensor] | Tensor, out: Tensor | None = None, op: Op = "sum", *, scale: float = 1.0
) -> ReducedShards:
    """As ``reduce_shards``, and in the same pass what a gradient norm needs; arguments and errors are the same.

    Returns:
        ``out``, the sum of squares of what is stored in it, with the bits of ``sum_squares([out])``, and how many of
        its elements are not finite.
    """
    listed, result = _checked(shards, out, op)
    sums = torch.empty(-(-result.numel() // _core.CHUNK), dtype=torch.float64)
    factor = _factor(op, scale, len(listed))
    reduce_nodes([result], [listed], leaf_merges(len(listed)), scale=factor, chunk_sums=sums)
    total = _core.fold("sum_squares", sums.tolist())
    nonfinite = 0 if abs(total) < torch.inf else int((~result.isfinite()).sum())
    return ReducedShards(result, total, nonfinite)


@torch.no_grad()
def reduce_nodes(
    segments_out: list[Tensor],
    segments_nodes: list[list[Tensor]],
    merges: Sequence[int],
    *,
    scale: float = 1.0,
    chunk_sums: Tensor | None = None,
) -> None:
    """Adds up the nodes of many segments, each along the same tree.

    Args:
        segments_out: where the sums go; each may be one of its own nodes.
        segments_nodes: for each segment its nodes, in order: tensors of its shape; of any of the three dtypes each.
        merges: what ``merge_counts`` gives for the nodes.
        scale: the sums are multiplied by this, rounded to float32, before they are stored.
        chunk_sums: float64, filled with the sum of squares of what is stored: one number for each ``_core.CHUNK``
            elements of each segment, in order. Their sum, from left to right, is ``sum_squares`` of the segment.

    Raises:
        ValueError: numbers of nodes, merges or chunks do not agree, or something written shares memory with something
            that it is not. Nothing has been written then.
    """
    sums = None
    if chunk_sums is not None:
        if chunk_sums.dtype != torch.float64 or chunk_sums.device.type != "cpu" or not chunk_sums.is_contiguous():
            msg = f"chunk_sums is {words(chunk_sums)}: it has to be contiguous float64 on the CPU"
            raise ValueError(msg)
        sums = chunk_sums.numpy()
    counts, threads = list(merges), torch.get_num_threads()
    arguments = (segments_out, segments_nodes, counts, float(scale), sums, threads)
    if not _core.reduce_nodes(_config.isa(), torch.Tensor, *arguments):
        check_apart(segments_out, segments_nodes)
        for out, nodes in zip(segments_out, segments_nodes, strict=True):
            if not _hpu.reduce_nodes(out, nodes, counts, scale):
                _reduce_by_torch(out, nodes, counts, scale)
        if chunk_sums is not None:
            chunk_sums.copy_(_chunk_sums_by_torch(segments_out))
    count_versions(segments_out)


def _reduce_by_torch(out: Tensor, nodes: list[Tensor], merges: list[int], scale: float) -> None:
    stack: list[Tensor] = []
    for node, count in zip(nodes, merges, strict=True):
        stack.append(node.to(torch.float32))
        for _ in range(count):
            right = stack.pop()
            stack[-1] = stack[-1] + right
    out.copy_(stack[0] * float32(scale))


def _chunk_sums_by_torch(outs: list[Tensor]) -> Tensor:
    """The sum of squares of each chunk; a device is waited for once."""
    chunks = [chunk for out in outs if out.numel() for chunk in torch.split(out.reshape(-1), _core.CHUNK)]
    if all(chunk.device.type == "cpu" for chunk in chunks):
        return torch.tensor([sum_squares([chunk]) for chunk in chunks], dtype=torch.float64)
    _hpu.has_no("sums of squares of chunks", outs[0])
    return torch.stack([chunk.to(torch.float64).square().sum() for chunk in chunks]).cpu()


def _factor(op: Op, scale: float, n: int) -> float:
    return float(scale) / n if op == "mean" else float(scale)


def _checked(shards: Sequence[Tensor] | Tensor, out: Tensor | None, op: Op) -> tuple[list[Tensor], Tensor]:
    if isinstance(shards, Tensor) and (shards.dim() == 0 or shards.layout is not torch.strided):
        msg = f"one tensor of shape {tuple(shards.shape)} and layout {shards.layout} has no rows that could be shards"
        raise ValueError(msg)
    listed = list(shards.unbind(0)) if isinstance(shards, Tensor) else list(shards)
    if op not in {"sum", "mean"}:
        msg = f"op={op!r}: has to be 'sum' or 'mean'"
        raise ValueError(msg)
    if not FEWEST_SHARDS <= len(listed) <= MOST_SHARDS:
        msg = f"{len(listed)} shards: there have to be {FEWEST_SHARDS} to {MOST_SHARDS}"
        raise ValueError(msg)
    for i, shard in enumerate(listed):
        check_read(f"shard {i}", shard)
    first = listed[0]
    for i, shard in enumerate(listed):
        if (shard.shape, shard.dtype, shard.device) != (first.shape, first.dtype, first.device):
            msg = f"shard {i} is {words(shard)}, shard 0 {words(first)}: they have to be alike"
            raise ValueError(msg)
    listed = [shard.detach() for shard in listed]
    if out is None:
        return listed, torch.empty_like(listed[0])
    check_written("out", out)
    if (out.shape, out.device) != (first.shape, first.device):
        msg = f"out is {words(out)}, the shards {words(first)}: it needs their shape and device"
        raise ValueError(msg)
    return listed, out
