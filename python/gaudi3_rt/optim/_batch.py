"""The tensors of one optimizer step, wherever they live: in the kernels' list, staged beside it, or elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.optim._sharding import Sharding, is_dtensor, local_shards

logger = logging.getLogger(__name__)

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Composite(Protocol):
    """One update by torch operations, for what the kernels do not reach."""

    def __call__(
        self, hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor]
    ) -> None:
        """Updates ``param`` and ``states`` in place; ``grad`` is already scaled and in the dtype of the arithmetic."""


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that the kernels do not reach: another device, float64, or a tensor subclass."""

    composite: Composite
    hyper: Sequence[float]
    sign: float
    tensors: list[Tensor]
    step: Tensor

    def grad(self) -> Tensor:
        """The gradient in the dtype of the arithmetic."""
        return self.tensors[1].to(torch.promote_types(self.tensors[0].dtype, torch.float32))

    def apply(self, factor: float) -> None:
        """Takes the step."""
        t = float(self.step) + 1
        self.composite(self.hyper, t, self.tensors[0], self.grad() * (factor * self.sign), self.tensors[2:])
        self.step.fill_(t)


@dataclass
class Batch:
    """Collects tensors with ``add`` and takes their step at once with ``step``; reused from step to step."""

    _list: _core.TensorList = field(default_factory=lambda: _core.TensorList(_config.isa(), torch.Tensor))
    _staged: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (where a result belongs, where it is computed)
    _elsewhere: list[Elsewhere] = field(default_factory=list)
    _shardings: dict[int, Sharding] = field(default_factory=dict)  # by position in _list
    _written: list[Tensor] = field(default_factory=list)

    def clear(self) -> None:
        """Forgets all tensors."""
        self._list.clear()
        for collection in (self._staged, self._elsewhere, self._shardings, self._written):
            collection.clear()

    def add_from_state(
        self,
        kernel: str,
        hyper: Sequence[float],
        params: list[Tensor],
        state: dict[Tensor, dict[str, Tensor]],
        composite: Composite,
        *,
        maximize: bool,
        name: Callable[[int], str],
    ) -> list[int]:
        """Adds those parameters of a group that have a gradient, with their entries of an optimizer's state.

        Returns:
            Indices of parameters whose state is missing or incomplete; they were not added.

        Args and errors: as for ``add``.
        """
        missing = []
        keys = _core.describe_kernel(kernel)["state"]
        for i in self._list.extend_from_state(kernel, hyper, maximize, params, state):
            own = state.get(params[i], {})
            if "step" in own and all(key in own for key in keys):
                tensors = [params[i], params[i].grad, *(own[key] for key in keys)]
                self._add_slowly(kernel, hyper, tensors, own["step"], composite, maximize=maximize, name=name(i))
            else:
                missing.append(i)
        self._written += params
        return missing

    def add(
        self,
        kernel: str,
        hyper: Sequence[float],
        operands: Sequence[list[Tensor]],
        steps: list[Tensor],
        composite: Composite,
        *,
        maximize: bool,
        name: Callable[[int], str],
    ) -> None:
        """Adds tensors that share their hyper-parameters.

        Args:
            kernel: name of the kernel.
            hyper: its hyper-parameters, in its order.
            operands: lists of parameters, gradients and states, in the kernel's order.
            steps: step counters, 0-d, one per parameter.
            composite: the same update in torch operations.
            maximize: ascend instead of descend.
            name: how to call parameter number i in an error.

        Raises:
            ValueError: a shape differs from its parameter's, or a tensor that is written overlaps itself.
            TypeError: a tensor has a dtype or layout with which no step can be taken.
        """
        for i in self._list.extend(kernel, hyper, maximize, operands, steps):
            tensors = [operand[i] for operand in operands]
            self._add_slowly(kernel, hyper, tensors, steps[i], composite, maximize=maximize, name=name(i))
        self._written += operands[0]

    def _add_slowly(
        self,
        kernel: str,
        hyper: Sequence[float],
        tensors: list[Tensor],
        step: Tensor,
        composite: Composite,
        *,
        maximize: bool,
        name: str,
    ) -> None:
        """Adds one tensor that the list could not take as it is: a shard, a view, or one that has to go elsewhere."""
        sharding = None
        if is_dtensor(tensors[0]):
            tensors, sharding = local_shards(tensors, name)
        check_tensors(tensors, name)
        if all(_has_cpu_memory(tensor) for tensor in (*tensors, step)):
            if sharding is not None:
                self._shardings[len(self._list)] = sharding
            self._stage(kernel, hyper, maximize, tensors, step)
        else:
            _announce(tensors[0])
            self._elsewhere.append(Elsewhere(composite, hyper, -1.0 if maximize else 1.0, tensors, step))

    def _stage(self, kernel: str, hyper: Sequence[float], maximize: bool, tensors: list[Tensor], step: Tensor) -> None:
        """Adds one tensor, with dense copies in place of operands that are not laid out like a dense parameter."""
        layout = torch.empty_like(tensors[0], memory_format=torch.preserve_format)
        operands = []
        for j, tensor in enumerate(tensors):
            copy = tensor
            if tensor.stride() != layout.stride() or tensor.is_neg():
                copy = torch.empty_like(layout, dtype=tensor.dtype).copy_(tensor)
                if j != 1:
                    self._staged.append((tensor, copy))
            operands.append([copy])
        counter = step
        if step.dtype not in {torch.float32, torch.float64} or step.numel() != 1:
            counter = step.to(torch.float32).reshape(())
            self._staged.append((step, counter))
        if self._list.extend(kernel, hyper, maximize, operands, [counter]):
            msg = f"cannot step a tensor of dtype {tensors[0].dtype} and shape {tuple(tensors[0].shape)} on the CPU"
            raise TypeError(msg)

    def step(self, *, grad_factor: float, max_norm: float | None, skip_nonfinite: bool) -> tuple[float | None, bool]:
        """Takes the step.

        Args:
            grad_factor: gradients are multiplied by this as they are read.
            max_norm: clip the L2 norm of all gradients together to this; ``None`` does not compute it.
            skip_nonfinite: do nothing if a gradient is not finite; needs ``max_norm``.

        Returns:
            The norm before clipping (``None`` without ``max_norm``), and whether the step was taken.

        Raises:
            ValueError: tensors that are written overlap in memory.
        """
        n_threads = torch.get_num_threads()
        if not self._elsewhere and not self._shardings:
            norm, stepped = self._list.step(n_threads, grad_factor, max_norm, skip_nonfinite)
        else:
            norm = None
            if max_norm is not None:
                norm = math.sqrt(self.sum_squares()) * abs(grad_factor)
                if skip_nonfinite and not math.isfinite(norm):
                    return norm, False
                grad_factor *= clip_coefficient(norm, max_norm)
            _, stepped = self._list.step(n_threads, grad_factor)
            for item in self._elsewhere:
                item.apply(grad_factor)
        if stepped:
            for tensor, copy in self._staged:
                tensor.copy_(copy.reshape(tensor.shape))
            # The kernels wrote behind autograd's back: a backward through an old value must fail, as it does in torch.
            torch.autograd.graph.increment_version(self._written)
        return norm, stepped

    def sum_squares(self) -> float:
        """The sum of squares of all gradients, over all shards of all ranks."""
        total = 0.0
        by_sharding: dict[Sharding, float] = {}
        for i, value in enumerate(self._list.reduce_grads("sum_squares", torch.get_num_threads())):
            sharding = self._shardings.get(i)
            if sharding is None:
                total += value
            else:
                by_sharding[sharding] = by_sharding.get(sharding, 0.0) + value
        for sharding, value in by_sharding.items():
            total += sharding.complete(value)
        for item in self._elsewhere:
            total += float(torch.linalg.vector_norm(item.grad())) ** 2
        return total


