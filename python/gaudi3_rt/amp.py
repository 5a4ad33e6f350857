"""A gradient scaler that saves one pass over the gradients when it drives a fused optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState

from gaudi3_rt import _pending
from gaudi3_rt.optim._fused import Fused

__all__ = ["GradScaler"]


class GradScaler(torch.amp.GradScaler):
    """``torch.amp.GradScaler``; arguments, state_dict and behaviour are the same.

    The stock scaler drives fused optimizers too, but first reads and writes all gradients once to look for infinities.
    This one leaves the search to the step, whose gradient norm finds them on the way. Other optimizers are driven as
    by the stock scaler.
    """

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Takes the optimizer's step with unscaled gradients, or skips it if one of them is not finite."""
        _pending.join(_params(optimizer))
        state = self._per_optimizer_states[id(optimizer)]
        if not self._enabled or not isinstance(optimizer, Fused) or state["stage"] is not OptState.READY:
            return super().step(optimizer, *args, **kwargs)
        optimizer.finds_nonfinite = True
        try:
            result = super().step(optimizer, *args, **kwargs)
        finally:
            optimizer.finds_nonfinite = False
        # What update() reads to choose the next scale.
        for found_inf in state["found_inf_per_device"].values():
            found_inf.fill_(float(optimizer.last_step_skipped))
        return result

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the optimizer's gradients by the scale, and looks for infinities, once they are reduced."""
        _pending.join(_params(optimizer))
        super().unscale_(optimizer)

    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if not getattr(optimizer, "finds_nonfinite", False):
            return super()._check_inf_per_device(optimizer)
        scale, _ = self._check_scale_growth_tracker("_check_inf_per_device")
        found_inf: dict[Any, Tensor] = {scale.device: torch.zeros((), dtype=torch.float32, device=scale.device)}
        self._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = found_inf
        return found_inf


def _params(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (param for group in optimizer.param_groups for param in group["params"])
