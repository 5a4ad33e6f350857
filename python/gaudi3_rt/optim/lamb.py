"""LAMB: Adam whose update is scaled per tensor to the size of the parameter (arXiv:1904.00962)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from gaudi3_rt.optim._checks import check_betas, check_not_negative
from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._fused import Fused
from gaudi3_rt.optim._options import StorageOptions


class FusedLAMB(Fused, torch.optim.Optimizer):
    r"""LAMB with the arguments and defaults of apex's ``FusedLAMB``, for any device.

    .. math::
        m &= \beta_1 m + \beta_3 g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \qquad
        u = \frac{m / c_1}{\sqrt{v / c_2} + \epsilon} + \lambda p \\
        p &= p - \eta \, \frac{\lVert p \rVert}{\lVert u \rVert} \, u

    with :math:`c_i = 1 - \beta_i^t` (1 without ``bias_correction``) and :math:`\beta_3 = 1 - \beta_1` (1 without
    ``grad_averaging``). The trust ratio :math:`\lVert p \rVert / \lVert u \rVert` is 1 where one of the norms is zero
    and, unless ``use_nvlamb``, in groups without weight decay. Norms are those of whole parameters, also of
    sharded ones.

    Gradients are clipped by their global norm first, ``max_grad_norm`` being 1 by default, with the coefficient of
    ``torch.nn.utils.clip_grad_norm_``, which differs from apex's by a millionth part.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, a float or a 0-d tensor.
        bias_correction: divide the moments by :math:`1 - \beta^t`.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the root of the second moment after bias correction.
        weight_decay: decoupled and inside the trust ratio; with ``adam_w_mode=False`` added to the gradient.
        amsgrad: refused when true, as in apex.
        adam_w_mode: see ``weight_decay``.
        grad_averaging: weigh the gradient with :math:`1 - \beta_1` in the first moment.
        set_grad_none: what ``zero_grad()`` does by default.
        max_grad_norm: clip the L2 norm of all gradients together to this; ``None`` does not.
        use_nvlamb: trust ratios also in groups without weight decay.
        maximize: ascend.
        norm: when the norm for clipping is taken; see ``gaudi3_rt.optim.Options``.
        **options: rounding and storage; see there too.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        adam_w_mode: bool = True,
        grad_averaging: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float | None = 1.0,
        use_nvlamb: bool = False,
        *,
        maximize: bool = False,
        norm: Literal["step", "overlapped"] = "step",
        **options: Unpack[StorageOptions],
    ) -> None:
        if amsgrad:
            msg = "amsgrad=True: LAMB has no such variant; leave it out"
            raise ValueError(msg)
        check_not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas(betas)
        defaults = {
            "lr": lr,
            "bias_correction": bias_correction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adam_w_mode": adam_w_mode,
            "grad_averaging": grad_averaging,
            "use_nvlamb": use_nvlamb,
            "maximize": maximize,
        }
        self.set_grad_none = set_grad_none
        super().__init__(params, defaults)
        self._start({**options, "max_grad_norm": max_grad_norm, "norm": norm})

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep."""
        return {**super().__getstate__(), "set_grad_none": self.set_grad_none}

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Sets all gradients to ``None``, or to zero."""
        super().zero_grad(self.set_grad_none if set_to_none is None else set_to_none)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        return "lamb" if group["adam_w_mode"] else "lamb_l2"

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        numbers = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        flags = (group["bias_correction"], group["grad_averaging"], group["use_nvlamb"])
        return [float(value) for value in (*numbers, *flags)]


def _update(
    hyper: Sequence[float],
    t: float,
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    total: Total,
    *,
    l2: bool,
) -> None:
    lr, beta1, beta2, eps, weight_decay, bias_correction, grad_averaging, always_adapt = hyper
    exp_avg, exp_avg_sq = states
    wide = param.to(grad.dtype)
    c1, c2 = (1 - beta**t if bias_correction else 1.0 for beta in (beta1, beta2))
    if l2:
        grad = grad + weight_decay * wide
    exp_avg.copy_(beta1 * exp_avg.to(grad.dtype) + (1 - beta1 if grad_averaging else 1.0) * grad)
    exp_avg_sq.copy_(beta2 * exp_avg_sq.to(grad.dtype) + (1 - beta2) * grad * grad)
    direction = exp_avg.to(grad.dtype) / c1 / (exp_avg_sq.to(grad.dtype).sqrt() / c2**0.5 + eps)
    if not l2:
        direction += weight_decay * wide
    ratio = torch.ones((), dtype=grad.dtype, device=grad.device)
    if always_adapt or weight_decay:
        norms = [total(x.to(torch.float64).square().sum()).sqrt() for x in (wide, direction)]
        ratio = torch.where((norms[0] == 0) | (norms[1] == 0), ratio, (norms[0] / norms[1]).to(grad.dtype))
    param.copy_(wide - lr * ratio * direction)


COMPOSITES["lamb"] = functools.partial(_update, l2=False)
COMPOSITES["lamb_l2"] = functools.partial(_update, l2=True)
