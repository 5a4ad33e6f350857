"""Which parameter lies where: buckets in the order of backward, and the slices of a bucket that the ranks sum up."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaudi3_rt import _core

ALIGNMENT = _core.BLOCK
"""Elements: parameters begin at multiples of it, so that blocks of the int8 wire never span two parameters."""

FIRST_BUCKET_BYTES = 2**20
"""The first bucket is small, so that something travels as soon as backward has begun."""


@dataclass(frozen=True)
class Segment:
    """A run of elements of one parameter; a rank's slice of a bucket consists of them.

    Attributes:
        begin: first element, in the bucket.
        end: the one after the last.
        param: number of the parameter.
        offset: of the first element, in the parameter.
    """

    begin: int
    end: int
    param: int
    offset: int

    @property
    def n_chunks(self) -> int:
        """How many sums of squares are kept for it."""
        return -(-(self.end - self.begin) // _core.CHUNK)


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients travel together; all of one dtype on one device.

    Attributes:
        index: number of the bucket.
        params: numbers of its parameters, in the order in which they lie in it.
        begins: where each begins.
        lengths: how many elements each has.
        numel: elements with the gaps between parameters, which are zero.
        dtype: of its parameters.
        device: of its parameters.
        first_chunk: number of its first sum of squares among those of all buckets.
    """

    index: int
    params: tuple[int, ...]
    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    numel: int
    dtype: torch.dtype
    device: torch.device
    first_chunk: int

    @functools.cached_property
    def chunks(self) -> list[Segment]:
        """The pieces in whose order squares are summed: at most ``_core.CHUNK`` elements of one parameter each."""
        return [
            Segment(begin + offset, begin + min(offset + _core.CHUNK, length), param, offset)
            for param, begin, length in zip(self.params, self.begins, self.lengths, strict=True)
            for offset in range(0, length, _core.CHUNK)
        ]

    def cut(self, n: int) -> list[Slice]:
        """The bucket in n slices of whole chunks, as equal as these allow; the gap after a parameter goes with it."""
        ends = [0, *(chunk.end for chunk in self.chunks)]
        cuts = [0]
        for i in range(1, n):
            wanted = self.numel * i / n
            chunk = bisect.bisect(ends, wanted) - 1
            nearer = chunk + 1 < len(ends) and ends[chunk + 1] - wanted < wanted - ends[chunk]
            cuts.append(max(chunk + nearer, cuts[-1]))
        cuts.append(len(self.chunks))
        begins = [self.chunks[c].begin if c < len(self.chunks) else self.numel for c in cuts]
        begins[0] = 0
        return [
            Slice(
                begins[i], begins[i + 1], self.first_chunk + cuts[i], tuple(_joined(self.chunks[cuts[i] : cuts[i + 1]]))
            )
            for i in range(n)
        ]

    def given_to(self, rank: int, n: int) -> list[Slice]:
        """The whole bucket as the slice of one of n ranks."""
        (whole,) = self.cut(1)
        before = Slice(0, 0, self.first_chunk, ())
        after = Slice(self.numel, self.numel, self.first_chunk, ())
        return [before] * rank + [whole] + [after] * (n - rank - 1)


@dataclass(frozen=True)
class Slice:
    """What of a bucket one rank sums up.

    Attributes:
        begin: first element.
        end: the one after the last.
        first_chunk: number of its first sum of squares among those of all buckets.
        segments: what it consists of.
    """

    begin: int
    end: int
    first_chunk: int
    segments: tuple[Segment, ...]

    @property
    def n_chunks(self) -> int:
        """How many sums of squares belong to it."""
        return sum(segment.n_chunks for segment in self.segments)

    def moved(self, origin: int) -> Slice:
        """The same slice, counted from another element on."""
        segments = tuple(Segment(s.begin - origin, s.end - origin, s.param, s.offset) for s in self.segments)
        return Slice(self.begin - origin, self.end - origin, self.first_chunk, segments)


@dataclass(frozen=True)
class Layout:
    """All buckets, in the order in which they are sent.

    Attributes:
        buckets: the buckets.
        bucket_of: for each parameter the number of its bucket.
        n_chunks: how many sums of squares there are.
        chunks_of: for each parameter its first sum of squares and how many it has.
    """

    buckets: tuple[Bucket, ...]
    bucket_of: tuple[int, ...]
    n_chunks: int
    chunks_of: tuple[tuple[int, int], ...]


def plan(params: Sequence[Tensor], order: Sequence[int], bucket_bytes: int) -> Layout:
    """Lays parameters out in buckets.

    Args:
        params: the parameters.
        order: their numbers in the order in which their gradients come.
        bucket_bytes: a bucket ends before it gets longer than that, unless it is one parameter.
    """
    open_buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    filled: dict[tuple[torch.dtype, torch.device], int] = {}
    groups: list[list[int]] = []
    limit = min(FIRST_BUCKET_BYTES, bucket_bytes)
    for i in order:
        kind = (params[i].dtype, params[i].device)
        size = _padded(params[i]) * params[i].element_size()
        group = open_buckets.setdefault(kind, [])
        if group and filled[kind] + size > limit:
            groups.append(group)
            group = open_buckets[kind] = []
            limit = bucket_bytes
        filled[kind] = (filled[kind] if group else 0) + size
        group.append(i)
    position = {i: at for at, i in enumerate(order)}
    groups.extend(open_buckets.values())
    groups.sort(key=lambda group: position[group[-1]])
    return _laid_out(params, groups)


def _laid_out(params: Sequence[Tensor], groups: list[list[int]]) -> Layout:
    buckets: list[Bucket] = []
    bucket_of, chunks_of = [0] * len(params), [(0, 0)] * len(params)
    n_chunks = 0
    for index, group in enumerate(groups):
        first = n_chunks
        for i in group:
            bucket_of[i] = index
            chunks_of[i] = (n_chunks, -(-params[i].numel() // _core.CHUNK))
            n_chunks += chunks_of[i][1]
        ends = list(itertools.accumulate(_padded(params[i]) for i in group))
        lengths = tuple(params[i].numel() for i in group)
        example = params[group[0]]
        begins = (0, *ends[:-1])
        buckets.append(Bucket(index, tuple(group), begins, lengths, ends[-1], example.dtype, example.device, first))
    return Layout(tuple(buckets), tuple(bucket_of), n_chunks, tuple(chunks_of))


def _padded(param: Tensor) -> int:
    return math.ceil(param.numel() / ALIGNMENT) * ALIGNMENT


def _joined(chunks: Sequence[Segment]) -> list[Segment]:
    """Neighbouring chunks of a parameter as one segment."""
    segments: list[Segment] = []
    for chunk in chunks:
        if segments and segments[-1].param == chunk.param and segments[-1].end == chunk.begin:
            segments[-1] = dataclasses.replace(segments[-1], end=chunk.end)
        else:
            segments.append(chunk)
    return segments
