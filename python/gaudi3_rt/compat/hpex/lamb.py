"""Legacy LAMB: the vendor's arguments; the formula is nearly that of gaudi3_rt.optim.FusedLAMB."""

from __future__ import annotations

import torch
from torch.optim.optimizer import ParamsT

from gaudi3_rt import optim


class FusedLamb(optim.FusedLAMB):
    r"""Legacy: the LAMB of ``habana_frameworks.torch.hpex.optimizers``. Torch has no LAMB.

    .. math::
        g &= g / \max(1, N / \text{max\_grad\_norm}) \qquad
        m = \beta_1 m + \beta_3 g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        u &= \frac{m / c_1}{\sqrt{v / c_2} + \epsilon} + \lambda p \qquad
        p = p - \eta \, \frac{\lVert p \rVert}{\lVert u \rVert} \, u

    with N the norm of all gradients; the ratio of norms is 1 without weight decay, unless ``use_lamb``. From the
    vendor's class it differs in this: a parameter that is zero is updated with the ratio 1, where the vendor's front
    end gives 0, so that it stays zero for ever (its own test expects 1); steps are counted for a parameter, not for a
    group; the bound is applied with torch's coefficient, which differs by a millionth part.

    Args:
        params: as for ``gaudi3_rt.optim.FusedLAMB``.
        lr: learning rate.
        bias_correction: divide the moments by :math:`1 - \beta^t`.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled, inside the ratio.
        adam_w_mode: changes nothing, as in the vendor's class: decay is always decoupled.
        grad_averaging: weigh the gradient with :math:`1 - \beta_1` in the first moment.
        set_grad_none: what ``zero_grad()`` does by default.
        max_grad_norm: bound of the norm of all gradients.
        use_lamb: ratios also without weight decay.
        fused: changes nothing.
        dtype: changes nothing: arithmetic is float32.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adam_w_mode: bool = True,
        grad_averaging: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float = 1.0,
        use_lamb: bool = False,
        fused: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        del adam_w_mode, fused, dtype
        super().__init__(
            params,
            lr,
            bias_correction,
            betas,
            eps,
            weight_decay,
            grad_averaging=grad_averaging,
            set_grad_none=set_grad_none,
            max_grad_norm=max_grad_norm,
            use_nvlamb=use_lamb,
        )
