"""Finds who holds memory: the tensors of a model and its optimizers by name, and all others that Python can see."""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt.memory._report import Holding, MemoryReport, Owner
from gaudi3_rt.memory._storages import storages, tensors_in, wrapped

_META = "meta"


def report(
    *,
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    stats: MemoryStats | None = None,
    others: bool = True,
    top: int = 20,
) -> MemoryReport:
    """Who holds how much memory now.

    Each storage counts once, for the first that has it: parameters, buffers, gradients, the optimizer's state, others.
    Tensors on the meta device, and parameters of lazy modules that have no shape yet, have none, and of a DTensor this
    rank's part counts. Others that cannot be looked at, such as those inside ``torch.func.vmap``, are left out.

    Args:
        model: whose parameters, gradients and buffers are called by their names.
        optimizer: of it, or several; their state is called by its key and parameter.
        stats: of the device, to show beside; see ``Device.memory_stats``.
        others: also look for all other tensors that Python's garbage collector knows; takes some milliseconds.
        top: how many the table shows.
    """
    optimizers = [] if optimizer is None else [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    found: dict[int, _Found] = {}
    for owner, name, key, tensor in _owned(model, optimizers):
        _add(found, owner, name, tensor, key)
    if others:
        for tensor in _all_tensors():
            with contextlib.suppress(Exception):  # of anybody's class, in any state
                _add(found, "other", "", tensor)
    holdings = [one.holding() for one in found.values() if one.owner != "other"]
    holdings += _grouped([one for one in found.values() if one.owner == "other"])
    holdings.sort(key=lambda one: -one.bytes)
    return MemoryReport(tuple(holdings), stats, top)


class _Found:
    """One storage and who has it."""

    def __init__(self, owner: Owner, name: str, key: str, tensor: Tensor, size: int) -> None:
        self.owner, self.name, self.key, self.size = owner, name, key, size
        self.shape = (tensor.numel(),) if tensor.is_nested else tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        self.device = str(tensor.device)
        self.tensors = {id(tensor)}
        self.names: dict[str, None] = {}

    def holding(self) -> Holding:
        return Holding(
            owner=self.owner,
            name=self.name,
            key=self.key,
            shape=self.shape,
            dtype=self.dtype,
            device=self.device,
            bytes=self.size,
            count=len(self.tensors),
            shared_with=tuple(self.names),
        )


def _add(found: dict[int, _Found], owner: Owner, name: str, tensor: Tensor, key: str = "") -> None:
    for part in _parts(tensor):
        if _is_hollow(part):
            continue
        for identity, size in storages(part):
            known = found.get(identity)
            if known is None:
                if size > 0:
                    found[identity] = _Found(owner, name, key, part, size)
                continue
            known.tensors.add(id(part))
            if name and (owner, name, key) != (known.owner, known.name, known.key):
                known.names[name] = None


def _is_hollow(tensor: Tensor) -> bool:
    """Whether it has no memory: a meta tensor, one without a shape yet, or one that torch.compile traces with.

    The last claims another device.
    """
    if tensor.device.type == _META or is_lazy(tensor):
        return True
    return tensor.layout is torch.strided and tensor.untyped_storage().device.type == _META


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor, or what a subclass such as a DTensor wraps."""
    parts = wrapped(tensor)
    if parts is None:
        yield tensor
        return
    for part in parts:
        yield from _parts(part)


def _owned(
    model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[Owner, str, str, Tensor]]:
    """Owner, name, key of state and tensor of all that model and optimizers have."""
    names: dict[Tensor, str] = {}
    for name, param in _named(model, optimizers):
        names.setdefault(param, name)
        yield "parameter", name, "", param
    for name, buffer in [] if model is None else model.named_buffers():
        yield "buffer", name, "", buffer
    for tensor, name in names.items():
        if tensor.grad is not None:
            yield "gradient", name, "", tensor.grad
    for one in optimizers:
        for owner, own in one.state.items():
            name = names.get(owner, "")
            for key, value in own.items() if isinstance(own, dict) else [(str(owner), own)]:
                for tensor in tensors_in(value):
                    yield "optimizer state", name, str(key), tensor


def _named(
    model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters by their names in the model, tied ones by each; then those that only an optimizer knows."""
    known = set()
    for name, param in [] if model is None else model.named_parameters(remove_duplicate=False):
        known.add(param)
        yield name, param
    for number, one in enumerate(optimizers):
        for g, group in enumerate(one.param_groups):
            for i, param in enumerate(group["params"]):
                if param not in known:
                    yield f"{i} of group {g}" + (f" of optimizer {number}" if number else ""), param


def _all_tensors() -> list[Tensor]:
    """Looks at types alone, because asking some objects for their class runs code."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def _grouped(found: Sequence[_Found]) -> list[Holding]:
    """Others have no names: those of one form stand together."""
    groups: dict[tuple[Any, ...], list[_Found]] = defaultdict(list)
    for one in found:
        groups[one.shape, one.dtype, one.device].append(one)
    return [
        Holding(
            owner="other",
            name="",
            shape=shape,
            dtype=dtype,
            device=device,
            bytes=sum(one.size for one in group),
            count=sum(len(one.tensors) for one in group),
        )
        for (shape, dtype, device), group in groups.items()
    ]