def clip_coefficient(norm: float, max_norm: float) -> float:
    """What ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by; NaN if the norm is."""
    coefficient = max_norm / (norm + 1e-6)
    return 1.0 if coefficient > 1 else coefficient


def _has_cpu_memory(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and (tensor.dtype in _KERNEL_DTYPES or tensor.numel() == 1)
        and type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    )


def check_tensors(tensors: Sequence[Tensor], where: str) -> None:
    """Refuses a parameter, its gradient or its states (in this order) if no step can be taken with them."""
    for j, tensor in enumerate(tensors):
        what = f"{where}: the {('parameter', 'gradient', 'state')[min(j, 2)]}"
        if not tensor.is_floating_point():
            msg = f"{what} has dtype {tensor.dtype}; allowed are real floating-point dtypes"
            raise TypeError(msg)
        if tensor.layout is not torch.strided:
            msg = f"{what} has layout {tensor.layout}; only dense tensors can be stepped (torch.optim.SparseAdam takes sparse gradients)"
            raise TypeError(msg)
        if tensor.shape != tensors[0].shape:
            msg = f"{what} has shape {tuple(tensor.shape)}, the parameter has {tuple(tensors[0].shape)}; they must be equal"
            raise ValueError(msg)
        if j != 1 and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            msg = f"{what} is an expanded view whose elements share memory, so it cannot be written; clone() it first"
            raise ValueError(msg)


_announced: set[tuple[str, torch.dtype]] = set()


def _announce(param: Tensor) -> None:
    key = (param.device.type, param.dtype)
    if key not in _announced:
        _announced.add(key)
        logger.warning(
            "no kernel for %s tensors on device '%s': stepping those with torch operations (same formula, slower)",
            param.dtype,
            param.device.type,
        )
