"""How a software HPU hands out its memory: one pool, blocks where they fit best, and a workspace at its end."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

ALIGNMENT = 128
"""Bytes; a block begins and ends at multiples of it."""


class OutOfPoolError(Exception):
    """No free block is large enough.

    Attributes:
        size: bytes that were asked for.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"no block of {size} bytes is free")
        self.size = size


@dataclass(frozen=True)
class Block:
    """A piece of the pool, in bytes from its beginning."""

    start: int
    size: int


class Pool:
    """Blocks of a pool of ``size`` bytes: the smallest free one that suffices, the first of equals.

    Blocks do not move, so the free memory can be in pieces that are all too small. Habana's allocator tries to move
    tensors together then (``PT_ENABLE_MEMORY_DEFRAGMENTATION``); this one does not.

    Attributes:
        in_use: bytes in blocks, without the workspace.
        peak: the most that was in use since :meth:`reset_peak`.
        workspace: bytes at the end of the pool that graphs share; it grows and does not shrink.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_use = self.peak = self.workspace = 0
        self.allocations = self.frees = self.largest = 0
        self._free = [Block(0, size)]

    def allocate(self, size: int) -> Block:
        """A block of at least ``size`` bytes.

        Raises:
            OutOfPoolError: no free block is large enough.
        """
        rounded = _round_up(size)
        fitting = [block for block in self._free if block.size >= rounded]
        if not fitting:
            raise OutOfPoolError(size)
        hole = min(fitting, key=lambda block: block.size)
        taken = Block(hole.start, rounded)
        self._replace(hole, Block(hole.start + rounded, hole.size - rounded))
        self.in_use += rounded
        self.peak = max(self.peak, self.in_use)
        self.largest = max(self.largest, rounded)
        self.allocations += 1
        return taken

    def free(self, block: Block) -> None:
        """Gives a block back; free neighbours become one."""
        place = bisect.bisect(self._free, block.start, key=lambda other: other.start)
        first, last = block.start, block.start + block.size
        begin = end = place
        if place and self._free[place - 1].start + self._free[place - 1].size == first:
            begin, first = place - 1, self._free[place - 1].start
        if place < len(self._free) and self._free[place].start == last:
            end, last = place + 1, last + self._free[place].size
        self._free[begin:end] = [Block(first, last - first)]
        self.in_use -= block.size
        self.frees += 1

    def grow_workspace(self, size: int) -> None:
        """Makes the workspace at least ``size`` bytes.

        Raises:
            OutOfPoolError: what is free at the pool's end does not suffice.
        """
        more = _round_up(size) - self.workspace
        if more <= 0:
            return
        end = self.size - self.workspace
        last = self._free[-1] if self._free else Block(0, 0)
        if last.start + last.size != end or last.size < more:
            raise OutOfPoolError(size)
        self._replace(last, Block(last.start, last.size - more))
        self.workspace += more

    def reset_peak(self) -> None:
        """The peak is what is in use now."""
        self.peak = self.in_use

    @property
    def free_bytes(self) -> int:
        """Bytes in all free blocks."""
        return sum(block.size for block in self._free)

    @property
    def largest_free_block(self) -> int:
        """Bytes of the largest allocation that would succeed."""
        return max((block.size for block in self._free), default=0)

    def _replace(self, hole: Block, rest: Block) -> None:
        """A free block was used up to a rest."""
        place = self._free.index(hole)
        self._free[place : place + 1] = [rest] if rest.size else []


def _round_up(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
