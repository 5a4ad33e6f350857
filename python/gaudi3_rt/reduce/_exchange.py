"""Reduction by exchange: each rank gets all contributions to its slice, sums them up along the tree, and hands it on.

What is sent is rounded at most once before the sum and once after it, never on the way, and every rank stores the bits
that the owner of a slice has computed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gaudi3_rt.reduce._compress import Wire, compress, compressed_numel, decompress
from gaudi3_rt.reduce._layout import Bucket, Segment, Slice
from gaudi3_rt.reduce._shards import reduce_nodes
from gaudi3_rt.reduce._transport import Pending, Transport
from gaudi3_rt.reduce._tree import merge_counts, node_cover

Phases: TypeAlias = Generator[list[Pending], None, None]
"""A reduction under way: gives what has to arrive before it is asked to go on."""


@dataclass(frozen=True)
class Shares:
    """Which logical shards each rank holds, and so which nodes of the tree it sends.

    Attributes:
        n_shards: leaves of the tree.
        ranges: for each rank its first shard and the one after its last.
    """

    n_shards: int
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, n_shards: int, world: int) -> Shares:
        """As equal as they can be, in order."""
        cuts = [n_shards * rank // world for rank in range(world + 1)]
        return cls(n_shards, tuple(itertools.pairwise(cuts)))

    @functools.cached_property
    def nodes(self) -> list[list[tuple[int, int]]]:
        """For each rank the nodes that cover its shards."""
        return [node_cover(begin, end, self.n_shards) for begin, end in self.ranges]

    @functools.cached_property
    def merges(self) -> list[int]:
        """How the nodes of all ranks, in order, are merged."""
        return merge_counts([node for nodes in self.nodes for node in nodes], self.n_shards)

    @property
    def one_each(self) -> bool:
        """Whether every rank holds one shard, whose gradient is sent as it is."""
        return all(end - begin == 1 for begin, end in self.ranges)


class Scratch:
    """Memory for what comes in, shared by buckets that are never under way at the same time."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._memory: dict[int, Tensor] = {}

    def reserve(self, slot: int, n_bytes: int) -> None:
        """Says how much will be asked for."""
        self._sizes[slot] = max(self._sizes.get(slot, 0), n_bytes)

    def tensors(self, slot: int, wanted: Sequence[tuple[int, torch.dtype]], device: torch.device) -> list[Tensor]:
        """Tensors of these lengths and dtypes, one after the other in a slot."""
        memory = self._memory.get(slot)
        if memory is None:
            memory = self._memory[slot] = torch.empty(self._sizes[slot], dtype=torch.uint8, device=device)
        made, at = [], 0
        for numel, dtype in wanted:
            end = at + numel * dtype.itemsize
            made.append(memory[at:end].view(dtype))
            at = _aligned(end)
        return made

    @staticmethod
    def n_bytes(wanted: Sequence[tuple[int, torch.dtype]]) -> int:
        """How much ``tensors`` takes."""
        return sum(_aligned(numel * dtype.itemsize) for numel, dtype in wanted)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


@dataclass(frozen=True)
class Lost:
    """What rounding for the wire has lost, and adds to the next step: float32, by runs of elements of parameters.

    Attributes:
        contributions: a row for each of this rank's.
        means: one row, of those that this rank has formed.
    """

    contributions: tuple[tuple[Segment, Tensor], ...] = ()
    means: tuple[tuple[Segment, Tensor], ...] = ()


