"""Makes a plan: counts what a model has, and what an optimizer would keep and make for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._activations import activation_bytes
from gaudi3_rt.memory._plan import Kind, Plan, PlanItem
from gaudi3_rt.memory._shadow import Make, Shadow, shadow
from gaudi3_rt.memory._storages import Count

Optimizers = torch.optim.Optimizer | Make | Sequence[torch.optim.Optimizer] | None


def plan(
    model: torch.nn.Module,
    optimizer: Optimizers = None,
    *,
    batch: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Plan:
    """The bytes that a training takes on this rank, from shapes and dtypes; nothing is allocated.

    Parameters, buffers and gradients are those of the model; frozen parameters have no gradient and tied ones count
    once. The optimizer's state, and the workspace that its step takes on a CPU, are found by steps on tensors of the
    meta device, so they are exact for every optimizer whose step works there. Activations are estimated if a batch is
    given.

    Args:
        model: anywhere, also on the meta device. Of a DTensor, this rank's part counts.
        optimizer: an optimizer of it or several; or what makes one of its parameters: a class, or a
            ``functools.partial`` of one with its options. None: none.
        batch: what the model is called with, for an estimate of activations: a tensor, a tuple of arguments, or a
            mapping of keyword arguments; on the meta device too. What holds in the caller, such as ``torch.autocast``,
            holds for the estimate.
        loss: makes the loss of what the model returns; by default its ``loss``, or the sum of what it returns.

    Raises:
        ParameterValidationError: an optimizer's step, or the model with this batch, depends on values of tensors, or a
            parameter of a lazy module has no shape yet.
    """
    if not isinstance(model, torch.nn.Module):
        msg = f"model={type(model).__name__}: must be a torch.nn.Module"
        raise ParameterValidationError(msg)
    shapeless = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if is_lazy(tensor)]
    if shapeless:
        msg = f"{', '.join(shapeless[:3])} of the model: no shape yet, so no bytes; call the model once with a batch"
        raise ParameterValidationError(msg)
    shadows = _shadows(optimizer, list(model.parameters()))
    params = list(dict.fromkeys([*model.parameters(), *(p for one in shadows for p in one.sources.values())]))
    sparse = _sparse(model)
    items = [
        *_lines("parameters", params),
        *_lines("buffers", model.buffers()),
        *_lines(
            "gradients", (_gradient(p) for p in params if p.requires_grad and (p.grad is not None or p not in sparse))
        ),
        *_state(shadows),
    ]
    if shadows:
        items.append(PlanItem(kind="step workspace", bytes=max(one.workspace for one in shadows)))
    if batch is not None:
        items.append(PlanItem(kind="activations", bytes=activation_bytes(model, batch, loss), basis="estimated"))
    return Plan(tuple(items), tuple(_notes(batch, [p for p in sparse if p.requires_grad and p.grad is None])))


def _shadows(optimizer: Optimizers, params: list[torch.nn.Parameter]) -> list[Shadow]:
    if optimizer is None:
        return []
    if isinstance(optimizer, list | tuple):
        return [Shadow(one, params) for one in optimizer]
    if not isinstance(optimizer, torch.optim.Optimizer) and not callable(optimizer):
        msg = f"optimizer={optimizer!r}: must be an optimizer, a list of them, or what makes one of parameters"
        raise ParameterValidationError(msg)
    return [Shadow(optimizer, params)]


def _gradient(param: Tensor) -> Tensor:
    return torch.empty_like(shadow(param)) if param.grad is None else param.grad


def _lines(kind: Kind, tensors: Iterable[Tensor]) -> list[PlanItem]:
    """One for each dtype."""
    count, size, number = Count(), Counter[str](), Counter[str]()
    for tensor in list(tensors):
        dtype = _dtype(tensor)
        size[dtype] += count.add(tensor)
        number[dtype] += 1
    return [PlanItem(kind=kind, dtype=dtype, tensors=number[dtype], bytes=size[dtype]) for dtype in size]


def _state(shadows: Sequence[Shadow]) -> list[PlanItem]:
    """One for each key and dtype."""
    count, size, number = Count(), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for one in shadows:
        for key, tensor, _ in one.kept():
            group = (key, _dtype(tensor))
            size[group] += count.add(tensor)
            number[group] += 1
    return [
        PlanItem(kind="optimizer state", name=key, dtype=dtype, tensors=number[key, dtype], bytes=size[key, dtype])
        for key, dtype in size
    ]


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _sparse(model: torch.nn.Module) -> list[Tensor]:
    """Parameters that get sparse gradients."""
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return [module.weight for module in model.modules() if isinstance(module, kinds) and module.sparse]


def _notes(batch: Any, sparse: Sequence[Tensor]) -> Iterable[str]:
    if batch is None:
        yield "activations are not included; give a batch for an estimate"
    if sparse:
        yield (
            f"sparse gradients ({len(sparse)} parameters), and their part of a step, depend on the batch and are not "
            "included; state that an optimizer keeps sparse counts as dense"
        )
