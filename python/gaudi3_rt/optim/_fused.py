"""What all fused optimizers share: gathering tensors, clipping, AMP, compilation, loading of state."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim import _ops
from gaudi3_rt.optim._batch import Batch, Rule, check_tensors, clip_coefficient

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object

_numbers = itertools.count()

# Options that torch gives a default when it loads a checkpoint that is older than they are.
_FILLED_IN_BY_TORCH = {
    "amsgrad",
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
}


class _TracedGroup(TypedDict):
    """What a compiled step reads of one group: plain lists, so that nothing else of the optimizer is guarded."""

    kernel: str
    params: list[Tensor]
    states: list[list[Tensor | None]]  # by name of the state, then by parameter; None where no gradient was seen
    steps: list[Tensor | None]


class Fused(_Base):
    """Mixin that takes a torch optimizer's step with a kernel; it goes before the torch class among the bases.

    A subclass says which kernel a group uses and with which hyper-parameters (``_kernel``, ``_hyper``), and registers
    the same update in torch operations (``_ops.COMPOSITES``).

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

    max_grad_norm: float | None
    last_grad_norm: Tensor | None
    last_step_skipped: bool
    finds_nonfinite: bool

    def _kernel(self, group: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        raise NotImplementedError

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
        self._traced: list[_TracedGroup] = []
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
            self._prepare_trace()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch; ``differentiable=True`` is refused."""
        _refuse_differentiable(type(self), {**self.defaults, **param_group})
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

    # A scheduler wraps the step of its optimizer to learn whether it was called (_opt_called), unless the step says that
    # this was done already. Dynamo refuses to trace that wrapper, so the step above notes its call itself.
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
        try:
            self._gather(batch)
            norm, stepped = batch.step(
                grad_factor=1.0 if grad_scale is None else 1.0 / float(grad_scale),
                max_norm=max_norm,
                skip_nonfinite=found_inf is not None,
            )
        finally:
            batch.clear()
        if found_inf is not None and not stepped:
            self.last_step_skipped = True
            found_inf.fill_(1.0)
        if norm is not None and self.max_grad_norm is not None:
            self.last_grad_norm = torch.tensor(norm, dtype=torch.float32)

    def _gather(self, batch: Batch) -> None:
        """Fills the batch with everything that has a gradient; makes missing state, but only after all is checked."""
        if not self._add_all(batch):
            batch.clear()
            self._make_state()
            self._add_all(batch)

    def _add_all(self, batch: Batch) -> bool:
        """False if some state is missing."""
        for g, group in enumerate(self.param_groups):
            rule = Rule(self._kernel(group), self._hyper(group), maximize=group["maximize"], group=g)
            if batch.add_from_state(rule, group["params"], self.state):
                return False
        return True

    def _make_state(self) -> None:
        """Makes what state is missing for parameters that have a gradient, or nothing if any of them is refused."""
        new = []
        for g, group in enumerate(self.param_groups):
            keys = _core.describe_kernel(self._kernel(group))["state"]
            for i, p in enumerate(group["params"]):
                if p.grad is not None and not {"step", *keys} <= self.state.get(p, {}).keys():
                    check_tensors([p, p.grad], f"parameter {i} of group {g}")
                    new.append((p, keys))
        for p, keys in new:
            state = self.state[p]
            # The schema of torch.optim: a float32 counter on the host, the rest like the parameter.
            state.setdefault("step", torch.zeros((), dtype=torch.float32))
            for key in keys:
                if key not in state:
                    state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)

    # The step under torch.compile

    def _prepare_trace(self) -> None:
        """Runs for real while the step is traced: makes state and lists what the traced step will read."""
        with torch.no_grad():
            self._make_state()
        self._traced = [
            {
                "kernel": (kernel := self._kernel(group)),
                "params": list(group["params"]),
                "states": [
                    [self.state.get(p, {}).get(key) for p in group["params"]]
                    for key in _core.describe_kernel(kernel)["state"]
                ],
                "steps": [self.state.get(p, {}).get("step") for p in group["params"]],
            }
            for group in self.param_groups
        ]

    # torch.compiler.assume_constant_result does this too, but imports the compiler (1.5 s) for those who never use it.
    _prepare_trace._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _traced_step(self) -> None:
        # Parameters are detached and not stepped under no_grad: if an operator raised inside such a block of a compiled
        # graph, gradients would stay switched off for whoever catches the error.
        self._prepare_trace()
        found_inf = getattr(self, "found_inf", None)
        grad_scale = getattr(self, "grad_scale", None)
        factor = None
        if self.max_grad_norm is not None or found_inf is not None or grad_scale is not None:
            sum_squares = None
            if self.max_grad_norm is not None:
                grads = [p.grad for group in self._traced for p in group["params"] if p.grad is not None]
                sum_squares = torch.ops.gaudi3_rt.sum_squares(grads)
            anchor = [p for group in self._traced for p in group["params"]][0].detach()  # noqa: RUF015 (dynamo traces it)
            factor, found_inf = torch.ops.gaudi3_rt.grad_factor(anchor, sum_squares, grad_scale, found_inf, self._name)
        for g, group in enumerate(self._traced):
            seen = [i for i, p in enumerate(group["params"]) if p.grad is not None]
            if not seen:
                continue
            params = [group["params"][i] for i in seen]
            torch.ops.gaudi3_rt.step_(
                group["kernel"],
                [p.detach() for p in params],
                [p.grad for p in params],
                [states[i] for states in group["states"] for i in seen],
                [group["steps"][i] for i in seen],
                torch.ops.gaudi3_rt.group_hyper(params[0].detach(), self._name, g),
                factor,
                found_inf,
            )

    def traced_factor(
        self, sum_squares: float | None, grad_scale: float | None, found_inf: float | None
    ) -> tuple[float, float]:
        """What a compiled step multiplies gradients by, and whether (1 or 0) it is skipped; notes both, and the norm."""
        factor = 1.0 if grad_scale is None else 1.0 / grad_scale
        skip = found_inf is not None and found_inf != 0
        if sum_squares is not None and self.max_grad_norm is not None:
            norm = math.sqrt(sum_squares) * abs(factor)
            factor *= clip_coefficient(norm, self.max_grad_norm)
            if not skip:
                self.last_grad_norm = torch.tensor(norm, dtype=torch.float32)
            skip = skip or (found_inf is not None and not math.isfinite(norm))
        self.last_step_skipped = skip
        return factor, float(skip)

    def n_hyper(self, g: int) -> int:
        """How many numbers ``traced_hyper`` gives."""
        return len(_core.describe_kernel(self._kernel(self.param_groups[g]))["hyper"]) + 1

    def traced_hyper(self, g: int) -> list[float]:
        """The hyper-parameters of group g and its sign, for a compiled step; checks that its trace still holds.

        Raises:
            RuntimeError: state was replaced, or the group's kernel changed, behind the compiled step's back.
        """
        self._opt_called = True  # dynamo does not replay attributes that are set on an optimizer
        group = self.param_groups[g]
        if self._traced:
            traced = self._traced[g]
            kernel = self._kernel(group)
            current = [self.state.get(p, {}) for p in group["params"]]
            keys = _core.describe_kernel(traced["kernel"])["state"]
            same = kernel == traced["kernel"] and all(
                s.get(key) is t
                for key, tensors in zip(("step", *keys), (traced["steps"], *traced["states"]), strict=True)
                for s, t in zip(current, tensors, strict=True)
            )
            if not same:
                msg = (
                    f"the state or the options of group {g} were replaced after the step was compiled; "
                    "use load_state_dict to replace state, or call torch.compiler.reset()"
                )
                raise RuntimeError(msg)
        return [*self._hyper(group), -1.0 if group["maximize"] else 1.0]

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
            self._check_loadable(loaded)

        hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        # torch has cast every state to its parameter's dtype; a float32 moment of a bf16 parameter comes back here.
        for key, param in self._pairs(final):
            for name, value in final["state"].get(key, {}).items():
                if name != "step" and isinstance(value, Tensor) and value.dtype != param.dtype:
                    self.state[param][name] = value.to(param.device)
        if self._traced:
            self._prepare_trace()

    def _pairs(self, state_dict: Mapping[str, Any]) -> list[tuple[Any, Tensor]]:
        """Keys of saved state with the parameters of this optimizer that they stand for, in order."""
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        return list(zip(keys, params, strict=True))

    def _check_loadable(self, state_dict: Mapping[str, Any]) -> None:
        saved = [len(group["params"]) for group in state_dict["param_groups"]]
        own = [len(group["params"]) for group in self.param_groups]
        if saved != own:
            msg = f"the saved groups have {saved} parameters, this optimizer's have {own}; they must match"
            raise ValueError(msg)
        kernel_of = {}
        for group in state_dict["param_groups"]:
            _refuse_differentiable(type(self), group)
            absent = sorted(self.defaults.keys() - _FILLED_IN_BY_TORCH - group.keys())
            if absent:
                msg = f"a saved group has no {absent}; was it saved by another class of optimizer?"
                raise ValueError(msg)
            for key in group["params"]:
                kernel_of[key] = self._kernel({**self.defaults, **group})
        for i, (key, param) in enumerate(self._pairs(state_dict)):
            state = state_dict["state"].get(key)
            if not state:
                continue
            wanted = {"step", *_core.describe_kernel(kernel_of[key])["state"]}
            if set(state) != wanted:
                msg = (
                    f"the saved state of parameter {i} has the keys {sorted(map(str, state))}, {type(self).__name__} "
                    f"needs {sorted(wanted)}; was it saved by another class of optimizer?"
                )
                raise ValueError(msg)
            for name in sorted(wanted - {"step"}):
                if state[name].shape != param.shape:
                    msg = (
                        f"the saved {name} of parameter {i} has shape {tuple(state[name].shape)}, the parameter has "
                        f"{tuple(param.shape)}; they must be equal"
                    )
                    raise ValueError(msg)


def _refuse_differentiable(cls: type, group: Mapping[str, Any]) -> None:
    if group.get("differentiable"):
        msg = (
            f"differentiable=True: {cls.__name__} writes memory that autograd does not see, so no gradient can flow "
            "through its step; use the class of torch.optim for that"
        )
        raise ValueError(msg)


def _is_part_of_zero_redundancy_optimizer() -> bool:
    frame = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "torch.distributed.optim.zero_redundancy_optimizer":
            return True
        frame = frame.f_back
    return False
