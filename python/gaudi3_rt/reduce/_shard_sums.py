"""What a rank has summed up of its logical shards so far, one backward pass after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.reduce._exchange import Shares
from gaudi3_rt.reduce._layout import Bucket
from gaudi3_rt.reduce._shards import reduce_nodes
from gaudi3_rt.reduce._transfers import transfer
from gaudi3_rt.reduce._tree import node_cover


class ShardSums:
    """Partial sums of one bucket along the tree, in float32: at most one a level, as in a binary counter.

    Args:
        bucket: the bucket.
        shares: which shards the ranks hold.
        rank: this one.
    """

    def __init__(self, bucket: Bucket, shares: Shares, rank: int) -> None:
        self._bucket, self._shares = bucket, shares
        self._begin, self._end = shares.ranges[rank]
        self._next = self._begin
        self._sums: list[Tensor] = []
        self._taken: list[Tensor] = []
        self._free: list[Tensor] = []
        places = zip(bucket.begins, bucket.lengths, strict=True)
        self._segments = [slice(begin, begin + length) for begin, length in places]

    def add(self, grads: Sequence[Tensor]) -> None:
        """Adds the gradients of the next shard, flat, in the order of the bucket."""
        self._taken = []
        before = len(node_cover(self._begin, self._next, self._shares.n_shards))
        self._next += 1
        after = len(node_cover(self._begin, self._next, self._shares.n_shards))
        n_merged = before + 1 - after
        if n_merged == 0:
            self._sums.append(self._pack(grads))
            return
        # The shard is the rightmost leaf, so its additions go up: with each sum on the top of the stack in turn.
        operands = self._sums[before - n_merged :]
        merged = operands[0]
        reduce_nodes(
            [merged[part] for part in self._segments],
            [[*(sums[part] for sums in operands), grad] for part, grad in zip(self._segments, grads, strict=True)],
            [0] * n_merged + [n_merged],
        )
        self._free += operands[1:]
        del self._sums[before - n_merged + 1 :]

    def take(self) -> list[Tensor]:
        """The sums of all nodes of this rank's shards, in order; valid until shards are added again."""
        sums, self._sums = self._sums, []
        self._next = self._begin
        self._free += sums
        self._taken = sums
        return sums

    def drop(self) -> None:
        """Forgets the shards that were added."""
        self.take()
        self._taken = []

    def total(self) -> Tensor | None:
        """The plain sum of the shards so far, copied, also if they were taken; ``None`` if there is none."""
        held = self._taken or self._sums
        return functools.reduce(torch.add, held[1:], held[0].clone()) if held else None

    @property
    def is_taken(self) -> bool:
        """Whether these are all shards of this rank."""
        return bool(self._taken)

    def _pack(self, grads: Sequence[Tensor]) -> Tensor:
        if self._free:
            sums = self._free.pop()
        else:
            sums = torch.zeros(self._bucket.numel, dtype=torch.float32, device=self._bucket.device)
        transfer("cast", list(grads), [sums[part] for part in self._segments], 1.0)
        return sums
