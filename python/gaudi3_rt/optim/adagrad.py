"""Adagrad: steps shrink with the sum of squared gradients, with the update and the state of torch.optim.Adagrad."""

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


class FusedAdagrad(Fused, torch.optim.Adagrad):
    r"""``torch.optim.Adagrad`` whose step is one pass over memory, with gradient clipping and AMP unscaling inside it.

    .. math::
        g &= g + \lambda p \qquad s = s + g^2 \\
        p &= p - \frac{\eta}{1 + (t - 1) \, \eta_d} \, g \,/\, (\sqrt{s} + \epsilon)

    with :math:`\eta` ``lr``, :math:`\eta_d` ``lr_decay``, :math:`\lambda` ``weight_decay``, :math:`t` the parameter's
    own step count (Duchi, Hazan and Singer, JMLR 12, 2011). For precision, storage and checkpoints see ``FusedAdamW``;
    ``state_dict`` is that of ``torch.optim.Adagrad``, and state is made by the constructor as there.

    Args:
        params: parameters, named parameters or groups, as for ``FusedAdamW``.
        lr: learning rate, a float or a 0-d tensor.
        lr_decay: how fast the learning rate falls.
        weight_decay: L2 penalty: times the parameter, it is added to the gradient, after clipping.
        initial_accumulator_value: what the sum of squares starts with.
        eps: added to the root of the sum.
        foreach, fused: choose between torch's own implementations. Accepted and saved; they change nothing here.
        maximize: ascend.
        differentiable: refused when true.
        **options: clipping, rounding and storage; see ``gaudi3_rt.optim.Options``.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:  # noqa: ARG002 (the same for all)
        return "adagrad"

    def _first_state(self, own: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:
        # Of the constructor's argument and not of the group's, as torch does.
        start = self.defaults["initial_accumulator_value"]
        if start == 0 or "sum" in own or "sum_codes" in own:
            return {}
        made = {"sum": torch.full_like(p, start, memory_format=torch.preserve_format)}
        self._storage.adopt(made, "adagrad", p, 0)
        return made


def _composite(
    hyper: Sequence[float], t: float, param: Tensor, grad: Tensor, states: Sequence[Tensor], _: Total
) -> None:
    lr, lr_decay, weight_decay, eps = hyper
    (stored,) = states
    wide = param.to(grad.dtype)
    grad = grad + weight_decay * wide
    total = stored.to(grad.dtype) + grad * grad
    stored.copy_(total)
    param.copy_(wide - lr / (1 + (t - 1) * lr_decay) * grad / (total.sqrt() + eps))


COMPOSITES["adagrad"] = _composite
