"""The tree of additions: covers of ranges of shards, and merges that give one tree whatever the cover."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt.reduce import merge_counts, node_cover


def tree(begin, end, width, n):
    """The additions of leaves [begin, begin + width) without those from n on, as nested pairs; the definition."""
    if begin >= n:
        return None
    if width == 1:
        return begin
    left, right = tree(begin, end, width // 2, n), tree(begin + width // 2, end, width // 2, n)
    return left if right is None else (left, right)


def whole(n):
    """The tree over n shards."""
    width = 1
    while width < n:
        width *= 2
    return tree(0, n, width, n)


def shards_of(node):
    """The leaves of nested pairs, in order."""
    return [node] if isinstance(node, int) else [*shards_of(node[0]), *shards_of(node[1])]


def nodes_of(node):
    """All nodes of nested pairs, by (first, end), with their pairs."""
    leaves = shards_of(node)
    found = {(leaves[0], leaves[-1] + 1): node}
    return found if isinstance(node, int) else {**found, **nodes_of(node[0]), **nodes_of(node[1])}


def merged(nodes, n):
    """The additions that merge_counts asks for, as nested pairs."""
    all_nodes, stack = nodes_of(whole(n)), []
    for node, count in zip(nodes, merge_counts(nodes, n), strict=True):
        stack.append(all_nodes[node])
        for _ in range(count):
            right = stack.pop()
            stack[-1] = (stack[-1], right)
    assert len(stack) == 1
    return stack[0]


def test_six_shards():
    """The example of the documentation."""
    assert whole(6) == (((0, 1), (2, 3)), (4, 5))
    assert merge_counts([(i, i + 1) for i in range(6)], 6) == [0, 1, 0, 2, 0, 2]


@pytest.mark.parametrize("n", [*range(1, 18), 31, 33, 63, 64])
def test_any_cover_gives_the_tree(n):
    """Shards one by one, and the covers of any two ranges side by side."""
    assert merged([(i, i + 1) for i in range(n)], n) == whole(n)
    for cut in range(n + 1):
        assert merged(node_cover(0, cut, n) + node_cover(cut, n, n), n) == whole(n)


@given(n=st.integers(1, 200), data=st.data())
def test_any_number_of_ranks_gives_the_tree(n, data):
    """Ranks with any numbers of shards, none too."""
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))
    ranges = itertools.pairwise([0, *cuts, n])
    assert merged([node for begin, end in ranges for node in node_cover(begin, end, n)], n) == whole(n)


@pytest.mark.parametrize("n", range(1, 14))
def test_covers_are_the_fewest_nodes(n):
    """By trying all ways to put nodes side by side."""
    nodes = set(nodes_of(whole(n)))
    fewest = {(i, i): 0 for i in range(n + 1)}
    for width in range(1, n + 1):
        for begin in range(n + 1 - width):
            ends = [end for first, end in nodes if first == begin and end <= begin + width]
            fewest[begin, begin + width] = 1 + min(fewest[end, begin + width] for end in ends)
    for (begin, end), count in fewest.items():
        cover = node_cover(begin, end, n)
        assert len(cover) == count
        assert set(cover) <= nodes
        assert [shard for first, last in cover for shard in range(first, last)] == list(range(begin, end))


@pytest.mark.parametrize(
    ("nodes", "n"),
    [
        ([(0, 1)], 2),
        ([(0, 2), (1, 2)], 2),
        ([(1, 2), (0, 1)], 2),
        ([(0, 3)], 4),
        ([(0, 1), (1, 3), (3, 4)], 4),
        ([(0, 2), (2, 2), (2, 4)], 4),
        ([(0, 4), (4, 8)], 6),
        ([], 1),
        ([], 0),
    ],
)
def test_what_is_no_cover_is_refused(nodes, n):
    """Nodes of another tree, out of order, with gaps, empty, or beyond the end."""
    with pytest.raises(ValueError, match=r"shards"):
        merge_counts(nodes, n)


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (2, 1), (0, 5)])
def test_ranges_that_are_none_are_refused(begin, end):
    """Beyond the shards, or the wrong way round."""
    with pytest.raises(ValueError, match=r"0 <= begin <= end <= n_shards"):
        node_cover(begin, end, 4)
