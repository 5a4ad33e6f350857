"""LARS: SGD whose gradients are scaled per tensor to the size of the parameter (arXiv:1708.03888)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from gaudi3_rt.optim._checks import check_not_negative
from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._fused import Fused
from gaudi3_rt.optim._options import Options


class FusedLARS(Fused, torch.optim.Optimizer):
    r"""LARS on top of the update of ``torch.optim.SGD``, with the arguments and defaults of timm's ``Lars``.

    .. math::
        d &= r \, (g + \lambda p) \qquad
        r = c \, \frac{\lVert p \rVert}{\lVert g \rVert + \lambda \lVert p \rVert + \epsilon} \\
        b &= \mu b + (1 - \tau) d \qquad p = p - \eta \, b

    with :math:`c` ``trust_coeff``, :math:`\tau` ``dampening``; :math:`b = d` in a parameter's first step, and with
    ``nesterov`` :math:`d + \mu b` takes the place of :math:`b` in the last formula. The ratio :math:`r` is 1 where
    one of the norms is zero and, unless ``always_adapt``, in groups without weight decay (as is usual for biases and
    norm layers). The learning rate is applied outside of the momentum, as in torch, not inside as in the paper: the
    same as long as it is constant. Norms are those of whole parameters, also of sharded ones.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, a float or a 0-d tensor.
        momentum: factor of the momentum; 0 for none.
        dampening: of the momentum.
        weight_decay: L2 penalty, inside the ratio.
        nesterov: Nesterov's momentum; needs a momentum and no dampening.
        trust_coeff: the size of an update relative to its parameter.
        eps: added to the denominator of the ratio.
        trust_clip: never take larger steps than SGD would: the ratio is at most ``lr``, divided by it (as in LARC).
        always_adapt: scale also in groups without weight decay.
        maximize: ascend.
        **options: clipping, rounding and storage; see ``gaudi3_rt.optim.Options``.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coeff: float = 0.001,
        eps: float = 1e-8,
        trust_clip: bool = False,
        always_adapt: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coeff=trust_coeff, eps=eps)
        if nesterov and (momentum == 0 or dampening != 0):
            msg = (
                f"nesterov=True with momentum={momentum!r} and dampening={dampening!r}: needs a momentum, no dampening"
            )
            raise ValueError(msg)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coeff": trust_coeff,
            "eps": eps,
            "trust_clip": trust_clip,
            "always_adapt": always_adapt,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        return "lars_nesterov" if group["nesterov"] else "lars"


def _update(
    hyper: Sequence[float],
    t: float,
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    total: Total,
    *,
    nesterov: bool,
) -> None:
    lr, momentum, dampening, weight_decay, trust_coeff, eps, trust_clip, always_adapt = hyper
    (buffer,) = states
    wide = param.to(grad.dtype)
    ratio = torch.ones((), dtype=torch.float64, device=grad.device)
    if always_adapt or weight_decay:
        norm_p, norm_g = (total(x.to(torch.float64).square().sum()).sqrt() for x in (wide, grad))
        trust = trust_coeff * norm_p / (norm_g + weight_decay * norm_p + eps)
        ratio = torch.where((norm_p == 0) | (norm_g == 0), ratio, trust)
        ratio = (ratio / lr).clamp(max=1) if trust_clip else ratio
    update = ratio.to(grad.dtype) * (grad + weight_decay * wide)
    new = momentum * buffer.to(grad.dtype) + (1 - dampening if t > 1 and momentum else 1.0) * update
    buffer.copy_(new)
    param.copy_(wide - lr * (update + momentum * new if nesterov else new))


COMPOSITES["lars"] = functools.partial(_update, nesterov=False)
COMPOSITES["lars_nesterov"] = functools.partial(_update, nesterov=True)
