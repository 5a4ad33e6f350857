"""How an index space is cut into boxes, each of which one invocation of a kernel does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from gaudi3_rt.tpc._access import MAX_DIMS

# One row a box: its offset in five dimensions, then its size.
Boxes: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
_MAX_BOXES = 32
_MAX_MEMBERS = 2**31 - 2


def check_index_space(sizes: Sequence[int]) -> tuple[int, ...]:
    """An index space's sizes, dimension 0 first.

    Raises:
        TypeError: it is no sequence.
        ValueError: it has no or more than five dimensions, a negative one, or too many members to count.
    """
    if not isinstance(sizes, Sequence | np.ndarray):
        message = f"index_space is {sizes!r}; give a sequence of 1 to {MAX_DIMS} sizes, as ({sizes!r},)"
        raise TypeError(message)
    space = tuple(int(n) for n in sizes)
    if not 1 <= len(space) <= MAX_DIMS or any(n < 0 for n in space):
        message = f"index_space is {space}; give 1 to {MAX_DIMS} sizes, none negative"
        raise ValueError(message)
    if math.prod(space) > _MAX_MEMBERS:
        message = f"index_space {space} has {math.prod(space)} members; at most {_MAX_MEMBERS} can be run"
        raise ValueError(message)
    return space


def single_members(space: tuple[int, ...], rng: np.random.Generator) -> Boxes:
    """Every member by itself, in random order."""
    n = math.prod(space)
    boxes: Boxes = np.zeros((n, 2 * MAX_DIMS), np.int32)
    boxes[:, MAX_DIMS:] = 1
    boxes[:, : len(space)] = np.stack(np.unravel_index(rng.permutation(n), space), axis=1) if n else 0
    return boxes


def random_boxes(space: tuple[int, ...], rng: np.random.Generator, at_least: int) -> Boxes:
    """A random partition of the space, in random order, with ``at_least`` boxes if there are as many members."""
    n = math.prod(space)
    whole = [0] * MAX_DIMS + list(space) + [1] * (MAX_DIMS - len(space))
    boxes = [whole] if n else []
    least = min(at_least, n)
    wanted = int(rng.integers(least, max(least, min(n, _MAX_BOXES)) + 1)) if n else 0
    while len(boxes) < wanted:
        # The more members a box has, the more likely it is cut.
        members = np.array([math.prod(b[MAX_DIMS:]) for b in boxes], np.float64) - 1
        box = boxes[int(rng.choice(len(boxes), p=members / members.sum()))]
        d = int(rng.choice([d for d in range(len(space)) if box[MAX_DIMS + d] > 1]))
        first = int(rng.integers(1, box[MAX_DIMS + d]))
        rest = box.copy()
        rest[d] += first
        rest[MAX_DIMS + d] -= first
        box[MAX_DIMS + d] = first
        boxes.append(rest)
    order = rng.permutation(len(boxes))
    return np.array(boxes, np.int32).reshape(-1, 2 * MAX_DIMS)[order]
