"""A step on an HPU: the operators that take it (``torch.ops.gaudi3_rt_hpu``), and what they are given."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt import _core

TABLE = {kernel["name"]: kernel for kernel in _core.tpc_kernels()}
MAX_ELEMENTS = 2**31 - 1 - _core.TPC_MEMBER_ELEMENTS
"""Coordinates on the device are 32-bit, and a kernel's last member may end beyond its tensor."""

_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}

_loaded = False


def is_loaded() -> bool:
    """Whether ``gaudi3_rt.hpu.load`` has loaded the operators."""
    return _loaded


def set_loaded() -> None:
    """Says that the operators are there."""
    global _loaded  # noqa: PLW0603 (torch.ops is as global)
    _loaded = True


def find(kernel: str, tensors: Sequence[Tensor]) -> tuple[_core.TpcKernel, ...]:
    """The operators that step these tensors, in order; none if some of them is not for those operators.

    Args:
        kernel: name of the CPU kernel.
        tensors: parameter, gradient, states.
    """
    param, grad, *states = tensors
    float32 = all(tensor.dtype is torch.float32 for tensor in (param, *states))
    on_hpu = all(tensor.device.type == "hpu" for tensor in tensors)
    if not (_loaded and on_hpu and float32 and grad.dtype in _SUFFIXES and 0 < param.numel() <= MAX_ELEMENTS):
        return ()
    return _chain(kernel, _SUFFIXES[grad.dtype])


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

    They are data: a learning rate that changes recompiles no graph.
    """

    def __init__(self) -> None:
        self._made: dict[object, Tensor] = {}

    def __call__(
        self, kernel: str, hyper: Sequence[float], t: float, grad_factor: float, device: torch.device
    ) -> Tensor:
        """Those of a CPU kernel, then the factor of the gradients."""
        key = (kernel, *hyper, t, grad_factor, device)
        if key not in self._made:
            values = [*_core.kernel_constants(kernel, hyper, t), grad_factor]
            self._made[key] = torch.tensor(values, dtype=torch.float32).to(device)
        return self._made[key]


def step(
    operators: Sequence[_core.TpcKernel], names: Sequence[str], tensors: Sequence[Tensor], scalars: Tensor
) -> None:
    """Takes a step, in place.

    The operators are functional: all results are copied back at the end, so that addresses and views stay as they are,
    autograd sees the writes, and an error leaves the tensors as they were.

    Args:
        operators: as ``find`` gave them.
        names: of the tensors: param, grad, and the states as the kernel calls them.
        tensors: of any shape; all of one shape.
        scalars: the step's constants.
    """
    rows = {name: tensor.detach().reshape(-1) for name, tensor in zip(names, tensors, strict=True)}
    rows["scalars"] = scalars
    written = set()
    for operator in operators:
        run = getattr(torch.ops.gaudi3_rt_hpu, operator["name"])
        results = run(*[rows[operand["name"]] for operand in operator["inputs"]])
        outputs = [operand["name"] for operand in operator["outputs"]]
        rows.update(zip(outputs, (results,) if len(outputs) == 1 else results, strict=True))
        written.update(outputs)
    for name, tensor in zip(names, tensors, strict=True):
        if name in written:
            tensor.copy_(rows[name].view(tensor.shape))
