"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101), with the update and the state of torch.optim.AdamW."""

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


class FusedAdamW(Fused, torch.optim.AdamW):
    r"""``torch.optim.AdamW`` whose step is one pass over memory, with gradient clipping and AMP unscaling inside it.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - \eta \lambda p - \frac{\eta}{1 - \beta_1^t} \, m \,/\, (\sqrt{v / (1 - \beta_2^t)} + \epsilon)

    with :math:`\eta` ``lr``, :math:`\lambda` ``weight_decay``, :math:`t` the parameter's own step count; with
    ``amsgrad`` the running maximum of :math:`v` takes its place in the second line (arXiv:1711.05101, Algorithm 2;
    arXiv:1904.09237). Arithmetic is float32 whatever the storage (float64 for float64 parameters); a bfloat16 or
    float16 parameter is rounded to nearest even once, at the end.

    ``state_dict`` is that of ``torch.optim.AdamW`` and loads in both directions. The bits of a step do not depend on
    the number of threads, on the CPU's vector width, or on how parameters are spread over groups and optimizers.

    Args:
        params: parameters, named parameters or groups, as in torch. Float32, bfloat16 and float16 parameters on the
            CPU are stepped by the kernel; float64 ones and other devices by torch operations of the same formula,
            which is logged once. A gradient or a moment may have another floating-point dtype than its parameter.
        lr: learning rate, a float or a 0-d tensor.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the root of the second moment after bias correction.
        weight_decay: decoupled: multiplied by ``lr``.
        amsgrad: divide by the running maximum of the second moment.
        maximize: ascend.
        foreach, capturable, fused: choose between torch's own implementations. Accepted and saved, so that the same
            call and the same checkpoint work with either class; they change nothing here.
        differentiable: refused when true.
        **options: clipping, rounding and storage; see ``gaudi3_rt.optim.Options``.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        return "adamw_amsgrad" if group["amsgrad"] else "adamw"


def adamw_composite(
    hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor], _: Total
) -> None:
    """The update in torch operations, as ``Composite`` says."""
    lr, beta1, beta2, eps, weight_decay = hyper
    exp_avg, exp_avg_sq, *rest = states
    first = beta1 * exp_avg.to(grad.dtype) + (1 - beta1) * grad
    second = beta2 * exp_avg_sq.to(grad.dtype) + (1 - beta2) * grad * grad
    exp_avg.copy_(first)
    exp_avg_sq.copy_(second)
    for max_exp_avg_sq in rest:
        second = torch.maximum(max_exp_avg_sq.to(grad.dtype), second)
        max_exp_avg_sq.copy_(second)
    denominator = second.sqrt() / (1 - beta2**t) ** 0.5 + eps
    wide = param.to(grad.dtype)
    param.copy_(wide - (lr * weight_decay * wide + lr / (1 - beta1**t) * first / denominator))


COMPOSITES["adamw"] = COMPOSITES["adamw_amsgrad"] = adamw_composite
