"""Whether something written shares memory with something else, for tensors that the kernels do not look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

_MOST_WORK = 100_000  # of a search for two equal addresses; beyond it they count as shared
_SOMEWHERE = 1 << 16  # storages are compared one by one, so that any address will do


def check_apart(written: Sequence[Tensor], read: Iterable[Sequence[Tensor]]) -> None:
    """Refuses what the kernels refuse, on any device and in any layout.

    Args:
        written: tensors that are written.
        read: for each of them those that it is formed from, of which one may be the tensor itself; then others.

    Raises:
        ValueError: two tensors that are written share memory, or one does with another one that is read.
    """
    read = [list(tensors) for tensors in read]
    if all(tensor.is_cpu and tensor.is_contiguous() for tensor in (*written, *itertools.chain(*read))):
        return  # to be looked at by a kernel
    places: dict[int, list[_Place]] = {}
    for number, tensor in enumerate(written):
        _add(places, tensor, number, written=True)
    for number, tensors in enumerate(read):
        for tensor in tensors:
            _add(places, tensor, number, written=False)
    for of_storage in places.values():
        if len(of_storage) > 1 and any(place.written for place in of_storage):
            _check(sorted(of_storage, key=lambda place: place.begin))


class _Place:
    """Where in its storage a tensor is, in bytes."""

    def __init__(self, tensor: Tensor, number: int, *, written: bool) -> None:
        size = tensor.element_size()
        self.number, self.written = number, written
        self.shape, self.strides = tuple(tensor.shape), tuple(size * stride for stride in tensor.stride())
        self.begin = size * tensor.storage_offset()
        self.end = self.begin + size + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        self._type = f"|V{size}"

    def is_same(self, other: _Place) -> bool:
        """Whether each element is where the other's is, which is read before it is written."""
        mine, theirs = ((x.number, x.begin, x.end, x.shape, x.strides) for x in (self, other))
        return mine == theirs and self.written != other.written

    def touches(self, other: _Place) -> bool:
        """Whether some byte is in both."""
        work: Any = _MOST_WORK  # numpy's stubs know two special values only
        try:
            return bool(np.shares_memory(self._array(), other._array(), max_work=work))
        except np.exceptions.TooHardError:
            return True

    def _array(self) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
        """An array at such addresses, which nobody reads."""
        interface = {
            "version": 3,
            "typestr": self._type,
            "shape": self.shape,
            "strides": self.strides,
            "data": (_SOMEWHERE + self.begin, True),
        }
        return np.asarray(SimpleNamespace(__array_interface__=interface))


def _add(places: dict[int, list[_Place]], tensor: Tensor, number: int, *, written: bool) -> None:
    if tensor.numel() == 0:
        return
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a subclass without memory of its own
        return
    places.setdefault(storage, []).append(_Place(tensor, number, written=written))


def _check(in_order: Sequence[_Place]) -> None:
    for i, left in enumerate(in_order):
        for j in range(i + 1, len(in_order)):
            right = in_order[j]
            if right.begin >= left.end:
                break
            if (left.written or right.written) and not left.is_same(right) and left.touches(right):
                msg = "a tensor that is written shares memory with another one; a sum may be one of its own terms"
                raise ValueError(msg)
