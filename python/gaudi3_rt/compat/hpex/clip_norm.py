"""Legacy clipping: a bound that is given once, gradients that are given at each call."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from gaudi3_rt.grads import clip_grad_norm_


class FusedClipNorm:
    r"""Legacy: the clipping of ``habana_frameworks.torch.hpex.normalization``.

    .. math:: N = \sqrt{\textstyle\sum g^2} \qquad g = \min(1, \text{max\_norm} / (N + 10^{-6})) \, g

    This is ``torch.nn.utils.clip_grad_norm_`` with the L2 norm, in the shape of an object. Unlike the vendor's, whose
    norm is accumulated in the dtype of the first gradient, this one accumulates in float64; it writes nothing where
    the factor is 1; and the norm is 0-d.

    Args:
        parameters: not used; the vendor's class takes no more from them.
        max_norm: bound of the norm.

    Raises:
        ValueError: from ``clip_norm``: ``max_norm`` is negative or NaN.
    """

    def __init__(self, parameters: Tensor | Iterable[Tensor], max_norm: float) -> None:
        del parameters
        self.max_norm = max_norm

    def clip_norm(self, parameters: Tensor | Iterable[Tensor]) -> Tensor:
        """Clips the gradients of these parameters in place; returns their norm before that, 0 if there are none."""
        return clip_grad_norm_(parameters, self.max_norm)
