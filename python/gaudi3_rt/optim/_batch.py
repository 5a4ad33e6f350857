"""The tensors of one optimizer step, wherever they live: in the kernels' list, staged beside it, or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.optim import _hpu, _hpu_grads
from gaudi3_rt.optim._elsewhere import Elsewhere, announce, have_kernels, hint
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._sharding import Sharding, is_dtensor, local_shards, shard_elements


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
        for i in self._list.extend_from_state(rule, params, state):
            own = state.get(params[i], {})
            if next(rule.storage.missing(own, rule.kernel, params[i]), None) is not None:
                missing.append(i)
                continue
            grad = params[i].grad
            assert grad is not None  # noqa: S101 (extend_from_state leaves out what has none)
            keys = rule.keys(own)
            self._add_slowly(rule, i, keys, [params[i], grad, *(own[key] for key in keys)], own["step"])
        return missing

    def add(
        self,
        rule: Rule,
        keys: Sequence[str],
        operands: Sequence[list[Tensor]],
        steps: list[Tensor],
        numbers: Sequence[int],
    ) -> None:
        """Adds lists of parameters, of gradients and of the state under each key, and their step counters.

        Args:
            rule: of all of them.
            keys: what the lists after the gradients are.
            operands: the lists.
            steps: the counters.
            numbers: of the parameters, for errors and random numbers.

        Raises:
            ValueError, TypeError: as ``add_from_state``.
        """
        for i in self._list.extend(rule, keys, operands, steps, numbers):
            self._add_slowly(rule, numbers[i], keys, [operand[i] for operand in operands], steps[i])

    def _add_slowly(self, rule: Rule, index: int, keys: Sequence[str], tensors: list[Tensor], step: Tensor) -> None:
        """Adds one tensor that the list could not take as it is: a shard, a view, or one that has to go elsewhere."""
        where = f"parameter {index} of group {rule.group}"
        param = tensors[0]
        rule.storage.check_param(param, where)
        sharding, elements = None, None
        if is_dtensor(param):
            tensors, sharding = local_shards(tensors, where)
            elements = shard_elements(param) if rule.draws(keys) else None
        check_tensors(tensors, keys, where)
        if not have_kernels(tensors, step):
            self._add_elsewhere(rule, index, keys, tensors, step, sharding, elements)
            return
        if sharding is not None:
            self._shardings[len(self._list)] = sharding
        self._wrappers.append(param)
        # Dense copies stand in for operands that are not laid out like a dense parameter.
        layout = torch.empty_like(tensors[0], memory_format=torch.preserve_format)
        operands = []
        for j, tensor in enumerate(tensors):
            copy = tensor
            is_scales = j > 1 and keys[j - 2].endswith("_scales")
            if not is_scales and (tensor.stride() != layout.stride() or tensor.is_neg()):
                if j > 1 and keys[j - 2].endswith("_codes"):
                    msg = (
                        f"{where}: {keys[j - 2]} has strides {tensor.stride()}, the parameter's memory has "
                        f"{layout.stride()}; blocks follow the memory, so they must be equal"
                    )
                    raise ValueError(msg)
                copy = torch.empty_like(layout, dtype=tensor.dtype).copy_(tensor)
                if j != 1:
                    self._staged.append((tensor, copy))
            operands.append([copy])
        counter = step
        if step.dtype not in {torch.float32, torch.float64}:
            counter = step.to(torch.float32)
            self._staged.append((step, counter))
        if self._list.extend(rule, keys, operands, [counter], [index], elements):
            dtypes = dict(zip(keys, [tensor.dtype for tensor in tensors[2:]], strict=True))
            msg = (
                f"{where}: either a tensor's memory is not allocated, or its step counter of shape {tuple(step.shape)} "
                f"is not 0-d, or codes have a dtype that no format of blocks has (dtypes are {dtypes})"
            )
            raise ValueError(msg)

    def _add_elsewhere(
        self,
        rule: Rule,
        index: int,
        keys: Sequence[str],
        tensors: list[Tensor],
        step: Tensor,
        sharding: Sharding | None,
        elements: tuple[int, int, int] | None,
    ) -> None:
        param = tensors[0]
        by_key = dict(zip(keys, tensors[2:], strict=True))
        average = by_key.pop("ema", None)
        tensors = [*tensors[:2], *by_key.values()]
        operators = _hpu.find(rule.kernel, list(by_key), tensors)
        first, run, _ = elements or (0, param.numel(), 0)
        written = (param, *by_key.values())
        draws = bool(rule.stochastic) and any(tensor.dtype is torch.bfloat16 for tensor in written)
        if draws and (run < param.numel() or first + param.numel() > 2**32):
            operators = ()  # they number a shard's elements one after the other, in 32 bits
        if not operators:
            if list(by_key) != list(_core.describe_kernel(rule.kernel)["state"]) or rule.stochastic:
                msg = (
                    f"parameter {index} of group {rule.group} is {param.dtype} on device '{param.device.type}', which "
                    "has no kernel; without one, moments in blocks, master copies and stochastic rounding are not to "
                    f"be had (its state is {list(by_key)}){hint(param)}"
                )
                raise TypeError(msg)
            announce(param)
        draw = _hpu.Draw(rule.stochastic, rule.seed, rule.first_number + index, first)
        self._elsewhere.append(Elsewhere(rule, list(by_key), tensors, average, step, sharding, operators, draw))

    def check_overlap(self) -> None:
        """Raises the ValueError of ``step`` without taking it."""
        self._list.check_overlap()

    def step(
        self,
        *,
        grad_factor: float | Tensor,
        max_norm: float | None,
        skip_nonfinite: bool,
        sum_squares: float | None = None,
    ) -> tuple[float | Tensor | None, bool]:
        """Takes the step.

        Where all gradients are on an HPU and its operators are loaded, norm and factor stay there. The host then waits
        only for what decides whether the step is taken, with ``skip_nonfinite``.

        Args:
            grad_factor: gradients are multiplied by this as they are read; one element, if it is a tensor.
            max_norm: clip the L2 norm of all gradients together to this; ``None`` does not compute it.
            skip_nonfinite: do nothing if a gradient is not finite; needs ``max_norm``.
            sum_squares: of all gradients, if it is known: saves the pass over them.

        Returns:
            The norm before clipping (``None`` without ``max_norm``), and whether the step was taken.

        Raises:
            ValueError: tensors that are written overlap in memory.
        """
        n_threads = torch.get_num_threads()
        if not len(self._list) and self._elsewhere and _hpu_grads.reach([item.tensors[1] for item in self._elsewhere]):
            return self._step_on_hpu(grad_factor, max_norm, skip_nonfinite=skip_nonfinite)
        grad_factor = float(grad_factor)
        norm: float | None
        if not self._elsewhere and not self._shardings:
            norm, stepped = self._list.step(n_threads, grad_factor, max_norm, skip_nonfinite, sum_squares)
        else:
            norm = None
            if max_norm is not None:
                total = self._sum_squares() if sum_squares is None else sum_squares
                norm = math.sqrt(total) * abs(grad_factor)
                if skip_nonfinite and not math.isfinite(norm):
                    return norm, False
                grad_factor *= clip_coefficient(norm, max_norm)
            measurement = self._measure(n_threads, grad_factor) if self._shardings else None
            _, stepped = self._list.step(n_threads, grad_factor, measurement=measurement)
            self._step_elsewhere(grad_factor)
        if stepped:
            for tensor, copy in self._staged:
                tensor.copy_(copy)
            # The kernels write behind autograd's back: a backward through an old value must fail, as it does in torch.
            torch.autograd.graph.increment_version(self._list.params)
            torch.autograd.graph.increment_version(self._wrappers)
        return norm, stepped

    def _step_on_hpu(
        self, grad_factor: float | Tensor, max_norm: float | None, *, skip_nonfinite: bool
    ) -> tuple[Tensor | None, bool]:
        norm = None
        if isinstance(grad_factor, Tensor):
            grad_factor = grad_factor.to(self._elsewhere[0].tensors[0].device, torch.float32).reshape(())
        if max_norm is not None:
            grads = [item.tensors[1] for item in self._elsewhere]
            squares = _hpu_grads.sum_squares(grads, [item.sharding for item in self._elsewhere])
            norm, coefficient = _hpu_grads.clip_coefficient(squares, max_norm, grad_factor)
            if skip_nonfinite and not math.isfinite(norm):
                return norm, False
            grad_factor = coefficient * grad_factor
        self._step_elsewhere(grad_factor)
        return norm, True

    def _step_elsewhere(self, grad_factor: float | Tensor) -> None:
        scalars = _hpu.Scalars(grad_factor)
        for item in self._elsewhere:
            item.apply(grad_factor, scalars)

    def _measure(self, n_threads: int, grad_factor: float) -> list[tuple[float, float]]:
        """The first pass of kernels that need norms, completed over the shards of each tensor."""
        sums = self._list.measure(n_threads, grad_factor)
        for sharding in dict.fromkeys(self._shardings.values()):
            indices = [i for i, its in self._shardings.items() if its == sharding]
            completed = sharding.complete([value for i in indices for value in sums[i]])
            for i, pair in zip(indices, zip(completed[::2], completed[1::2], strict=True), strict=True):
                sums[i] = pair
        return sums

    def _sum_squares(self) -> float:
        """The sum of squares of all gradients, over all shards of all ranks."""
        sums: dict[Sharding | None, float] = {None: 0.0}
        for i, value in enumerate(self._list.reduce_grads("sum_squares", torch.get_num_threads())):
            sharding = self._shardings.get(i)
            sums[sharding] = sums.get(sharding, 0.0) + value
        for item in self._elsewhere:
            grad = item.tensors[1]
            if _hpu_grads.reach([grad]):
                value = float(_hpu_grads.sum_squares([grad], [None]))
            else:
                value = float(torch.linalg.vector_norm(item.grad())) ** 2
            sums[item.sharding] = sums.get(item.sharding, 0.0) + value
        return sum(value if sharding is None else sharding.complete([value])[0] for sharding, value in sums.items())


def clip_coefficient(norm: float, max_norm: float) -> float:
    """What ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by; NaN if the norm is."""
    coefficient = max_norm / (norm + 1e-6)
    return 1.0 if coefficient > 1 else coefficient


def check_tensors(tensors: Sequence[Tensor], keys: Sequence[str], where: str) -> None:
    """Refuses a parameter, its gradient or its states (in this order) if no step can be taken with them.

    Args:
        tensors: parameter, gradient, states.
        keys: of the states.
        where: how to call the parameter in an error.

    Raises:
        TypeError: not a real floating-point dtype, or not dense.
        ValueError: a shape differs from the parameter's, or elements of a tensor that is written share memory.
    """
    for j, tensor in enumerate(tensors):
        key = keys[j - 2] if j > 1 else ""
        what = f"{where}: {key}" if key else f"{where}: the {('parameter', 'gradient')[j]}"
        if not tensor.is_floating_point() and not key.endswith(("_codes", "_low")):
            msg = f"{what} has dtype {tensor.dtype}; allowed are real floating-point dtypes"
            raise TypeError(msg)
        if tensor.layout is not torch.strided:
            msg = f"{what} has layout {tensor.layout}; only dense tensors can be stepped (see torch.optim.SparseAdam)"
            raise TypeError(msg)
        if tensor.shape != tensors[0].shape and not key.endswith("_scales"):
            shapes = f"{tuple(tensor.shape)}, the parameter has {tuple(tensors[0].shape)}"
            msg = f"{what} has shape {shapes}; shapes must be equal"
            raise ValueError(msg)
        if j != 1 and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            msg = f"{what} is an expanded view whose elements share memory, so it cannot be written; clone() it first"
            raise ValueError(msg)
