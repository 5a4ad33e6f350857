"""SGD: gradient descent with momentum, with the update and the state of torch.optim.SGD."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._fused import Fused
from gaudi3_rt.optim._options import Options


class FusedSGD(Fused, torch.optim.SGD):
    r"""``torch.optim.SGD`` whose step is one pass over memory, with gradient clipping and AMP unscaling inside it.

    .. math::
        g &= g + \lambda p \qquad b = \mu b + (1 - \tau) g \\
        p &= p - \eta b \quad \text{or, with Nesterov's momentum,} \quad p = p - \eta (g + \mu b)

    with :math:`\eta` ``lr``, :math:`\lambda` ``weight_decay``, :math:`\mu` ``momentum``, :math:`\tau` ``dampening``;
    without momentum :math:`p = p - \eta g`. In a parameter's first step with momentum :math:`b = g`, as in torch: see
    the formula in its documentation (Sutskever et al., ICML 2013, for Nesterov's momentum).

    ``state_dict`` is that of ``torch.optim.SGD``: a ``momentum_buffer`` for each parameter, nothing without momentum.
    ``state`` also has the step counter ``step`` of each parameter. It is saved only with stochastic rounding, whose
    random numbers depend on it: else only whether a step is the first with momentum does, and after loading that is
    told by the buffer. For precision and storage see ``FusedAdamW``.

    Args:
        params: parameters, named parameters or groups, as for ``FusedAdamW``.
        lr: learning rate, a float or a 0-d tensor.
        momentum: what is kept of the buffer; 0 keeps no buffer.
        dampening: what is left out of a gradient that is added to the buffer.
        weight_decay: L2 penalty: times the parameter, it is added to the gradient, after clipping.
        nesterov: Nesterov's momentum; needs a momentum and no dampening.
        maximize: ascend.
        foreach, fused: choose between torch's own implementations. Accepted and saved; they change nothing here.
        differentiable: refused when true.
        **options: clipping, rounding and storage; see ``gaudi3_rt.optim.Options``.

    Raises:
        ValueError: an argument is out of range (what was given and what is allowed is in the message).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self._start(options)

    def _kernel(self, group: Mapping[str, Any]) -> str:
        return sgd_kernel(group["momentum"], nesterov=group["nesterov"])

    # The counter tells the kernel which step is the first with momentum, so it starts with the buffer: anew when
    # momentum is switched on after steps without, and at 1 where a loaded buffer comes without its counter.

    def _first_state(self, own: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 (the same for all)
        has_buffer = "momentum_buffer" in own or "momentum_buffer_codes" in own
        return {"step": torch.full((), float(has_buffer), dtype=torch.float32)}

    def _run_up(self) -> None:
        super()._run_up()
        if not self._storage.draws:  # else the counter is part of the key of random numbers
            self.register_state_dict_post_hook(_leave_out_steps)

    def _required_state(self, kernel: str) -> set[str]:  # noqa: ARG002 (the same for all)
        return set()

    def __setstate__(self, state: dict[str, Any]) -> None:  # noqa: D105
        for own in state["state"].values():
            if "momentum_buffer" in own and own["momentum_buffer"] is None:  # older versions of torch save that
                del own["momentum_buffer"]
        super().__setstate__(state)


def _leave_out_steps(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    without = {
        index: {key: value for key, value in own.items() if key != "step"} for index, own in state_dict["state"].items()
    }
    state_dict["state"] = {index: own for index, own in without.items() if own}


def sgd_kernel(momentum: float, *, nesterov: bool) -> str:
    """Name of the kernel that takes this kind of step."""
    if momentum == 0:
        return "sgd"
    return "sgd_nesterov" if nesterov else "sgd_momentum"


def _composite(
    hyper: Sequence[float],
    t: float,
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],
    _: Total,
    *,
    nesterov: bool = False,
) -> None:
    lr, momentum, dampening, weight_decay = hyper
    wide = param.to(grad.dtype)
    grad = direction = grad + weight_decay * wide
    for momentum_buffer in states:
        buffer = momentum * momentum_buffer.to(grad.dtype) + (1 if t == 1 else 1 - dampening) * grad
        momentum_buffer.copy_(buffer)
        direction = grad + momentum * buffer if nesterov else buffer
    param.copy_(wide - lr * direction)


COMPOSITES["sgd"] = COMPOSITES["sgd_momentum"] = _composite
COMPOSITES["sgd_nesterov"] = functools.partial(_composite, nesterov=True)
