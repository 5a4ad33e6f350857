"""EMA: exponential moving averages of parameters, to evaluate or to save instead of the parameters themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from gaudi3_rt.optim._batch import Batch
from gaudi3_rt.optim._elsewhere import COMPOSITES, Total
from gaudi3_rt.optim._rule import Rule


class FusedEMA:
    r"""Exponential moving averages of parameters, all updated in one parallel region.

    .. math:: a = a + (1 - d) (p - a)

    with :math:`a` the average, :math:`p` the parameter and :math:`d` ``decay``: the update of
    ``torch.optim.swa_utils.get_ema_multi_avg_fn`` (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992, average
    uniformly). An average starts as the value of its parameter when this object is made. Arithmetic is float32
    (float64 for a float64 average).

    Only parameters are averaged. Buffers, such as the statistics of batch normalisation, are left to the model: see
    ``torch.optim.swa_utils.update_bn``.

    Args:
        model_or_params: a module, whose parameters are averaged, or an iterable of real floating-point tensors.
        decay: what is kept of an average in one update, in [0, 1].
        dtype: of the averages; ``None``: float32, or float64 for float64 parameters. In bfloat16 and float16 an
            average stands still as soon as its change is less than half a unit in the last place.

    Attributes:
        decay: may be changed from update to update.
        n_averaged: how many updates were made.
        averages: one tensor per parameter, of its shape and on its device.

    Raises:
        ValueError: ``decay`` is out of range, or there is no parameter.
        TypeError: ``dtype`` or a parameter is not real and floating-point.
    """

    def __init__(
        self,
        model_or_params: torch.nn.Module | Iterable[Tensor],
        decay: float = 0.999,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._params = _parameters(model_or_params)
        if not self._params:
            msg = "there are no parameters to average; a module with parameters or a list of tensors is needed"
            raise ValueError(msg)
        for i, p in enumerate(self._params):
            if not p.is_floating_point():
                msg = f"parameter {i} has dtype {p.dtype}; allowed are real floating-point dtypes"
                raise TypeError(msg)
        if dtype is not None and not dtype.is_floating_point:
            msg = f"dtype={dtype}: averages need a real floating-point dtype, or None for float32"
            raise TypeError(msg)
        self.decay = _checked_decay(decay)
        self.n_averaged = 0
        self._lent = False
        self.averages = [
            p.detach().to(dtype or torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._params
        ]

    @_disable_dynamo
    @torch.no_grad()
    def update(self) -> None:
        """Moves every average towards the present value of its parameter.

        Raises:
            ValueError: ``decay`` is out of range, or a parameter has another shape than when the averages were made;
                all averages are as before.
            RuntimeError: inside a ``swap()`` block.
        """
        self._refuse_while_lent()
        self._check_shapes("parameter", self._params)
        batch = Batch()
        # The formula does not depend on the number of the update, which the engine would count in these.
        counters = [torch.zeros(()) for _ in self.averages]
        numbers = range(len(counters))
        batch.add(Rule("ema", [_checked_decay(self.decay)]), [], [self.averages, self._params], counters, numbers)
        batch.step(grad_factor=1.0, max_norm=None, skip_nonfinite=False)
        self.n_averaged += 1

    @torch.no_grad()
    def copy_to(self, model_or_params: torch.nn.Module | Iterable[Tensor] | None = None) -> None:
        """Overwrites parameters with the averages, rounded to the parameters' dtypes.

        Args:
            model_or_params: a module or tensors of the same shapes in the same order; ``None``: the parameters that
                are averaged.

        Raises:
            ValueError: numbers or shapes do not match; nothing was written.
        """
        params = self._params if model_or_params is None else _parameters(model_or_params)
        self._check_shapes("parameter", params)
        for p, average in zip(params, self.averages, strict=True):
            p.copy_(average)

    @contextlib.contextmanager
    def swap(self) -> Iterator[None]:
        """A block in which the parameters have the values of the averages; after it, their own again, bit by bit.

        Takes memory for a second copy of the parameters. What the block writes to the parameters is lost.

        Raises:
            RuntimeError: inside another ``swap()`` block.
        """
        self._refuse_while_lent()
        kept = [p.detach().clone() for p in self._params]
        self.copy_to()
        self._lent = True
        try:
            yield
        finally:
            self._lent = False
            with torch.no_grad():
                for p, value in zip(self._params, kept, strict=True):
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """``decay``, ``n_averaged`` and ``averages``: these are the tensors themselves and no copies."""
        return {"decay": self.decay, "n_averaged": self.n_averaged, "averages": list(self.averages)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies saved averages into these, which keep their dtype and device, and takes over the saved ``decay``.

        Raises:
            ValueError: a key is missing, or numbers or shapes do not match; everything is as before.
        """
        absent = sorted({"decay", "n_averaged", "averages"} - state_dict.keys())
        if absent:
            msg = f"the saved state has no {absent}; was it saved by FusedEMA.state_dict()?"
            raise ValueError(msg)
        decay = _checked_decay(state_dict["decay"])
        self._check_shapes("saved average", state_dict["averages"])
        for average, saved in zip(self.averages, state_dict["averages"], strict=True):
            average.copy_(saved)
        self.decay, self.n_averaged = decay, int(state_dict["n_averaged"])

    def _refuse_while_lent(self) -> None:
        if self._lent:
            msg = "the parameters hold the averages now; leave the swap() block first"
            raise RuntimeError(msg)

    def _check_shapes(self, what: str, tensors: Sequence[Tensor]) -> None:
        if len(tensors) != len(self.averages):
            msg = f"got {len(tensors)} {what}s for {len(self.averages)} averages; they must match"
            raise ValueError(msg)
        for i, (tensor, average) in enumerate(zip(tensors, self.averages, strict=True)):
            if tensor.shape != average.shape:
                shapes = f"{tuple(tensor.shape)}, the average has {tuple(average.shape)}"
                msg = f"{what} {i} has shape {shapes}; shapes must be equal"
                raise ValueError(msg)


def _parameters(model_or_params: torch.nn.Module | Iterable[Tensor]) -> list[Tensor]:
    return list(model_or_params.parameters() if isinstance(model_or_params, torch.nn.Module) else model_or_params)


def _checked_decay(decay: float) -> float:
    if not 0 <= decay <= 1:
        msg = f"decay={decay!r}: must be a number from 0 to 1"
        raise ValueError(msg)
    return float(decay)


def _composite(
    hyper: Sequence[float],
    t: float,  # noqa: ARG001 (as Composite says)
    param: Tensor,
    grad: Tensor,
    states: Sequence[Tensor],  # noqa: ARG001 (there are none)
    _: Total,
) -> None:
    (decay,) = hyper
    wide = param.to(grad.dtype)
    param.copy_(wide + (1 - decay) * (grad - wide))


COMPOSITES["ema"] = _composite
