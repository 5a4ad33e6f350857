"""A step on an HPU: the operators that take it (``torch.ops.gaudi3_rt_hpu``), and what they are given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt import _core

TABLE = {kernel["name"]: kernel for kernel in _core.tpc_kernels()}
MAX_ELEMENTS = 2**31 - 1 - _core.TPC_MEMBER_ELEMENTS
"""Coordinates on the device are 32-bit, and a kernel's last member may end beyond its tensor."""

SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}

_loaded = False


def is_loaded() -> bool:
    """Whether ``gaudi3_rt.hpu.load`` has loaded the operators."""
    return _loaded


def set_loaded() -> None:
    """Says that the operators are there."""
    global _loaded  # noqa: PLW0603 (torch.ops is as global)
    _loaded = True


def call(name: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Runs an operator; returns its outputs."""
    results = getattr(torch.ops.gaudi3_rt_hpu, name)(*inputs)
    return (results,) if isinstance(results, Tensor) else tuple(results)


def find(kernel: str, keys: Sequence[str], tensors: Sequence[Tensor]) -> tuple[_core.TpcKernel, ...]:
    """The operators that step these tensors, in order; none if some of them is not for those operators.

    Args:
        kernel: name of the CPU kernel.
        keys: of the states: the kernel's, in its order, and ``param_master``, if a bfloat16 parameter has one.
        tensors: parameter, gradient, states.
    """
    param, grad, *states = tensors
    names = list(_core.describe_kernel(kernel)["state"])
    if list(keys) != names:
        names.append("param_master")
        if list(keys) != names or states[-1].dtype is not torch.float32 or param.dtype is not torch.bfloat16:
            return ()
    on_hpu = all(tensor.device.type == "hpu" and tensor.dtype in SUFFIXES for tensor in tensors)
    return _chain(kernel, SUFFIXES[grad.dtype]) if _loaded and on_hpu and param.numel() <= MAX_ELEMENTS else ()


@functools.cache
def _chain(kernel: str, suffix: str) -> tuple[_core.TpcKernel, ...]:
    names = [[f"{kernel}_{suffix}"]]
    if _core.describe_kernel(kernel)["two_passes"]:
        family = kernel.split("_", 1)[0]  # variants may share what does not depend on them
        names = [
            [f"{kernel}_first_{suffix}", f"{family}_first_{suffix}"],
            [f"{kernel}_ratio_f32", f"{family}_ratio_f32"],
            [f"{kernel}_second_{suffix}"],
        ]
    found = [[TABLE[name] for name in alternatives if name in TABLE] for alternatives in names]
    return tuple(kernels[0] for kernels in found) if all(found) else ()


class Scalars:
    """The constants of one step as tensors on the device, made once for all parameters that share them.

    They are data: a learning rate that changes recompiles no graph. A factor that only the device knows stays there.
    """

    def __init__(self, grad_factor: float | Tensor = 1.0) -> None:
        """Starts a step in which all gradients are multiplied by this."""
        self._grad_factor = grad_factor
        self._made: dict[object, Tensor] = {}

    def __call__(
        self, kernel: str, hyper: Sequence[float], t: float, device: torch.device, *, maximize: bool = False
    ) -> Tensor:
        """Those of a CPU kernel, then the factor of the gradients, which is negative to maximize."""
        key = (kernel, *hyper, t, device, maximize)
        if key not in self._made:
            constants = _core.kernel_constants(kernel, hyper, t)
            factor = -self._grad_factor if maximize else self._grad_factor
            if isinstance(factor, Tensor):
                known = torch.tensor(constants, dtype=torch.float32).to(device)
                self._made[key] = torch.cat([known, factor.reshape(1)])
            else:
                self._made[key] = torch.tensor([*constants, factor], dtype=torch.float32).to(device)
        return self._made[key]


@dataclass(frozen=True)
class Draw:
    """Where the random bits of stochastic rounding come from; as ``Draw`` in csrc/table.h.

    Attributes:
        operands: what is rounded stochastically where it is stored in bfloat16, by its name.
        seed: of all bits.
        number: of the parameter in its optimizer.
        first: of the tensor's elements within the parameter, in the order of memory.
    """

    operands: Sequence[str] = ()
    seed: int = 0
    number: int = 0
    first: int = 0

    def keys(self, t: float, operand: int, device: torch.device) -> Tensor:
        """What the operators draw from in step t for an operand: 0 is the parameter, 2 the first state."""
        key0, key1, shift = _core.draw_keys(self.seed, t, self.number, operand)
        unsigned = torch.tensor([key0, key1, self.first, shift], dtype=torch.int64)
        return torch.where(unsigned < 2**31, unsigned, unsigned - 2**32).to(torch.int32).to(device)


@dataclass(frozen=True)
class Rows:
    """Tensors of one shape as rows of elements in the order of the first one's memory."""

    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Rows:
        """Those of a tensor whose rows are views of it, if it is dense."""
        strides: tuple[int, ...] = tensor.stride()
        return cls(tuple(sorted(range(tensor.ndim), key=lambda d: -strides[d])))

    def read(self, tensor: Tensor) -> Tensor:
        """A tensor as a row."""
        return tensor.detach().permute(self.order).contiguous().view(-1)

    def write(self, tensor: Tensor, row: Tensor) -> None:
        """Copies a row into a tensor. Addresses and views stay as they are, and autograd sees the write."""
        view = tensor.permute(self.order)
        view.copy_(row.view(view.shape))


def finish(partials: Tensor) -> Tensor:
    """The sum of numbers, as a tensor of one."""
    return partials if partials.numel() == 1 else call("sum_finish_f32", partials)[0]


def step(
    operators: Sequence[_core.TpcKernel],
    tensors: Mapping[str, Tensor],
    scalars: Tensor,
    t: float,
    draw: Draw,
    complete: Callable[[Tensor], Any] | None = None,
) -> None:
    """Takes a step, in place.

    The operators are functional: all results are copied back at the end, so that an error leaves the tensors as they
    were. They step float32; what is stored in bfloat16 is converted before and after by operators, too.

    Args:
        operators: as ``find`` gave them.
        tensors: ``param``, ``grad``, and the states by their keys; all of one shape.
        scalars: the step's constants.
        t: number of the step; the first is 1.
        draw: what is rounded stochastically.
        complete: for a shard: adds, in place, to a sum over its elements those of the other ranks.
    """
    param = tensors["param"]
    rows = Rows.of(param)
    if param.numel() == 0:
        _take_part(operators, param, complete)
        return
    given = {name: rows.read(tensor) for name, tensor in tensors.items()}
    values = {name: row if name == "grad" else _widened(row) for name, row in given.items()}
    if "param_master" in given:
        values["param"] = _param_by_master(given["param"], given["param_master"])
    values["scalars"] = scalars
    written = set()
    for operator in operators:
        results = call(operator["name"], *[values[operand["name"]] for operand in operator["inputs"]])
        for operand, result in zip(operator["outputs"], results, strict=True):
            values[operand["name"]] = result
            written.add(operand["name"])
            if operand["access"] == "partial" and complete is not None:
                total = values[operand["name"]] = finish(result)
                complete(total)
    if "param_master" in given:
        values["param_master"] = values["param"]
        written.add("param_master")
    stored = {
        name: _narrowed(name, values, functools.partial(draw.keys, t, operand, param.device), draw)
        if given[name].dtype is torch.bfloat16
        else values[name]
        for operand, name in enumerate(given)
        if name in written
    }
    for name, row in stored.items():
        rows.write(tensors[name], row)


def _widened(row: Tensor) -> Tensor:
    return call("cast_bf16_to_f32", row)[0] if row.dtype is torch.bfloat16 else row


def _narrowed(name: str, values: Mapping[str, Tensor], keys: Callable[[], Tensor], draw: Draw) -> Tensor:
    if name in draw.operands:
        return call("cast_f32_to_bf16_stochastic", values[name], keys())[0]
    nearest = f"{name}_bf16"  # of the parameter, by the kernels with a bfloat16 gradient
    return values[nearest] if nearest in values else call("cast_f32_to_bf16", values[name])[0]


def _param_by_master(param: Tensor, master: Tensor) -> Tensor:
    """The master copy where the parameter is its nearest bfloat16; a parameter written from outside wins."""
    (nearest,) = call("cast_f32_to_bf16", master)
    return torch.where(nearest == param, master, _widened(param))


def _take_part(operators: Sequence[_core.TpcKernel], param: Tensor, complete: Callable[[Tensor], Any] | None) -> None:
    """A shard without elements has no step, but the other ranks wait for its sums."""
    for operator in operators:
        for operand in operator["outputs"]:
            if operand["access"] == "partial" and complete is not None:
                complete(torch.zeros(1, device=param.device))
