"""Steps of tensors that the kernels do not reach: by operators of an HPU, or by torch operations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim import _hpu
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._sharding import Sharding

logger = logging.getLogger(__name__)


class Composite(Protocol):
    """One update by torch operations, for what the kernels do not reach."""

    def __call__(
        self, hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor], total: Total, /
    ) -> None:
        """Updates ``param`` and ``states`` in place.

        Args:
            hyper: the kernel's hyper-parameters.
            t: number of this step; the first is 1.
            param: any floating-point dtype, any device.
            grad: already scaled, in the dtype of the arithmetic (float32, or float64 for a float64 parameter).
            states: in the kernel's order.
            total: completes a sum over the elements of a shard; for kernels that need norms.
        """


Total = Callable[[Tensor], Tensor]

COMPOSITES: dict[str, Composite] = {}
"""The update of each kernel in torch operations; filled in by the module of its optimizer."""


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that the kernels do not reach: another device, float64, or a tensor subclass."""

    rule: Rule
    keys: list[str]  # of the states
    tensors: list[Tensor]
    average: Tensor | None
    step: Tensor
    sharding: Sharding | None
    operators: tuple[_core.TpcKernel, ...] = ()  # of an HPU, that take the step instead of the composite
    draw: _hpu.Draw = _hpu.Draw()  # noqa: RUF009 (frozen)

    def grad(self) -> Tensor:
        """The gradient in the dtype of the arithmetic."""
        return self.tensors[1].to(torch.promote_types(self.tensors[0].dtype, torch.float32))

    def apply(self, factor: float | Tensor, scalars: _hpu.Scalars) -> None:
        """Takes the step.

        Args:
            factor: the gradient is multiplied by this.
            scalars: the constants of operators, with that factor.
        """
        t = float(self.step) + 1
        rule, (param, _, *states) = self.rule, self.tensors
        if self.operators:
            tensors = dict(zip(["param", "grad", *self.keys], self.tensors, strict=True))
            constants = scalars(rule.kernel, rule.hyper, t, param.device, maximize=rule.maximize)
            complete = None if self.sharding is None else self.sharding.complete_
            _hpu.step(self.operators, tensors, constants, t, self.draw, complete)
        else:
            signed = -factor if rule.maximize else factor
            COMPOSITES[rule.kernel](rule.hyper, t, param, self.grad() * signed, states, self._total)
        if self.average is not None:
            self.average.lerp_(param.to(self.average.dtype), self.rule.average_weight or 0.0)
        self.step.fill_(t)

    def _total(self, local: Tensor) -> Tensor:
        return local if self.sharding is None else local.new_tensor(self.sharding.complete([float(local)])[0])


def have_kernels(tensors: Sequence[Tensor], step: Tensor) -> bool:
    """Whether they have memory that the kernels can read; of float64, only the step counter."""
    return all(tensor.dtype is not torch.float64 for tensor in tensors) and all(
        tensor.device.type == "cpu" and type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
        for tensor in (*tensors, step)
    )


_announced: set[tuple[str, torch.dtype]] = set()


def announce(param: Tensor) -> None:
    """Says once for each kind of device and dtype that there is no kernel for it."""
    key = (param.device.type, param.dtype)
    if key not in _announced:
        _announced.add(key)
        logger.warning(
            "no kernel for %s tensors on device '%s': stepping them with torch operations (same formula, slower)%s",
            *key[::-1],
            hint(param),
        )


def hint(param: Tensor) -> str:
    """What would help, to be put after an error or a warning; often nothing."""
    on_hpu = param.device.type == "hpu" and not _hpu.is_loaded()
    return "; gaudi3_rt.hpu.load() loads those for float32 and bfloat16" if on_hpu else ""
