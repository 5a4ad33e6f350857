"""Which bytes operators make, and how many of them live at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gaudi3_rt.memory._storages import storages, tensors_in


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Follows the storages that operators make, until they are freed; those that operators are given do not count.

    Attributes:
        peak: the most bytes that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()
        self._changes: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operator and looks at its results."""
        del types
        for tensor in tensors_in((args, kwargs or {})):
            self._follow(tensor, counts=False)
        results = self.run(func, args, kwargs or {})
        for tensor in tensors_in(results):
            self._follow(tensor, counts=True)
        return results

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The operator itself."""
        return func(*args, **kwargs)

    def peak_without(self, tensors: Iterable[Tensor]) -> int:
        """The peak if these had not been made."""
        left_out = {self._numbers.get(identity) for tensor in tensors for identity, _ in storages(tensor)}
        live = peak = 0
        for number, change in self._changes:
            if number not in left_out:
                live += change
                peak = max(peak, live)
        return peak

    def _follow(self, tensor: Tensor, *, counts: bool) -> None:
        if tensor.layout is not torch.strided or hasattr(tensor, "__tensor_flatten__"):
            return  # what such a tensor wraps is made by operators of its own
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._known:
            return
        self._known.add(identity)
        size = storage.nbytes() if counts else 0
        number = len(self._changes)
        self._numbers[identity] = number
        self._change(number, size)
        weakref.finalize(storage, self._freed, identity, number, size)

    def _freed(self, identity: int, number: int, size: int) -> None:
        self._known.discard(identity)
        self._numbers.pop(identity, None)
        self._change(number, -size)

    def _change(self, number: int, size: int) -> None:
        self._changes.append((number, size))
        self._live += size
        self.peak = max(self.peak, self._live)
