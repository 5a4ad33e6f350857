"""What an optimizer tells of its steps by itself: time, learning rate, and what its kernel found in the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor._step import Step
from gaudi3_rt.monitor._values import hold

OPTIMIZER = "optimizer"
"""Phase of its steps."""


class WatchedOptimizer:
    """Hooks around the step of one optimizer; they read what it has computed, and no gradient.

    Of ``gaudi3_rt.optim`` the norm of the gradients (``last_grad_norm``, if it clips) and whether the step was skipped
    (``last_step_skipped``) are the kernel's own findings. Of a compiled step the time and the learning rate are not
    told, because its hooks run in the compiler only.

    Args:
        optimizer: of torch, of ours, or wrapped by Accelerate.
        current: the step under way in this thread, if there is one.
        timed: count its steps as a phase.
    """

    def __init__(self, optimizer: Optimizer, current: Callable[[], Step | None], *, timed: bool) -> None:
        while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
            optimizer = inner
        if not isinstance(optimizer, Optimizer):
            msg = f"optimizer={optimizer!r:.80}: must be a torch.optim.Optimizer, whose steps have hooks"
            raise ParameterValidationError(msg)
        self.optimizer = optimizer
        self.stepped = False
        """In the step of training that is under way."""
        self._current = current
        self._timed = timed
        self._norm = getattr(optimizer, "last_grad_norm", None)
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def remove(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        step = self._current()
        if step is None:
            return
        if step.learning_rate is None:
            step.learning_rate = optimizer.param_groups[0].get("lr")
        if self._timed:
            step._push(OPTIMIZER)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        self.stepped = True
        if torch.compiler.is_compiling():
            return
        step = self._current()
        if step is None:
            return
        if (found := getattr(optimizer, "found_inf", None)) is not None:  # a scaler leaves it to the step to skip
            step._found_inf = hold("found_inf", found)
        if self._timed and step._current == OPTIMIZER and step._before:
            step._pop()

    def tell(self, step: Step) -> None:
        """Adds what the optimizer has found to a step that ends, unless the user has said it."""
        if not self.stepped:
            return
        norm = getattr(self.optimizer, "last_grad_norm", None)
        if norm is not None and norm is not self._norm:  # the same tensor is that of a step before
            self._norm = norm
            if step.gradient_norm is None:
                step.gradient_norm = norm
        if step.skipped is None and getattr(self.optimizer, "last_step_skipped", False):
            step.skipped = True
