"""The step under torch.compile: what is traced, and what the compiled graph asks of the optimizer when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from gaudi3_rt import _core
from gaudi3_rt.optim._batch import clip_coefficient
from gaudi3_rt.optim._hyper import hyper_parameters
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._storage import Storage

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object


class _Traced(TypedDict):
    """What a compiled step reads of those parameters of a group whose state has the same keys.

    Plain lists, so that nothing else of the optimizer is guarded.
    """

    group: int
    kernel: str
    keys: list[str]
    params: list[Tensor]
    numbers: list[int]  # of the parameters in their optimizer
    states: list[list[Tensor]]  # by key, then by parameter
    steps: list[Tensor]


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
    _traced: list[_Traced]
    _storage: Storage

    def _kernel(self, group: Mapping[str, Any]) -> str:
        """The kernel that steps a group; each optimizer says which."""
        raise NotImplementedError

    def _hyper(self, group: Mapping[str, Any]) -> list[float]:
        """The kernel's hyper-parameters, in its order: the options of the group that have their names."""
        return hyper_parameters(self._kernel(group), group)

    def _make_state(self) -> list[tuple[Tensor, str]]:
        """Makes what state is missing for parameters that have a gradient, or nothing if any of them is refused."""
        raise NotImplementedError

    def _rule(self, g: int) -> Rule:
        """How the parameters of group g are updated and stored."""
        group = self.param_groups[g]
        return Rule(
            self._kernel(group),
            self._hyper(group),
            maximize=group.get("maximize", False),
            group=g,
            first_number=sum(len(before["params"]) for before in self.param_groups[:g]),
            storage=self._storage,
        )

    def _list_for_trace(self) -> None:
        """Makes state where it is missing, and lists what the traced step reads."""
        with torch.no_grad():
            self._make_state()
        listed: dict[tuple[int, tuple[str, ...]], _Traced] = {}
        for g, group in enumerate(self.param_groups):
            rule = self._rule(g)
            for i, p in enumerate(group["params"]):
                own = self.state.get(p, {})
                keys = rule.keys(own)
                empty: _Traced = {
                    "group": g,
                    "kernel": rule.kernel,
                    "keys": keys,
                    "params": [],
                    "numbers": [],
                    "states": [[] for _ in keys],
                    "steps": [],
                }
                entry = listed.setdefault((g, tuple(keys)), empty)
                entry["params"].append(p)
                entry["numbers"].append(rule.first_number + i)
                for tensors, key in zip(entry["states"], keys, strict=True):
                    tensors.append(own[key])
                if "step" in own:  # else no gradient was seen, and the parameter is not stepped
                    entry["steps"].append(own["step"])
        self._traced = list(listed.values())

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
        (anchor, *_) = [p.detach() for entry in self._traced for p in entry["params"]]
        # All of them before the first step: this is where it shows that the trace no longer holds.
        hypers = [torch.ops.gaudi3_rt.group_hyper(anchor, self._name, i) for i in range(len(self._traced))]
        factor = None
        if self.max_grad_norm is not None or found_inf is not None or grad_scale is not None:
            sum_squares = None
            if self.max_grad_norm is not None:
                grads = [p.grad for entry in self._traced for p in entry["params"] if p.grad is not None]
                sum_squares = torch.ops.gaudi3_rt.sum_squares(grads)
            factor, found_inf = torch.ops.gaudi3_rt.grad_factor(anchor, sum_squares, grad_scale, found_inf, self._name)
        for i, entry in enumerate(self._traced):
            seen = [j for j, p in enumerate(entry["params"]) if p.grad is not None]
            if not seen:
                continue
            self._traced_step_of(entry, seen, hypers[i], factor, found_inf)

    def _traced_step_of(
        self, entry: _Traced, seen: list[int], hyper: Tensor, factor: Tensor | None, found_inf: Tensor | None
    ) -> None:
        """The step of those parameters of an entry whose indices are in ``seen``."""
        params = [entry["params"][j] for j in seen]
        torch.ops.gaudi3_rt.step_(
            entry["kernel"],
            " ".join(entry["keys"]),
            [p.detach() for p in params],
            [p.grad for p in params],
            [tensors[j] for tensors in entry["states"] for j in seen],
            [entry["steps"][j] for j in seen],
            hyper,
            factor,
            found_inf,
            [entry["numbers"][j] for j in seen],
            self._name,
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

    def n_hyper(self, index: int) -> int:
        """How many numbers ``traced_hyper`` gives."""
        return len(_core.describe_kernel(self._traced[index]["kernel"])["hyper"]) + 1

    def traced_hyper(self, index: int) -> list[float]:
        """The hyper-parameters of what was traced under an index, and its sign; checks that its trace still holds.

        Raises:
            RuntimeError: state was replaced, or the group's kernel changed, behind the compiled step's back.
        """
        self._opt_called = True  # dynamo does not replay attributes that are set on an optimizer
        traced = self._traced[index]
        rule = self._rule(traced["group"])
        current = [self.state.get(p, {}) for p in traced["params"]]
        same = rule.kernel == traced["kernel"] and all(
            own.get(key) is tensor
            for key, tensors in zip(("step", *traced["keys"]), (traced["steps"], *traced["states"]), strict=True)
            for own, tensor in zip(current, tensors, strict=len(tensors) > 0)
        )
        if not same:
            msg = (
                f"the state or the options of group {traced['group']} were replaced after the step was compiled; "
                "use load_state_dict to replace state, or call torch.compiler.reset()"
            )
            raise RuntimeError(msg)
        return [*rule.hyper, -1.0 if rule.maximize else 1.0]
