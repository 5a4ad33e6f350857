"""The pool of a software HPU: blocks never overlap, nothing is lost, and fragments are too small."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gaudi3_rt.testing._memory import ALIGNMENT, OutOfPoolError, Pool

SIZE = 64 * ALIGNMENT


def test_sizes_are_rounded_up():
    """To the alignment."""
    pool = Pool(SIZE)
    assert [pool.allocate(size).size for size in (1, ALIGNMENT, ALIGNMENT + 1)] == [128, 128, 256]
    assert (pool.in_use, pool.largest, pool.allocations) == (512, 256, 3)


def test_fragmentation():
    """Every other block is free: half of the memory, and not two blocks together."""
    pool = Pool(SIZE)
    blocks = [pool.allocate(ALIGNMENT) for _ in range(64)]
    for block in blocks[::2]:
        pool.free(block)
    assert pool.free_bytes == SIZE // 2
    assert pool.largest_free_block == ALIGNMENT
    with pytest.raises(OutOfPoolError) as caught:
        pool.allocate(2 * ALIGNMENT)
    assert caught.value.size == 2 * ALIGNMENT
    pool.free(blocks[1])
    assert pool.allocate(3 * ALIGNMENT).start == 0


def test_the_smallest_hole_that_suffices():
    """So that large ones stay large."""
    pool = Pool(SIZE)
    blocks = [pool.allocate(size * ALIGNMENT) for size in (4, 1, 2, 1)]
    pool.free(blocks[0])
    pool.free(blocks[2])
    assert pool.allocate(2 * ALIGNMENT).start == blocks[2].start
    assert pool.allocate(2 * ALIGNMENT).start == blocks[0].start


def test_the_last_byte():
    """All of the pool can be had, and no more."""
    pool = Pool(SIZE + 100)
    pool.allocate(SIZE)
    with pytest.raises(OutOfPoolError):
        pool.allocate(1)


def test_workspace():
    """Lies at the end, grows and does not shrink, and cannot grow over a tensor."""
    pool = Pool(SIZE)
    pool.grow_workspace(10 * ALIGNMENT)
    pool.grow_workspace(4 * ALIGNMENT)
    assert pool.workspace == 10 * ALIGNMENT
    block = pool.allocate(54 * ALIGNMENT)
    with pytest.raises(OutOfPoolError):
        pool.grow_workspace(11 * ALIGNMENT)
    pool.free(block)
    first = pool.allocate(ALIGNMENT)
    pool.grow_workspace(63 * ALIGNMENT)
    assert (pool.free_bytes, pool.workspace, first.start) == (0, 63 * ALIGNMENT, 0)


def test_workspace_needs_the_end():
    """A hole elsewhere does not help it."""
    pool = Pool(SIZE)
    first = pool.allocate(32 * ALIGNMENT)
    pool.allocate(32 * ALIGNMENT)
    pool.free(first)
    with pytest.raises(OutOfPoolError):
        pool.grow_workspace(ALIGNMENT)


def test_peak():
    """Of what was in use, without the workspace."""
    pool = Pool(SIZE)
    pool.grow_workspace(ALIGNMENT)
    pool.free(pool.allocate(10 * ALIGNMENT))
    assert pool.peak == 10 * ALIGNMENT
    pool.reset_peak()
    assert pool.peak == 0


class PoolMachine(RuleBasedStateMachine):
    """Any order of calls."""

    def __init__(self):
        super().__init__()
        self.pool = Pool(SIZE)
        self.held = []
        self.peak = 0

    @rule(size=st.integers(1, SIZE))
    def allocate(self, size):
        """Succeeds exactly if there is a hole for it."""
        fits = self.pool.largest_free_block >= -(-size // ALIGNMENT) * ALIGNMENT
        try:
            self.held.append(self.pool.allocate(size))
        except OutOfPoolError:
            assert not fits
        else:
            assert fits
        self.peak = max(self.peak, self.pool.in_use)

    @rule(place=st.integers(0, 10**6))
    def free(self, place):
        """Any block."""
        if self.held:
            self.pool.free(self.held.pop(place % len(self.held)))

    @rule(size=st.integers(1, SIZE // 8))
    def grow(self, size):
        """Or not, if something is in the way."""
        before = self.pool.workspace
        try:
            self.pool.grow_workspace(size)
        except OutOfPoolError:
            assert self.pool.workspace == before
        else:
            assert self.pool.workspace >= size

    @invariant()
    def nothing_overlaps_and_nothing_is_lost(self):
        """Blocks, holes and workspace cover the pool; holes do not touch."""
        holes = self.pool._free
        parts = sorted([*self.held, *holes], key=lambda block: block.start)
        end = 0
        for part in parts:
            assert part.start == end
            assert part.size > 0
            end += part.size
        assert end + self.pool.workspace == self.pool.size
        assert all(a.start + a.size < b.start for a, b in pairwise(holes))
        assert self.pool.in_use == sum(block.size for block in self.held)
        assert self.pool.peak == self.peak
        assert self.pool.allocations - self.pool.frees == len(self.held)


TestPool = PoolMachine.TestCase


@given(st.lists(st.integers(1, SIZE), max_size=30))
def test_all_is_free_in_the_end(sizes):
    """After every block was given back, in another order, the pool is one hole."""
    pool = Pool(SIZE)
    blocks = [pool.allocate(size) for size in sizes if pool.largest_free_block >= -(-size // ALIGNMENT) * ALIGNMENT]
    for block in sorted(blocks, key=lambda one: (one.size, -one.start)):
        pool.free(block)
    assert pool.largest_free_block == SIZE