class Exchange:
    """The reduction of one bucket; kept from step to step, with its memory.

    Args:
        bucket: the bucket.
        slices: for each rank what of the bucket it sums up.
        shares: what each rank contributes.
        transport: ``None`` without other ranks.
        wire: how contributions and results travel; ``None`` as they are.
        error_feedback: add what rounding for the wire has lost of a contribution or a mean to the next step's.
        scratch: where what comes in is put.
        slot: which of its slots.
        node_dtype: of the contributions; ``None`` for the gradient's where they are single shards, else float32.
        scale: the sum is multiplied by it; ``None`` for the mean over the shards.

    Attributes:
        node_dtype: of the contributions.
        measures: sums of squares come with the sum itself; not if what is stored is rounded once more.
        lost: what rounding for the wire has lost.
    """

    node_scale = 1.0

    def __init__(
        self,
        bucket: Bucket,
        slices: Sequence[Slice],
        shares: Shares,
        transport: Transport | None,
        wire: Wire | None,
        *,
        error_feedback: bool,
        scratch: Scratch,
        slot: int,
        node_dtype: torch.dtype | None = None,
        scale: float | None = None,
    ) -> None:
        self._device, self._slices, self._shares, self._transport = bucket.device, slices, shares, transport
        self._rank = transport.rank if transport else 0
        self._mine = slices[self._rank]
        self._scale = 1.0 / shares.n_shards if scale is None else scale
        self.node_dtype = node_dtype or (bucket.dtype if shares.one_each else torch.float32)
        is_exact = transport is None or (wire == "bfloat16" and self.node_dtype is torch.bfloat16)
        self._wire = None if is_exact else wire
        self._feedback = error_feedback
        self._rounds = self._wire == "int8" or (self._wire is not None and error_feedback)  # from a mean in float32
        self.measures = self._wire is None or (not self._rounds and bucket.dtype is not torch.float16)
        self._scratch, self._slot = scratch, slot
        scratch.reserve(slot, Scratch.n_bytes(self._wanted()))
        self._forms: list[Tensor] = []
        self._memory_of_lost: tuple[Tensor, Tensor] | None = None
        self._views: dict[tuple[int, ...], tuple[list[Tensor], list[list[Tensor]]]] = {}

    def run(self, nodes: list[Tensor], out: Tensor, chunk_sums: Tensor) -> Phases:
        """Reduces the bucket.

        Args:
            nodes: this rank's contributions, flat, of ``node_dtype``; ``out`` may be one of them.
            out: the whole mean, of the bucket's dtype.
            chunk_sums: of this rank's slice, float64; filled if ``measures``.
        """
        mine, wire = self._mine, self._wire
        sent = nodes if wire is None else self._compressed(nodes, wire)
        if self._transport:
            yield self._scatter(self._transport, sent)
        result = out if wire is None else sent[0]
        outs, operands = self._operands(sent, result)
        if self._rounds:
            self._received()[-1].zero_()  # the gaps between parameters travel with them
        if wire == "int8":
            self._decompress(sent)
        if outs:
            sums = chunk_sums if self.measures else None
            reduce_nodes(outs, operands, self._shares.merges, scale=self._scale, chunk_sums=sums)
        if wire is not None and self._rounds and mine.end > mine.begin:
            residuals = self._residuals()
            residual = None if residuals is None else residuals[1]
            compress(self._received()[-1], wire, residual=residual, out=self._part(result, mine))
        if self._transport:
            yield self._gather(self._transport, result)
        if wire is not None:
            decompress(result, out=out)

    # Memory

    def _wanted(self) -> list[tuple[int, torch.dtype]]:
        """Lengths and dtypes of what comes in; as float32 of all contributions that were int8, and of the mean."""
        length = self._mine.end - self._mine.begin
        n_nodes = [len(nodes) for nodes in self._shares.nodes]
        numel, dtype = length, self.node_dtype
        if self._wire is not None:
            numel, dtype = compressed_numel(length, self._wire), form_dtype(self._wire)
        wanted = [(numel, dtype)] * (sum(n_nodes) - n_nodes[self._rank])
        if self._wire == "int8":
            wanted += [(length, torch.float32)] * sum(n_nodes)
        return wanted + [(length, torch.float32)] * self._rounds

    def _received(self) -> list[Tensor]:
        return self._scratch.tensors(self._slot, self._wanted(), self._device)

    def _compressed(self, nodes: list[Tensor], wire: Wire) -> list[Tensor]:
        """The contributions as they travel, in memory that stays."""
        if not self._forms:
            numel = compressed_numel(self._slices[-1].end, wire)
            self._forms = [torch.empty(numel, dtype=form_dtype(wire), device=self._device) for _ in nodes]
        residuals = self._residuals()
        for i, (node, form) in enumerate(zip(nodes, self._forms, strict=True)):
            compress(node, wire, residual=None if residuals is None else residuals[0][i], out=form)
        return self._forms

    def _residuals(self) -> tuple[Tensor, Tensor] | None:
        """What the wire has lost: of each contribution a row, and of the mean; ``None`` if nobody wants to know."""
        if self._memory_of_lost is None and self._feedback and self._wire is not None:
            n_nodes, mine = len(self._shares.nodes[self._rank]), self._mine
            rows = torch.zeros((n_nodes, self._slices[-1].end), dtype=torch.float32, device=self._device)
            self._memory_of_lost = rows, rows.new_zeros(mine.end - mine.begin)
        return self._memory_of_lost

    @property
    def lost(self) -> Lost:
        residuals = self._residuals()
        if residuals is None:
            return Lost()
        (rows, mean), begin = residuals, self._mine.begin
        return Lost(
            tuple((part, rows[:, part.begin : part.end]) for piece in self._slices for part in piece.segments),
            tuple((part, mean[None, part.begin - begin : part.end - begin]) for part in self._mine.segments),
        )

    def _part(self, form: Tensor, piece: Slice) -> Tensor:
        """A slice of what travels."""
        if self._wire is None:
            return form[piece.begin : piece.end]
        return form[compressed_numel(piece.begin, self._wire) : compressed_numel(piece.end, self._wire)]

    # What travels

    def _scatter(self, transport: Transport, sent: list[Tensor]) -> list[Pending]:
        received = iter(self._received())
        receives = [(next(received), rank) for rank in transport.others() for _ in self._shares.nodes[rank]]
        sends = [(self._part(form, self._slices[rank]), rank) for rank in transport.others()[::-1] for form in sent]
        return transport.exchange(sends, receives)

    def _gather(self, transport: Transport, result: Tensor) -> list[Pending]:
        own = self._part(result, self._mine)
        sends = [(own, rank) for rank in transport.others()[::-1]]
        receives = [(self._part(result, self._slices[rank]), rank) for rank in transport.others()]
        return transport.exchange(sends, receives)

    # The sum

    def _operands(self, sent: list[Tensor], result: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Segments of the sum, and of all contributions to it in the order of the shards."""
        key = (result.data_ptr(), *(form.data_ptr() for form in sent))
        if key not in self._views:
            begin = self._mine.begin
            of_slice = self._in_order(sent)
            target, shift = (self._received()[-1], begin) if self._rounds else (result, 0)
            self._views[key] = (
                [target[segment.begin - shift : segment.end - shift] for segment in self._mine.segments],
                [
                    [node[segment.begin - begin : segment.end - begin] for node in of_slice]
                    for segment in self._mine.segments
                ],
            )
        return self._views[key]

    def _in_order(self, sent: list[Tensor]) -> list[Tensor]:
        """This rank's slice of all contributions, in the order of the shards; float32 if they came as int8."""
        received = self._received()
        if self._wire == "int8":
            return received[-1 - sum(map(len, self._shares.nodes)) : -1]
        return self._forms_in_order(sent, received)

    def _forms_in_order(self, sent: list[Tensor], received: list[Tensor]) -> list[Tensor]:
        of_rank: dict[int, list[Tensor]] = {self._rank: [self._part(form, self._mine) for form in sent]}
        incoming = iter(received)
        if self._transport:
            for rank in self._transport.others():
                of_rank[rank] = [next(incoming) for _ in self._shares.nodes[rank]]
        return [form for rank in range(len(self._slices)) for form in of_rank[rank]]

    def _decompress(self, sent: list[Tensor]) -> None:
        received = self._received()
        n_nodes = sum(map(len, self._shares.nodes))
        if self._mine.end > self._mine.begin:
            for form, node in zip(self._forms_in_order(sent, received), received[-1 - n_nodes : -1], strict=True):
                decompress(form, out=node)


def form_dtype(wire: Wire) -> torch.dtype:
    return torch.bfloat16 if wire == "bfloat16" else torch.uint8
