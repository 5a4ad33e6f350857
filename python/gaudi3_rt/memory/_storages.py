"""Which memory a tensor holds: its storages, each with an identity and a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def storages(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Identity and bytes of every storage of a tensor on this rank: one for a plain tensor.

    A DTensor, or any other subclass that wraps tensors, has those of what it wraps; a sparse tensor those of its
    indices and values. Tensors on the meta device have the bytes that they would have elsewhere.
    """
    parts = wrapped(tensor)
    if parts is not None:
        for part in parts:
            yield from storages(part)
    elif tensor.layout is torch.strided:
        storage = tensor.untyped_storage()
        yield storage._cdata, storage.nbytes()
    elif tensor.layout is torch.sparse_coo:
        yield from storages(tensor._indices())
        yield from storages(tensor._values())
    elif tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()):
            yield from storages(part)
    elif tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
        for part in (tensor.ccol_indices(), tensor.row_indices(), tensor.values()):
            yield from storages(part)
    else:  # an opaque layout, such as that of oneDNN
        yield id(tensor), tensor.numel() * tensor.element_size()


def wrapped(tensor: Tensor) -> list[Tensor] | None:
    """The tensors that a subclass such as a DTensor consists of; None for a plain tensor."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return None
    # Some attributes are no tensors: newer DTensors name their mesh.
    return [part for part in (getattr(tensor, name) for name in flatten()[0]) if isinstance(part, Tensor)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from tensors_in(item)


class Count:
    """Bytes of tensors, each storage once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> int:
        """The bytes that this tensor adds to those before."""
        added = 0
        for identity, size in storages(tensor):
            if identity not in self._seen:
                self._seen.add(identity)
                added += size
        return added
