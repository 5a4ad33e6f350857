"""The step under torch.compile: what is traced, and what the compiled graph asks of the optimizer when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim._batch import clip_coefficient

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object


class _TracedGroup(TypedDict):
    """What a compiled step reads of one group: plain lists, so that nothing else of the optimizer is guarded."""

    kernel: str
    params: list[Tensor]
    states: list[list[Tensor | None]]  # by name of the state, then by parameter; None where no gradient was seen
    steps: list[Tensor | None]


class Traced(_Base):
    """The part of ``Fused`` that dynamo traces.

    The graph gets the tensors of the step as its inputs, through plain lists that nothing else reads. Numbers
    (``lr``, ``max_grad_norm``, ...) it asks for when it runs, through operators that are given the optimizer's name:
    were they read while tracing, dynamo would compile again whenever one changes.
    """

    max_grad_norm: float | None
    last_grad_norm: Tensor | None
    last_step_skipped: bool
    _name: str
    _traced: list[_TracedGroup]

    def _kernel(self, group: Mapping[str, Any]) -> str:
        """The kernel that steps a group; each optimizer says which."""
        raise NotImplementedError

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        """The kernel's hyper-parameters, in its order."""
        raise NotImplementedError

    def _make_state(self) -> list[tuple[Tensor, str]]:
        """Makes what state is missing for parameters that have a gradient, or nothing if any of them is refused."""
        raise NotImplementedError

    def _list_for_trace(self) -> None:
        """Makes state where it is missing, and lists what the traced step reads."""
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

    def _prepare_trace(self) -> bool:
        """Runs for real while the step is traced.

        Returns:
            Whether the code traced so far changes a group, say its ``lr``: dynamo does that only after the graph has
            run, so the graph must end here.
        """
        from torch._dynamo.symbolic_convert import InstructionTranslator  # noqa: PLC0415 (imports the compiler)

        self._list_for_trace()
        effects = InstructionTranslator.current_tx().output.side_effects
        seen = (effects.id_to_variable.get(id(group)) for group in self.param_groups)
        return any(variable is not None and effects.is_modified(variable) for variable in seen)

    # torch.compiler.assume_constant_result does this too, but imports the compiler, which takes seconds, for everyone.
    _prepare_trace._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _traced_step(self) -> None:
        # Parameters are detached and not stepped under no_grad: if an operator raised inside such a block of a compiled
        # graph, gradients would stay switched off for whoever catches the error.
        if self._prepare_trace():
            torch._dynamo.graph_break()
        found_inf = getattr(self, "found_inf", None)
        grad_scale = getattr(self, "grad_scale", None)
        (anchor, *_) = [p.detach() for group in self._traced for p in group["params"]]
        # All of them before the first step: this is where it shows that the trace no longer holds.
        hypers = [torch.ops.gaudi3_rt.group_hyper(anchor, self._name, g) for g in range(len(self._traced))]
        factor = None
        if self.max_grad_norm is not None or found_inf is not None or grad_scale is not None:
            sum_squares = None
            if self.max_grad_norm is not None:
                grads = [p.grad for group in self._traced for p in group["params"] if p.grad is not None]
                sum_squares = torch.ops.gaudi3_rt.sum_squares(grads)
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
                hypers[g],
                factor,
                found_inf,
            )

    def traced_factor(
        self, sum_squares: float | None, grad_scale: float | None, found_inf: float | None
    ) -> tuple[float, float]:
        """What a compiled step multiplies gradients by, and whether (1 or 0) it is skipped; notes the norm."""
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
                t is None or s.get(key) is t  # None: had no gradient, and is not stepped
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
