"""Reduction in two levels: inside groups of neighbouring ranks, which share a machine, then between the groups.

Only the second level leaves the machine, and of each bucket a rank sends there no more than its part. On a wire of
fewer bits it is the second level that is compressed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.reduce._compress import Wire
from gaudi3_rt.reduce._exchange import Exchange, Lost, Phases, Scratch, Shares
from gaudi3_rt.reduce._layout import Bucket, Slice
from gaudi3_rt.reduce._shards import reduce_nodes
from gaudi3_rt.reduce._transport import Transport


class Hierarchy:
    """The reduction of one bucket; kept from step to step, with its memory.

    Rank ``a * size + c`` is member c of group a. First it sums up region c of the bucket over its group, then, with the
    members c of all groups, slice a of that region; and the results go the way back. Where the size is a power of two,
    the sum of a group is a node of the tree over all ranks.

    Args:
        bucket: the bucket.
        slices: one for each rank; region c consists of those with numbers ``c * n_groups + a``.
        size: ranks of a group; divides the number of ranks.
        transport: to the other ranks.
        wire: how partial sums and results travel between groups; ``None`` for float32 and the gradient's dtype.
        error_feedback: as of ``Exchange``.
        scratch: as of ``Exchange``.
        slot: as of ``Exchange``.

    Attributes:
        node_dtype: of the contribution.
        measures: sums of squares come with the sum itself.
        lost: as of ``Exchange``, of this rank's region.
    """

    node_scale = 1.0

    def __init__(
        self,
        bucket: Bucket,
        slices: Sequence[Slice],
        size: int,
        transport: Transport,
        wire: Wire | None,
        *,
        error_feedback: bool,
        scratch: Scratch,
        slot: int,
    ) -> None:
        n_groups = transport.world // size
        group, self._member = divmod(transport.rank, size)
        self._regions = [(slices[c * n_groups].begin, slices[(c + 1) * n_groups - 1].end) for c in range(size)]
        begin, end = self._regions[self._member]
        self._merges = Shares.of(size, size).merges
        self._inside = transport.among(range(group * size, (group + 1) * size))
        self._between = Exchange(
            bucket,
            [piece.moved(begin) for piece in slices[self._member * n_groups : (self._member + 1) * n_groups]],
            Shares.of(n_groups, n_groups),
            transport.among(range(self._member, transport.world, size)),
            wire,
            error_feedback=error_feedback,
            scratch=scratch,
            slot=slot,
            node_dtype=torch.float32,
            scale=1.0 / transport.world,
        )
        self.node_dtype = bucket.dtype
        self.measures = self._between.measures
        self._incoming = [torch.empty(end - begin, dtype=bucket.dtype, device=bucket.device) for _ in range(size - 1)]
        self._partial = torch.empty(end - begin, dtype=torch.float32, device=bucket.device)

    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor) -> Phases:
        """Reduces the bucket; arguments as for ``Exchange.run``."""
        (own,) = nodes
        inside, others = self._inside, self._inside.others()
        incoming = dict(zip(others, self._incoming, strict=True))
        yield inside.exchange([(self._region(own, c), c) for c in others[::-1]], [(incoming[c], c) for c in others])
        mine = self._region(own, self._member)
        if mine.numel():
            contributions = [incoming.get(c, mine) for c in range(inside.world)]
            reduce_nodes([self._partial], [contributions], self._merges)
        yield from self._between.run([self._partial], self._region(out, self._member), chunk_sums)
        result = self._region(out, self._member)
        yield inside.exchange([(result, c) for c in others[::-1]], [(self._region(out, c), c) for c in others])

    @property
    def lost(self) -> Lost:
        return self._between.lost

    def _region(self, tensor: Tensor, member: int) -> Tensor:
        begin, end = self._regions[member]
        return tensor[begin:end]
