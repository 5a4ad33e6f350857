"""Lion: steps of one size whose sign is that of an interpolated gradient (arXiv:2302.06675)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._fused import Fused
from gaudi3_rt.optim._options import Options


class FusedLion(Fused, torch.optim.Optimizer):
    r"""Lion (arXiv:2302.06675, Algorithm 2), its step one pass over memory with clipping and AMP unscaling inside it.

    .. math::
        c &= \beta_1 m + (1 - \beta_1) g \\
        p &= p - \eta \, (\operatorname{sign}(c) + \lambda p) \\
        m &= \beta_2 m + (1 - \beta_2) g

    with :math:`\eta` ``lr`` and :math:`\lambda` ``weight_decay``. The sign of 0 is 0, that of NaN is NaN: a gradient
    that is not a number shows in the parameter. Since all steps have the size ``lr``, the paper takes it 3 to 10 times
    smaller than for AdamW, and ``weight_decay`` larger by as much (its section 5).

    State is ``exp_avg``, like the parameter, and ``step``, on which the update does not depend; saved state of
    implementations that count no steps loads too. For precision and storage see ``FusedAdamW``.

    Args:
        params: parameters, named parameters or groups, as for ``FusedAdamW``.
        lr: learning rate, a float or a 0-d tensor: the size of a step.
        betas: what is kept of the moment in the interpolation and in the moment itself, in [0, 1).
        weight_decay: decoupled: multiplied by ``lr``.
        maximize: ascend.
        **options: clipping, rounding and storage; see ``gaudi3_rt.optim.Options``.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            msg = f"lr has {lr.numel()} elements: must be a number, or a tensor of one element"
            raise ValueError(msg)
        if not lr >= 0:
            msg = f"lr={lr!r}: must be a number >= 0"
            raise ValueError(msg)
        if not all(0 <= beta < 1 for beta in betas):
            msg = f"betas={betas!r}: both must be >= 0 and < 1"
            raise ValueError(msg)
        if not weight_decay >= 0:
            msg = f"weight_decay={weight_decay!r}: must be a number >= 0"
            raise ValueError(msg)
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:  # noqa: ARG002 (the same for all)
        return "lion"

    def _required_state(self, kernel: str) -> set[str]:
        return super()._required_state(kernel) - {"step"}

    def __setstate__(self, state: dict[str, Any]) -> None:  # noqa: D105
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)


def _composite(
    hyper: Sequence[float],
    t: float,  # noqa: ARG001 (as Composite says)
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    _: Total,
) -> None:
    lr, beta1, beta2, weight_decay = hyper
    (exp_avg,) = states
    wide, moment = param.to(grad.dtype), exp_avg.to(grad.dtype)
    interpolated = beta1 * moment + (1 - beta1) * grad
    sign = torch.where(interpolated.isnan(), interpolated, interpolated.sign())  # torch's sign of NaN is 0
    param.copy_(wide - (lr * weight_decay * wide + lr * sign))
    exp_avg.copy_(beta2 * moment + (1 - beta2) * grad)


COMPOSITES["lion"] = _composite
