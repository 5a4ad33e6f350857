"""The step of an optimizer joins the reduction: hooks on all torch optimizers, and the norm for ours."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gaudi3_rt.errors import OptimizerError

SCALER_DEPTH = 12  # frames between a scaler's step and the hook that it leads to


class Reduction(Protocol):
    """What the hook needs of a reducer."""

    @property
    def is_pending(self) -> bool: ...
    def owns(self, optimizer: torch.optim.Optimizer) -> bool: ...
    def wait(self) -> None: ...
    def sum_squares(self, params: Iterable[Tensor]) -> float: ...


def join_before_steps(reduction: Reduction) -> Any:
    """Waits before every step of every optimizer that has a parameter of the reduction; returns the hook's handle."""
    alive = weakref.ref(reduction)

    def before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        reducer = alive()
        if reducer is None or not reducer.owns(optimizer):
            return None
        if reducer.is_pending:
            _refuse_scaler(optimizer)
        reducer.wait()
        closure = kwargs.get("closure") or next(iter(args[1:2]), None)
        if closure is None:
            _hand_norm(reducer, optimizer)
            return None

        def joined() -> Any:
            loss = closure()
            reducer.wait()
            _hand_norm(reducer, optimizer)
            return loss

        return args[:1], {**kwargs, "closure": joined}

    return register_optimizer_step_pre_hook(before_step)


def _hand_norm(reducer: Reduction, optimizer: torch.optim.Optimizer) -> None:
    """To an optimizer of ours that clips or looks for overflows."""
    if getattr(optimizer, "takes_norm", False):
        params = (param for group in optimizer.param_groups for param in group["params"])
        optimizer.grad_sum_squares = reducer.sum_squares(params)  # type: ignore[attr-defined]


def _refuse_scaler(optimizer: torch.optim.Optimizer) -> None:
    """The GradScaler of torch has looked at the gradients before it calls the step; ours waits first."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(SCALER_DEPTH):
        if frame is None:
            return
        if frame.f_globals.get("__name__") == "torch.amp.grad_scaler":
            msg = (
                f"torch.amp.GradScaler has looked for overflows in gradients of {type(optimizer).__name__} that were "
                "not reduced yet; call wait() of the GradientReducer before scaler.unscale_() and scaler.step(), or "
                "use gaudi3_rt.amp.GradScaler, which does"
            )
            raise OptimizerError(msg)
        frame = frame.f_back
