"""Tensors of a result that are made a block at a time, when they are needed, and never all at once."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**15
"""Elements that are made at a time: as many as torch computes in one thread, so that none is waited for, and as a cache
holds with what is between."""


@dataclass(frozen=True, eq=False)
class Values:
    """A tensor that is made when it is needed.

    Attributes:
        shape: of the tensor.
        dtype: of the tensor.
        part: gives its elements from one number to another, in the order of its indices, as a tensor of one dimension.
        held: the tensor itself, if it exists anyway, in memory or in a mapped file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    part: Callable[[int, int], Tensor]
    held: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Values:
        """A tensor that exists."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda start, stop: elements(tensor, start, stop), tensor)

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    def blocks(self) -> Iterator[Tensor]:
        """All elements in order, some at a time."""
        for start in range(0, self.numel, BLOCK):
            yield self.part(start, min(start + BLOCK, self.numel))

    def make(self) -> Tensor:
        """The whole tensor."""
        if self.held is not None:
            return self.held
        whole: Tensor | None = None
        at = 0
        for block in self.blocks():
            if whole is None:
                whole = torch.empty(self.numel, dtype=self.dtype, device=block.device)
            whole[at : at + block.numel()] = block
            at += block.numel()
        return torch.empty(self.shape, dtype=self.dtype) if whole is None else whole.view(self.shape)

    def to(self, dtype: torch.dtype) -> Values:
        """The same numbers in another dtype; itself if it has that one."""
        if dtype is self.dtype:
            return self
        return Values(self.shape, dtype, lambda start, stop: self.part(start, stop).to(dtype))

    def window(self, first: int, shape: tuple[int, ...]) -> Values:
        """As many elements as a shape has, from one on, in that shape."""
        return Values(shape, self.dtype, lambda start, stop: self.part(first + start, first + stop))


def concatenated(parts: Sequence[Values], shape: tuple[int, ...] | None = None) -> Values:
    """The elements of some tensors of one dtype, one after another, in a shape that has as many; None: in a line."""
    ends = list(itertools.accumulate(part.numel for part in parts))

    def part(start: int, stop: int) -> Tensor:
        taken = []
        number = bisect.bisect_right(ends, start)
        while start < stop:
            first = ends[number] - parts[number].numel
            last = min(stop, ends[number])
            if start < last:
                taken.append(parts[number].part(start - first, last - first))
            start, number = max(start, last), number + 1
        return taken[0] if len(taken) == 1 else torch.cat(taken) if taken else torch.empty(0, dtype=parts[0].dtype)

    return Values((ends[-1],) if shape is None else shape, parts[0].dtype, part)


def elements(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Some elements of a tensor in the order of its indices; a copy of few more, where its memory has another order."""
    if tensor.is_contiguous():
        return tensor.detach().view(-1)[start:stop]
    each = tensor[0].numel()
    first, last = start // each, -(-stop // each)
    if last - first == 1:
        return elements(tensor[first], start - first * each, stop - first * each)
    return tensor.detach()[first:last].reshape(-1)[start - first * each : stop - first * each]
