"""What all fused optimizers share: the step with clipping and AMP, state, copies, checkpoints."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim import _ops
from gaudi3_rt.optim._batch import Batch, Rule, check_tensors
from gaudi3_rt.optim._loading import check_loadable, pairs, refuse_differentiable
from gaudi3_rt.optim._traced import Traced

_numbers = itertools.count()


class Fused(Traced):
    """Mixin that takes a torch optimizer's step with a kernel; it goes before the torch class among the bases.

    A subclass says which kernel a group uses and with which hyper-parameters (``_kernel``, ``_hyper``), and registers
    the same update in torch operations (``_batch.COMPOSITES``).

    Attributes:
        max_grad_norm: the L2 norm of all gradients of all groups together is clipped to this inside the step;
            ``None`` turns it off. Gradients themselves are left as they are.
        last_grad_norm: that norm before clipping, after unscaling: 0-d float32; ``None`` before the first step or
            without ``max_grad_norm``.
        last_step_skipped: whether the last step found a gradient that is not finite, under AMP, and changed nothing.
        finds_nonfinite: set by ``gaudi3_rt.amp.GradScaler``: under AMP, look for such gradients also without
            ``max_grad_norm``, because the scaler has not done it.
    """

    _step_supports_amp_scaling = True

    finds_nonfinite: bool

    # Construction, copies, pickles

    def _start(self, max_grad_norm: float | None) -> None:
        """Called at the end of ``__init__``."""
        if max_grad_norm is not None and not max_grad_norm >= 0:
            msg = f"max_grad_norm={max_grad_norm!r}: must be a number >= 0, or None for no clipping"
            raise ValueError(msg)
        if max_grad_norm is not None and _is_part_of_zero_redundancy_optimizer():
            msg = (
                "max_grad_norm inside ZeroRedundancyOptimizer would clip each rank's parameters by the norm of that "
                "rank's parameters alone; leave it out and call torch.nn.utils.clip_grad_norm_ before step()"
            )
            raise ValueError(msg)
        self.max_grad_norm = None if max_grad_norm is None else float(max_grad_norm)
        self._run_up()

    def _run_up(self) -> None:
        self.last_grad_norm = None
        self.last_step_skipped = False
        self.finds_nonfinite = False
        self._batch = Batch()
        self._traced = []
        self._name = f"{type(self).__name__} {next(_numbers)}"
        _ops.LIVE[self._name] = self

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_grad_norm": self.max_grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_batch" not in self.__dict__:  # a copy or an unpickled optimizer; else called by load_state_dict
            self.__dict__.setdefault("max_grad_norm", None)
            self._run_up()
        if self._traced:
            self._list_for_trace()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch; ``differentiable=True`` is refused."""
        refuse_differentiable(type(self), {**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._traced = []  # a compiled step sees by the length of this list that it must be traced again

    # The step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: evaluates the model again and returns the loss, with gradients enabled.

        Returns:
            The closure's result, or ``None``.

        Raises:
            TypeError: a parameter, gradient or state is complex, not floating-point or not dense.
            ValueError: shapes do not match, or memory that is written overlaps. Parameters and state are as before.
        """
        self._opt_called = True
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            self._traced_step()
        else:
            with torch.no_grad():
                self._eager_step()
        return loss

    # A scheduler wraps the step of its optimizer to learn whether it was called (_opt_called), unless the step says
    # that this was done already. Dynamo refuses to trace that wrapper, so the step above notes its call itself.
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]

    def _eager_step(self) -> None:
        grad_scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        self.last_step_skipped = found_inf is not None and float(found_inf) != 0
        if self.last_step_skipped:
            return
        max_norm = self.max_grad_norm
        if max_norm is None and found_inf is not None and self.finds_nonfinite:
            max_norm = math.inf  # clips nothing, but the norm is not finite if a gradient is not
        batch = self._batch
        made: list[tuple[Tensor, str]] = []
        stepped = False
        try:
            made = self._gather(batch)
            norm, stepped = batch.step(
                grad_factor=1.0 if grad_scale is None else 1.0 / float(grad_scale),
                max_norm=max_norm,
                skip_nonfinite=found_inf is not None,
            )
        finally:
            batch.clear()
            if not stepped:
                self._remove_state(made)
        if found_inf is not None and not stepped:
            self.last_step_skipped = True
            found_inf.fill_(1.0)
        if norm is not None and self.max_grad_norm is not None:
            self.last_grad_norm = torch.tensor(norm, dtype=torch.float32)

    def _gather(self, batch: Batch) -> list[tuple[Tensor, str]]:
        """Fills the batch with everything that has a gradient; returns what state it had to make for that."""
        if self._add_all(batch):
            return []
        batch.clear()
        made = self._make_state()
        try:
            self._add_all(batch)
        except Exception:
            self._remove_state(made)
            raise
        return made

    def _add_all(self, batch: Batch) -> bool:
        """False if some state is missing."""
        for g, group in enumerate(self.param_groups):
            rule = Rule(self._kernel(group), self._hyper(group), maximize=group["maximize"], group=g)
            if batch.add_from_state(rule, group["params"], self.state):
                return False
        return True

    def _make_state(self) -> list[tuple[Tensor, str]]:
        """Makes what state is missing for parameters that have a gradient, or nothing if any of them is refused.

        Returns:
            Parameter and key of each state that was made.
        """
        new = []
        for g, group in enumerate(self.param_groups):
            keys = _core.describe_kernel(self._kernel(group))["state"]
            for i, p in enumerate(group["params"]):
                if p.grad is not None and not {"step", *keys} <= self.state.get(p, {}).keys():
                    check_tensors([p, p.grad], f"parameter {i} of group {g}")
                    new.append((p, keys))
        made = [(p, key) for p, keys in new for key in ("step", *keys) if key not in self.state.get(p, {})]
        for p, key in made:
            # The schema of torch.optim: a float32 counter on the host, the rest like the parameter.
            like_param = functools.partial(torch.zeros_like, p, memory_format=torch.preserve_format)
            self.state[p][key] = torch.zeros((), dtype=torch.float32) if key == "step" else like_param()
        return made

    def _remove_state(self, made: list[tuple[Tensor, str]]) -> None:
        """Takes back what was made for a step that was then refused or skipped."""
        for p, key in made:
            del self.state[p][key]
            if not self.state[p]:
                del self.state[p]

    # Loading

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of its torch counterpart. State keeps the dtype that it was saved in.

        Raises:
            ValueError: another number of groups or parameters, the state of another class of optimizer, or shapes that
                do not match; the optimizer is as before.
        """
        final: dict[str, Any] = {}  # what the user's own pre-hooks have made of it

        def check(_: torch.optim.Optimizer, loaded: dict[str, Any]) -> None:
            final.update(loaded)
            check_loadable(self, loaded)

        hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        # torch has cast every state to its parameter's dtype; a float32 moment of a bf16 parameter comes back here.
        for key, param in pairs(self, final):
            for name, value in final["state"].get(key, {}).items():
                if name != "step" and isinstance(value, Tensor) and value.dtype != param.dtype:
                    self.state[param][name] = value.to(param.device)
        if self._traced:
            self._list_for_trace()


def _is_part_of_zero_redundancy_optimizer() -> bool:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "torch.distributed.optim.zero_redundancy_optimizer":
            return True
        frame = frame.f_back
    return False
