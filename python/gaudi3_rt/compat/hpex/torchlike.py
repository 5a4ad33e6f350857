"""Legacy SGD and Adagrad: the vendor's arguments, torch's formulas."""

from __future__ import annotations

from torch.optim.optimizer import ParamsT

from gaudi3_rt import optim


class FusedSGD(optim.FusedSGD):
    r"""Legacy: the SGD of ``habana_frameworks.torch.hpex.optimizers``, with the formula of ``torch.optim.SGD``.

    .. math::
        g &= g + \lambda p \qquad b = \mu b + (1 - \tau) g \\
        p &= p - \eta b \quad \text{or, with Nesterov's momentum,} \quad p = p - \eta (g + \mu b)

    It differs from ``torch.optim.SGD`` in its arguments: ``lr`` has no default, and ``weight_decay`` comes before
    ``dampening``, so that positional arguments mean other things than in torch.

    The vendor's kernel is closed, and it is told in every step that no step was taken yet; whether its first step is
    dampened is not known. This class has torch's rule: a buffer begins as the first gradient. Without dampening that
    is no difference.

    Args:
        params: as for ``gaudi3_rt.optim.FusedSGD``.
        lr: learning rate.
        momentum: what is kept of the buffer; 0 keeps no buffer.
        weight_decay: L2 penalty.
        dampening: what is left out of a gradient that is added to the buffer.
        nesterov: Nesterov's momentum; needs a momentum and no dampening.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0,
        weight_decay: float = 0,
        dampening: float = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)


class FusedAdagrad(optim.FusedAdagrad):
    r"""Legacy: the Adagrad of ``habana_frameworks.torch.hpex.optimizers``, with the formula of ``torch.optim.Adagrad``.

    .. math::
        g &= g + \lambda p \qquad s = s + g^2 \\
        p &= p - \frac{\eta}{1 + (t - 1) \, \eta_d} \, g \,/\, (\sqrt{s} + \epsilon)

    The vendor's kernel is closed; this is what its arguments stand for in torch. In the vendor's class :math:`t` is
    counted for a group; the learning rate is fixed by the constructor, whatever a group or a scheduler says; and
    ``step`` does not return a closure's loss. This class does all three as torch does.

    Args:
        params: as for ``gaudi3_rt.optim.FusedAdagrad``.
        lr: learning rate.
        lr_decay: how fast the learning rate falls.
        weight_decay: L2 penalty.
        initial_accumulator_value: what the sum of squares starts with.
        eps: added to the root of the sum.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr, lr_decay, weight_decay, initial_accumulator_value, eps)
