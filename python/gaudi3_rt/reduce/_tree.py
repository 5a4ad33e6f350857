"""Which additions a sum of n shards consists of: one binary tree, whoever holds the shards.

The tree is the perfect one over the smallest power of two >= n leaves, in order, without the leaves from n on; where
one side of an addition is absent, the other is the result as it is. So the sum of six is ``((0+1)+(2+3))+(4+5)``. A
node covers the shards ``[j * 2**level, min((j + 1) * 2**level, n))``.
"""

from __future__ import annotations

from collections.abc import Sequence


def node_cover(begin: int, end: int, n_shards: int) -> list[tuple[int, int]]:
    """The fewest nodes of the tree over ``n_shards`` that together are the shards ``[begin, end)``.

    Args:
        begin: first shard.
        end: the one after the last shard; ``begin`` for no shard at all.
        n_shards: leaves of the tree, >= 1.

    Returns:
        Nodes as (first shard, the one after the last), in order.

    Raises:
        ValueError: not ``0 <= begin <= end <= n_shards``.
    """
    if not 0 <= begin <= end <= n_shards:
        msg = f"shards [{begin}, {end}) of {n_shards}: has to be 0 <= begin <= end <= n_shards"
        raise ValueError(msg)
    nodes = []
    while begin < end:
        size = 1
        while begin % (2 * size) == 0 and size < n_shards and min(begin + 2 * size, n_shards) <= end:
            size *= 2
        nodes.append((begin, min(begin + size, n_shards)))
        begin = nodes[-1][1]
    return nodes


def merge_counts(nodes: Sequence[tuple[int, int]], n_shards: int) -> list[int]:
    """How often the two topmost partial sums are added after each node has been pushed onto a stack.

    Whatever the nodes, the additions above them are those of the tree; in the end one sum is left, that of all shards.

    Args:
        nodes: nodes of the tree over ``n_shards``, in order, that together are all its shards.
        n_shards: leaves of the tree, >= 1.

    Returns:
        One number for each node.

    Raises:
        ValueError: the nodes are not nodes of that tree, or not all of its shards, once and in order.
    """
    stack: list[tuple[int, int]] = []
    counts = []
    reached = 0
    for begin, end in nodes:
        if begin != reached or node_cover(begin, max(end, begin), n_shards) != [(begin, end)]:
            msg = (
                f"[{begin}, {end}) is not the next node of the tree over {n_shards} shards; after {reached} shards "
                f"come, for instance, {node_cover(reached, n_shards, n_shards)}"
            )
            raise ValueError(msg)
        reached = end
        stack.append((begin, end))
        counts.append(0)
        while len(stack) > 1 and _are_siblings(stack[-2], stack[-1], n_shards):
            stack[-2:] = [(stack[-2][0], end)]
            counts[-1] += 1
    if reached != n_shards or n_shards < 1:
        msg = f"the nodes end after {reached} of {n_shards} shards; missing: {node_cover(reached, n_shards, n_shards)}"
        raise ValueError(msg)
    return counts


def leaf_merges(n_shards: int) -> list[int]:
    """``merge_counts`` of shards one by one."""
    return merge_counts([(i, i + 1) for i in range(n_shards)], n_shards)


def _are_siblings(left: tuple[int, int], right: tuple[int, int], n_shards: int) -> bool:
    middle = right[0]
    reach = middle & -middle  # the shards that the larger of two subtrees has, of which the right one begins here
    return left[0] == middle - reach and right[1] == min(middle + reach, n_shards)
