"""Adam: steps along a running mean of gradients over their running size, with torch.optim.Adam's update and state."""

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
from gaudi3_rt.optim.adamw import adamw_composite


class FusedAdam(Fused, torch.optim.Adam):
    r"""``torch.optim.Adam`` whose step is one pass over memory, with gradient clipping and AMP unscaling inside it.

    .. math::
        g &= g + \lambda p \qquad m = \beta_1 m + (1 - \beta_1) g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - \frac{\eta}{1 - \beta_1^t} \, m \,/\, (\sqrt{v / (1 - \beta_2^t)} + \epsilon)

    with :math:`\eta` ``lr``, :math:`\lambda` ``weight_decay``, :math:`t` the parameter's own step count; with
    ``amsgrad`` the running maximum of :math:`v` takes its place in the second line (arXiv:1412.6980, Algorithm 1;
    arXiv:1904.09237). For precision, storage and checkpoints see ``FusedAdamW``; ``state_dict`` is that of
    ``torch.optim.Adam``.

    Args:
        params: parameters, named parameters or groups, as for ``FusedAdamW``.
        lr: learning rate, a float or a 0-d tensor.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the root of the second moment after bias correction.
        weight_decay: L2 penalty: times the parameter, it is added to the gradient, after clipping.
        amsgrad: divide by the running maximum of the second moment.
        foreach, capturable, fused: choose between torch's own implementations. Accepted and saved; they change
            nothing here.
        maximize: ascend.
        differentiable: refused when true.
        decoupled_weight_decay: take the update of ``FusedAdamW`` instead. Needs a torch whose Adam has the option.
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
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            **({"decoupled_weight_decay": True} if decoupled_weight_decay else {}),  # torch 2.6 does not know it
        )
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        stem = "adamw" if group.get("decoupled_weight_decay") else "adam"
        return f"{stem}_amsgrad" if group["amsgrad"] else stem


def _composite(
    hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor], total: Total
) -> None:
    *others, weight_decay = hyper
    adamw_composite([*others, 0.0], t, param, grad + weight_decay * param.to(grad.dtype), states, total)


COMPOSITES["adam"] = COMPOSITES["adam_amsgrad"] = _composite
