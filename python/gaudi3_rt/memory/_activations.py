"""How many bytes forward and backward make at most at once, from a run on tensors that have no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._live import LiveBytes
from gaudi3_rt.memory._storages import tensors_in


def activation_bytes(model: torch.nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None) -> int:
    """The peak of what forward and backward make, without gradients of parameters.

    Args:
        model: anywhere, also on the meta device.
        batch: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        loss: makes the loss of what the model returns; by default its ``loss``, or the sum of what it returns.

    Raises:
        ParameterValidationError: model or loss depend on the values of tensors, or fail.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            tensors = {name: _like(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
            inputs = pytree.tree_map_only(Tensor, _like, batch)
            with LiveBytes() as live:
                _forward_backward(model, tensors, inputs, loss)
            peak: int = live.peak_without(tensor.grad for tensor in tensors.values() if tensor.grad is not None)
    except Exception as error:
        msg = (
            f"activations cannot be estimated with this batch: forward or backward on tensors without memory raised "
            f"{type(error).__name__}: {error}; give another batch, or none for a plan without activations"
        )
        raise ParameterValidationError(msg) from error
    return peak


def _like(tensor: Tensor) -> Tensor:
    """A fake CPU tensor of the same form; of a DTensor the whole, as its forward gathers it."""
    if tensor.layout is not torch.strided:
        return tensor
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return made.requires_grad_(tensor.requires_grad)


def _forward_backward(
    model: torch.nn.Module, tensors: dict[str, Tensor], inputs: Any, loss: Callable[[Any], Tensor] | None
) -> None:
    if isinstance(inputs, Mapping):
        output = torch.func.functional_call(model, tensors, (), dict(inputs))
    else:
        arguments = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
        output = torch.func.functional_call(model, tensors, arguments)
    value = _sum(output) if loss is None else loss(output)
    if value is not None and value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]


def _sum(output: Any) -> Tensor | None:
    own = getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    parts = [tensor.sum() for tensor in tensors_in(output) if tensor.requires_grad]
    return torch.stack(parts).sum() if parts else None
