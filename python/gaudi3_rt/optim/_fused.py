"""What all fused optimizers share: the step with clipping and AMP, state, copies, checkpoints."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim import _ops
from gaudi3_rt.optim._batch import Batch, check_tensors
from gaudi3_rt.optim._loading import check_loadable, pairs, refuse_differentiable
from gaudi3_rt.optim._options import Options, StorageOptions
from gaudi3_rt.optim._overlap import OverlappedNorms
from gaudi3_rt.optim._storage import Storage
from gaudi3_rt.optim._traced import Traced

_numbers = itertools.count()


class Fused(Traced):
    """Mixin that takes a torch optimizer's step with a kernel; it goes before the torch class among the bases.

    A subclass says which kernel a group uses (``_kernel``); the kernel's hyper-parameters are the options of the group
    that have their names. The same update in torch operations is registered in ``_elsewhere.COMPOSITES``.

    Attributes:
        max_grad_norm: the L2 norm of all gradients of all groups together is clipped to this inside the step;
            ``None`` turns it off. Gradients themselves are left as they are.
        last_grad_norm: that norm before clipping, after unscaling: 0-d float32, on an HPU if that has computed it;
            ``None`` before the first step or without ``max_grad_norm``.
        last_step_skipped: whether the last step found a gradient that is not finite, under AMP, and changed nothing.
        finds_nonfinite: set by ``gaudi3_rt.amp.GradScaler``: under AMP, look for such gradients also without
            ``max_grad_norm``, because the scaler has not done it.
        grad_sum_squares: set for the next step by who has just summed up the squares of all gradients, as
            ``gaudi3_rt.reduce.GradientReducer`` does; saves the step's pass over them.
    """

    _step_supports_amp_scaling = True

    finds_nonfinite: bool
    grad_sum_squares: float | None
    _norms: OverlappedNorms | None
    _overlaps: bool

    _batch_type: type[Batch] = Batch
    _options: type = Options

    # Construction, copies, pickles

    def _start(self, options: Mapping[str, Any]) -> None:
        """Called at the end of ``__init__``.

        Raises:
            TypeError: an option that does not exist, or a parameter that cannot be stored as asked.
            ValueError: an option is out of range, or options contradict each other.
        """
        unknown = sorted(options.keys() - self._options.__annotations__.keys())
        if unknown:
            msg = f"{type(self).__name__}.__init__() got an unexpected keyword argument {unknown[0]!r}"
            raise TypeError(msg)
        self._storage = Storage(**{name: options[name] for name in StorageOptions.__annotations__ if name in options})
        number = 0
        for g, group in enumerate(self.param_groups):
            self._check_storage(group, g)
            for param in group["params"]:
                if param in self.state:  # made by the constructor of the torch class
                    self._storage.adopt(self.state[param], self._kernel(group), param, number)
                number += 1
        max_grad_norm = options.get("max_grad_norm")
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
        self._norms = None
        if (norm := options.get("norm", "step")) not in {"step", "overlapped"}:
            msg = f"norm={norm!r}: must be 'step' or 'overlapped'"
            raise ValueError(msg)
        self._overlaps = norm == "overlapped"
        if self._overlaps and max_grad_norm is None:
            msg = "norm='overlapped' says when the norm for max_grad_norm is taken; give max_grad_norm as well"
            raise ValueError(msg)
        self._run_up()

    def _check_storage(self, group: Mapping[str, Any], g: int) -> None:
        for i, param in enumerate(group["params"]):
            self._storage.check_param(param, f"parameter {i} of group {g}")

    def _run_up(self) -> None:
        self.last_grad_norm = None
        self.last_step_skipped = False
        self.finds_nonfinite = False
        self.grad_sum_squares = None
        self._batch = self._batch_type()
        self._traced = []
        self._norms = OverlappedNorms(self) if self._overlaps else None
        self._name = f"{type(self).__name__} {next(_numbers)}"
        _ops.LIVE[self._name] = self

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_grad_norm", "_storage", "_overlaps")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_batch" not in self.__dict__:  # a copy or an unpickled optimizer; else called by load_state_dict
            self._run_up()
        if self._traced:
            self._list_for_trace()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch; ``differentiable=True`` is refused."""
        refuse_differentiable(type(self), {**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._traced = []  # a compiled step sees by the length of this list that it must be traced again
        if "_storage" not in self.__dict__:
            return  # a group of the constructor, which checks them all
        try:
            self._check_storage(self.param_groups[-1], len(self.param_groups) - 1)
        except TypeError:
            del self.param_groups[-1]
            raise
        if self._norms is not None:
            self._norms.watch(self.param_groups[-1]["params"])

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
        # Of a scaler that leaves the search to this step it is 0: nobody has to wait for it.
        sum_squares, self.grad_sum_squares = self.grad_sum_squares, None
        self.last_step_skipped = found_inf is not None and not self.finds_nonfinite and float(found_inf) != 0
        if self.last_step_skipped:
            return
        max_norm = self.max_grad_norm
        if self.takes_norm and max_norm is None:
            max_norm = math.inf  # clips nothing, but the norm is not finite if a gradient is not
        # GradScaler.unscale_ writes gradients without telling autograd: what was known of them holds no longer.
        if max_norm is None or (found_inf is not None and grad_scale is None):
            sum_squares = None
        elif sum_squares is None and self._norms is not None:
            sum_squares = self._norms.total()
        batch = self._batch
        made: list[tuple[Tensor, str]] = []
        stepped = False
        try:
            made = self._gather(batch)
            norm, stepped = batch.step(
                grad_factor=1.0 if grad_scale is None else _reciprocal(grad_scale),
                max_norm=max_norm,
                skip_nonfinite=found_inf is not None,
                sum_squares=sum_squares,
            )
        finally:
            batch.clear()
            if not stepped:
                self._remove_state(made)
        if found_inf is not None and not stepped:
            self.last_step_skipped = True
            found_inf.fill_(1.0)
        if norm is not None and self.max_grad_norm is not None:
            self.last_grad_norm = norm if isinstance(norm, Tensor) else torch.tensor(norm, dtype=torch.float32)

    @property
    def takes_norm(self) -> bool:
        """Whether the next step needs the norm of all gradients."""
        return self.max_grad_norm is not None or (self.finds_nonfinite and hasattr(self, "found_inf"))

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
        return not any(
            batch.add_from_state(self._rule(g), self.param_groups[g]["params"], self.state)
            for g in range(len(self.param_groups))
        )

    def _make_state(self) -> list[tuple[Tensor, str]]:
        """Makes what state is missing for parameters that have a gradient, or nothing if any of them is refused.

        Returns:
            Parameter and key of each state that was made.
        """
        new = []
        for g, group in enumerate(self.param_groups):
            kernel = self._kernel(group)
            for i, p in enumerate(group["params"]):
                own = self.state.get(p, {})
                if p.grad is None or next(self._missing(own, kernel, p), None) is None:
                    continue
                check_tensors([p, p.grad], [], f"parameter {i} of group {g}")
                tensors = self._first_state(own, p)
                tensors.update(self._missing({**own, **tensors}, kernel, p))
                new.append((p, tensors))
        for p, tensors in new:
            self.state[p].update(tensors)
        return [(p, key) for p, tensors in new for key in tensors]

    def _missing(self, own: Mapping[str, Any], kernel: str, p: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the state of a parameter lacks, new: keys and values."""
        return self._storage.missing(own, kernel, p)

    def _first_state(self, own: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 (for subclasses)
        """What of the state that a parameter lacks does not start as zero."""
        return {}

    def _workspace(self) -> int:
        """The most bytes of tensors that a step on a CPU makes besides state; the kernels work in place."""
        return 0

    def _remove_state(self, made: list[tuple[Tensor, str]]) -> None:
        """Takes back what was made for a step that was then refused or skipped."""
        for p, key in made:
            del self.state[p][key]
            if not self.state[p]:
                del self.state[p]

    @contextlib.contextmanager
    def averaged_parameters(self) -> Iterator[None]:
        """Puts the averages (``ema_decay``) into the parameters for a while, to evaluate or to save them.

        Raises:
            ValueError: there are no averages.
        """
        averaged = [(p, own["ema"]) for p, own in self.state.items() if "ema" in own]
        if not averaged:
            msg = "there are no averages: give ema_decay to the constructor, and take a step first"
            raise ValueError(msg)
        kept = [p.detach().clone() for p, _ in averaged]
        with torch.no_grad():
            for p, average in averaged:
                p.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for (p, _), before in zip(averaged, kept, strict=True):
                    p.copy_(before)

    # Loading

    def _required_state(self, kernel: str) -> set[str]:
        """What a saved parameter must have, as it is or in codes, for its training to go on."""
        return {"step", *_core.describe_kernel(kernel)["state"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of its torch counterpart.

        State is brought into the storage that this optimizer was given. Without ``moments_dtype``, plain moments keep
        the dtype that they were saved in.

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
        kernels = [self._kernel(group) for group in self.param_groups for _ in group["params"]]
        for number, (key, param) in enumerate(pairs(self, final)):
            for name, value in final["state"].get(key, {}).items():
                if name != "step" and isinstance(value, Tensor) and value.dtype != param.dtype:
                    self.state[param][name] = value.to(param.device)
            if final["state"].get(key):
                self._storage.adopt(self.state[param], kernels[number], param, number)
        if self._traced:
            self._list_for_trace()


def _reciprocal(scale: Tensor | float) -> float | Tensor:
    """In double, but for a scale that another device would have to be waited for."""
    if isinstance(scale, Tensor) and scale.device.type == "hpu":
        return scale.reciprocal()
    return 1.0 / float(scale)


def _is_part_of_zero_redundancy_optimizer() -> bool:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "torch.distributed.optim.zero_redundancy_optimizer":
            return True
        frame = frame.f_back
    return False
