"""Legacy LARS: a wrapper that scales gradients in place, and the momentum that it was written for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from gaudi3_rt import optim
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.reduce import sum_squares


class FusedResourceApplyMomentum(optim.FusedSGD):
    r"""Legacy: the momentum of ``habana_frameworks.torch.hpex.optimizers``, for use inside ``FusedLars``.

    .. math:: b = \mu b - g \qquad p = p + b

    with :math:`\mu` ``momentum``. It differs from ``torch.optim.SGD`` in this: the buffer has the opposite sign; ``lr``
    and ``weight_decay`` are not used, since ``FusedLars`` has put them into the gradient; nor is ``nesterov``.

    In the vendor's front end the first gradient, which finds no buffer, is *added* to the parameter and becomes the
    buffer: a step upwards, harmless after a warm-up from ``lr`` 0. This class starts with a buffer of zeros.

    Args:
        params: as for ``gaudi3_rt.optim.FusedSGD``.
        lr: for ``FusedLars`` and schedulers.
        momentum: what is kept of the buffer.
        weight_decay: for ``FusedLars``.
        nesterov: changes nothing; needs a momentum.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float = 0, weight_decay: float = 0, nesterov: bool = False
    ) -> None:
        super().__init__(params, lr, momentum, 0, weight_decay, nesterov)

    def _kernel(self, group: Mapping[str, Any]) -> str:  # noqa: ARG002 (the same for all)
        return "sgd_momentum"

    def _rule(self, g: int) -> Rule:
        # b = mu b + (-g) and p = p - (-1) b: lr, momentum, dampening, weight_decay.
        hyper = [-1.0, float(self.param_groups[g]["momentum"]), 0.0, 0.0]
        return dataclasses.replace(super()._rule(g), hyper=hyper, maximize=True)


class FusedLars(torch.optim.Optimizer):
    r"""Legacy: the LARS of ``habana_frameworks.torch.hpex.optimizers``, a wrapper around another optimizer.

    Gradients are changed in place, and then the wrapped optimizer takes its step without weight decay:

    .. math::
        g = \begin{cases} \eta \, r \, (g + \lambda p), \quad
            r = \dfrac{\theta \, |p|}{|g| + \lambda |p| + \epsilon} & \text{where the mask is set} \\
            \eta \, g & \text{elsewhere} \end{cases}

    with :math:`\eta` the group's ``lr``, :math:`\lambda` its ``weight_decay``, :math:`\theta` ``eeta``, and norms over
    one parameter (arXiv:1708.03888); :math:`r = 1` where a norm is 0. Torch has no LARS. Since ``lr`` is multiplied
    into the gradient, the wrapped optimizer must not apply it again; ``FusedResourceApplyMomentum`` does not.

    Groups, state and ``state_dict`` are those of the wrapped optimizer. Norms are accumulated in float64. The vendor's
    ``step`` takes no closure.

    Args:
        optimizer: the optimizer to wrap.
        skip_mask: for each parameter of a group, by its index in the group, whether it is adapted; the same for all
            groups. Despite its name, a true entry adapts.
        eeta: trust coefficient.
        eps: added to the denominator.

    Raises:
        ValueError: the mask is shorter than a group.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, skip_mask: Sequence[int | bool], eeta: float = 0.001, eps: float = 1e-8
    ) -> None:
        longest = max(len(group["params"]) for group in optimizer.param_groups)
        if len(skip_mask) < longest:
            msg = (
                f"skip_mask has {len(skip_mask)} entries; the longest group has {longest} parameters and needs as many"
            )
            raise ValueError(msg)
        self.optim = optimizer
        self.skip_mask = skip_mask
        self.eeta = eeta
        self.eps = eps
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups = self.optim.param_groups
        self.state = self.optim.state

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Sets gradients to 0, or to ``None``, which is the default elsewhere."""
        self.optim.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Changes the gradients, and takes the wrapped optimizer's step.

        Args:
            closure: evaluates the model again and returns the loss, with gradients enabled.

        Returns:
            The closure's result, or ``None``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decays = [group.get("weight_decay", 0) for group in self.param_groups]
        try:
            for group, decay in zip(self.param_groups, decays, strict=True):
                for p, adapts in zip(group["params"], self.skip_mask, strict=False):
                    if p.grad is not None:
                        self._scale(p, p.grad, float(group["lr"]), float(decay), adapts=bool(adapts))
                group["weight_decay"] = 0
            self.optim.step()
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        return loss

    def _scale(self, p: Tensor, grad: Tensor, lr: float, decay: float, *, adapts: bool) -> None:
        if adapts:
            of_p, of_grad = math.sqrt(sum_squares([p])), math.sqrt(sum_squares([grad]))
            grad.add_(p, alpha=decay)
            if of_p > 0 and of_grad > 0:
                lr *= self.eeta * of_p / (of_grad + of_p * decay + self.eps)
        grad.mul_(lr)

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer."""
        return self.optim.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads into the wrapped optimizer."""
        self.optim.load_state_dict(state_dict)
        self._share()
