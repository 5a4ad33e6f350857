"""The tensors of one optimizer step, wherever they live: in the kernels' list, staged beside it, or elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
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

    def __call__(self, hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor]) -> None:
        """Updates ``param`` and ``states`` in place.

        Args:
            hyper: the kernel's hyper-parameters.
            t: number of this step; the first is 1.
            param: any floating-point dtype, any device.
            grad: already scaled, in the dtype of the arithmetic (float32, or float64 for a float64 parameter).
            states: in the kernel's order.
        """


COMPOSITES: dict[str, Composite] = {}
"""The update of each kernel in torch operations; filled in by the module of its optimizer."""


@dataclass(frozen=True)
class Rule:
    """How the parameters of one group are updated.

    Attributes:
        kernel: name of the kernel.
        hyper: its hyper-parameters, in its order.
        maximize: ascend instead of descend.
        group: index of the group, for errors.
    """

    kernel: str
    hyper: Sequence[float]
    maximize: bool = False
    group: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that the kernels do not reach: another device, float64, or a tensor subclass."""

    rule: Rule
    tensors: list[Tensor]
    step: Tensor
    sharding: Sharding | None

    def grad(self) -> Tensor:
        """The gradient in the dtype of the arithmetic."""
        return self.tensors[1].to(torch.promote_types(self.tensors[0].dtype, torch.float32))

    def apply(self, factor: float) -> None:
        """Takes the step."""
        t = float(self.step) + 1
        grad = self.grad() * (-factor if self.rule.maximize else factor)
        COMPOSITES[self.rule.kernel](self.rule.hyper, t, self.tensors[0], grad, self.tensors[2:])
        self.step.fill_(t)


@dataclass
class Batch:
    """Collects tensors with ``add`` or ``add_from_state`` and steps them at once; reused from step to step."""

    _list: _core.TensorList = field(default_factory=lambda: _core.TensorList(_config.isa(), torch.Tensor))
    _staged: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (where a result belongs, where it is computed)
    _elsewhere: list[Elsewhere] = field(default_factory=list)
    _shardings: dict[int, Sharding] = field(default_factory=dict)  # by position in _list
    _wrappers: list[Tensor] = field(default_factory=list)  # parameters whose memory is in _list under another name

    def clear(self) -> None:
        """Forgets all tensors."""
        self._list.clear()
        for collection in (self._staged, self._elsewhere, self._shardings, self._wrappers):
            collection.clear()

    def add_from_state(self, rule: Rule, params: list[Tensor], state: dict[Tensor, dict[str, Tensor]]) -> list[int]:
        """Adds those parameters of a group that have a gradient, with their entries of an optimizer's state.

        Returns:
            Indices of parameters whose state is missing or incomplete; they were not added.

        Raises:
            ValueError: a shape differs from its parameter's, or a tensor that is written overlaps itself.
            TypeError: a tensor has a dtype, layout or placement with which no step can be taken.
        """
        missing = []
        keys = _core.describe_kernel(rule.kernel)["state"]
        for i in self._list.extend_from_state(rule.kernel, rule.hyper, rule.maximize, params, state, rule.group):
            own = state.get(params[i], {})
            if "step" in own and all(key in own for key in keys):
                grad = params[i].grad
                assert grad is not None  # noqa: S101 (extend_from_state leaves out what has none)
                self._add_slowly(rule, i, [params[i], grad, *(own[key] for key in keys)], own["step"])
            else:
                missing.append(i)
        return missing

    def add(self, rule: Rule, operands: Sequence[list[Tensor]], steps: list[Tensor]) -> None:
        """Adds lists of parameters, gradients and states, in the kernel's order, and their step counters.

        Raises:
            ValueError, TypeError: as ``add_from_state``.
        """
        for i in self._list.extend(rule.kernel, rule.hyper, rule.maximize, operands, steps, rule.group):
            self._add_slowly(rule, i, [operand[i] for operand in operands], steps[i])

    def _add_slowly(self, rule: Rule, index: int, tensors: list[Tensor], step: Tensor) -> None:
        """Adds one tensor that the list could not take as it is: a shard, a view, or one that has to go elsewhere."""
        where = f"parameter {index} of group {rule.group}"
        param = tensors[0]
        sharding = None
        if is_dtensor(param):
            tensors, sharding = local_shards(tensors, where)
        check_tensors(tensors, where)
        if not all(_has_cpu_memory(tensor) for tensor in (*tensors, step)):
            _announce(tensors[0])
            self._elsewhere.append(Elsewhere(rule, tensors, step, sharding))
            return
        if sharding is not None:
            self._shardings[len(self._list)] = sharding
        self._wrappers.append(param)
        # Dense copies stand in for operands that are not laid out like a dense parameter.
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
        if step.dtype not in {torch.float32, torch.float64}:
            counter = step.to(torch.float32)
            self._staged.append((step, counter))
        if self._list.extend(rule.kernel, rule.hyper, rule.maximize, operands, [counter], rule.group, index):
            shape = tuple(step.shape)
            msg = f"{where}: either a tensor's memory is not allocated, or its step counter of shape {shape} is not 0-d"
            raise ValueError(msg)

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
                norm = math.sqrt(self._sum_squares()) * abs(grad_factor)
                if skip_nonfinite and not math.isfinite(norm):
                    return norm, False
                grad_factor *= clip_coefficient(norm, max_norm)
            _, stepped = self._list.step(n_threads, grad_factor)
            for item in self._elsewhere:
                item.apply(grad_factor)
        if stepped:
            for tensor, copy in self._staged:
                tensor.copy_(copy)
            # The kernels write behind autograd's back: a backward through an old value must fail, as it does in torch.
            torch.autograd.graph.increment_version(self._list.params)
            torch.autograd.graph.increment_version(self._wrappers)
        return norm, stepped

    def _sum_squares(self) -> float:
        """The sum of squares of all gradients, over all shards of all ranks."""
        sums: dict[Sharding | None, float] = {None: 0.0}
        for i, value in enumerate(self._list.reduce_grads("sum_squares", torch.get_num_threads())):
            sharding = self._shardings.get(i)
            sums[sharding] = sums.get(sharding, 0.0) + value
        for item in self._elsewhere:
            value = float(torch.linalg.vector_norm(item.grad())) ** 2
            sums[item.sharding] = sums.get(item.sharding, 0.0) + value
        return sum(value if sharding is None else sharding.complete(value) for sharding, value in sums.items())


