"""The gradient norm, taken during backward while each gradient is still in the cache."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from gaudi3_rt import _config, _core
from gaudi3_rt.optim._sharding import is_dtensor


@dataclass(frozen=True)
class _Seen:
    """A gradient whose sum of squares is known, as long as it is that tensor in that version and memory."""

    grad: TensorWeakRef
    version: int
    address: int
    sum_squares: float

    def holds(self, grad: Tensor) -> bool:
        return self.grad() is grad and self.version == grad._version and self.address == grad.data_ptr()


class OverlappedNorms:
    """Hooks on parameters that sum up the squares of a gradient as soon as it is complete.

    A gradient that backward adds to again is summed anew by the hook. One that is replaced or written in between is
    recognised by its identity, memory and autograd version, and read again by ``total``. What autograd is not told of,
    as a write through ``grad.data``, stays unseen.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts hooks on all parameters."""
        self._optimizer = weakref.ref(optimizer)
        self._seen: MutableMapping[Tensor, _Seen] = WeakTensorKeyDictionary()
        for group in optimizer.param_groups:
            self.watch(group["params"])

    def watch(self, params: Iterable[Tensor]) -> None:
        """Puts hooks on more parameters."""
        alive = weakref.ref(self)

        def note(param: Tensor) -> None:
            norms = alive()
            if norms is not None:
                norms._note(param)

        for param in params:
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]

    def total(self) -> float | None:
        """The sum of squares of all gradients; ``None`` if it has to be taken otherwise (shards, other devices)."""
        optimizer = self._optimizer()
        params = [] if optimizer is None else [p for group in optimizer.param_groups for p in group["params"]]
        total = 0.0
        for param in params:
            grad = param.grad
            if grad is None:
                continue
            seen = self._seen.get(param)
            if seen is None or not seen.holds(grad):
                seen = self._note(param)
                if seen is None:
                    return None
            total += seen.sum_squares
        return total

    def _note(self, param: Tensor) -> _Seen | None:
        grad = param.grad
        if grad is None or is_dtensor(grad):
            return None
        (value,) = _core.reduce(_config.isa(), torch.Tensor, "sum_squares", [grad], torch.get_num_threads())
        if value is None:
            return None
        seen = self._seen[param] = _Seen(TensorWeakRef(grad), grad._version, grad.data_ptr(), value)
        return seen
