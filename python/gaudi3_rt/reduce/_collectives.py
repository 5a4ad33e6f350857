"""Reductions whose additions are made on the way: by the backend's collectives, and by a ring of our own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.reduce._buckets import pack_
from gaudi3_rt.reduce._exchange import Lost, Phases
from gaudi3_rt.reduce._layout import Bucket, Slice
from gaudi3_rt.reduce._shards import reduce_nodes
from gaudi3_rt.reduce._transport import Transport


class AllReduce:
    """The backend's all-reduce in float32; gradients are divided by the number of ranks before they are added up.

    Args:
        transport: to the other ranks.

    Attributes:
        node_dtype: of the contribution.
        node_scale: what it has been multiplied by.
        measures: sums of squares have to be taken afterwards.
        lost: as of ``Exchange``; nothing.
    """

    node_dtype = torch.float32
    measures = False
    lost = Lost()

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.node_scale = 1.0 / transport.world

    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor) -> Phases:  # noqa: ARG002 (of all algorithms)
        """Reduces the bucket; arguments as for ``Exchange.run``."""
        (own,) = nodes
        yield self._transport.all_reduce(own)
        if out is not own:
            pack_(out, [own])


class ReduceScatter:
    """The backend's reduce-scatter in float32, then its all-gather in the gradient's dtype.

    Args:
        bucket: the bucket.
        transport: to the other ranks.

    Attributes: as of ``AllReduce``.
    """

    node_dtype = torch.float32
    measures = False
    lost = Lost()

    def __init__(self, bucket: Bucket, transport: Transport) -> None:
        self._transport = transport
        self.node_scale = 1.0 / transport.world
        share = -(-bucket.numel // transport.world)
        self._padded = torch.zeros(share * transport.world, dtype=torch.float32, device=bucket.device)
        self._share = torch.empty(share, dtype=torch.float32, device=bucket.device)
        self._result = torch.empty(share, dtype=bucket.dtype, device=bucket.device)
        self._gathered = torch.empty(share * transport.world, dtype=bucket.dtype, device=bucket.device)

    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor) -> Phases:  # noqa: ARG002 (of all algorithms)
        """Reduces the bucket; arguments as for ``Exchange.run``."""
        (own,) = nodes
        pack_(self._padded[: own.numel()], [own])
        yield self._transport.reduce_scatter(self._share, self._padded)
        pack_(self._result, [self._share])
        yield self._transport.all_gather(self._gathered, self._result)
        out.copy_(self._gathered[: out.numel()])


class Ring:
    """Partial sums in float32 go once around the ranks, then the results in the gradient's dtype.

    Args:
        bucket: the bucket.
        slices: for each rank what of the bucket it completes.
        transport: to the other ranks.

    Attributes:
        node_dtype: of the contribution.
        measures: sums of squares come with the last addition.
        lost: as of ``Exchange``; nothing.
    """

    node_dtype = torch.float32
    node_scale = 1.0
    measures = True
    lost = Lost()

    def __init__(self, bucket: Bucket, slices: Sequence[Slice], transport: Transport) -> None:
        self._slices, self._transport = slices, transport
        longest = max(piece.end - piece.begin for piece in slices)
        self._incoming = torch.empty(longest, dtype=torch.float32, device=bucket.device)

    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor) -> Phases:
        """Reduces the bucket; arguments as for ``Exchange.run``."""
        (own,) = nodes
        rank, world = self._transport.rank, self._transport.world
        right, left = (rank + 1) % world, (rank - 1) % world
        for hop in range(1, world):
            piece = self._slices[(rank - hop - 1) % world]
            part, incoming = own[piece.begin : piece.end], self._incoming[: piece.end - piece.begin]
            yield self._transport.exchange([(self._of(own, rank - hop), right)], [(incoming, left)])
            part.add_(incoming)
        mine = self._slices[rank]
        segments = [slice(segment.begin, segment.end) for segment in mine.segments]
        if segments:
            reduce_nodes(
                [out[s] for s in segments], [[own[s]] for s in segments], [0], scale=1.0 / world, chunk_sums=chunk_sums
            )
        for hop in range(1, world):
            sends = [(self._of(out, rank - hop + 1), right)]
            yield self._transport.exchange(sends, [(self._of(out, rank - hop), left)])

    def _of(self, tensor: Tensor, rank: int) -> Tensor:
        piece = self._slices[rank % len(self._slices)]
        return tensor[piece.begin : piece.end]