def clip_coefficient(norm: float, max_norm: float) -> float:
    """What ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by; NaN if the norm is."""
    coefficient = max_norm / (norm + 1e-6)
    return 1.0 if coefficient > 1 else coefficient


def check_tensors(tensors: Sequence[Tensor], where: str) -> None:
    """Refuses a parameter, its gradient or its states (in this order) if no step can be taken with them.

    Raises:
        TypeError: not a real floating-point dtype, or not dense.
        ValueError: a shape differs from the parameter's, or elements of a tensor that is written share memory.
    """
    for j, tensor in enumerate(tensors):
        what = f"{where}: the {('parameter', 'gradient', 'state')[min(j, 2)]}"
        if not tensor.is_floating_point():
            msg = f"{what} has dtype {tensor.dtype}; allowed are real floating-point dtypes"
            raise TypeError(msg)
        if tensor.layout is not torch.strided:
            msg = f"{what} has layout {tensor.layout}; only dense tensors can be stepped (see torch.optim.SparseAdam)"
            raise TypeError(msg)
        if tensor.shape != tensors[0].shape:
            shapes = f"{tuple(tensor.shape)}, the parameter has {tuple(tensors[0].shape)}"
            msg = f"{what} has shape {shapes}; shapes must be equal"
            raise ValueError(msg)
        if j != 1 and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            msg = f"{what} is an expanded view whose elements share memory, so it cannot be written; clone() it first"
            raise ValueError(msg)


def _has_cpu_memory(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and (tensor.dtype in _KERNEL_DTYPES or tensor.ndim == 0)
        and type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    )


_announced: set[tuple[str, torch.dtype]] = set()


def _announce(param: Tensor) -> None:
    key = (param.device.type, param.dtype)
    if key not in _announced:
        _announced.add(key)
        logger.warning(
            "no kernel for %s tensors on device '%s': stepping them with torch operations (same formula, slower)",
            *key[::-1],
        )
