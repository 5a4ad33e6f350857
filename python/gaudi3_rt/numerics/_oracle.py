"""The documented updates of optimizers in float64: what an audit compares with.

Written from the formulas in the documentation and the papers, in plain operations on float64 tensors of the CPU.
Nothing here comes from torch.optim, which is itself a subject, or from the kernels of this package.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics import _formulas as formulas
from gaudi3_rt.numerics._formulas import Rule, State


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What an optimizer claims to compute.

    Attributes:
        name: as in ``like``.
        source: where the formula is documented.
        rule: the formula.
        defaults: of the options that change the update.
        exercise: options that make every term of the formula count.
        optional: those of them that published optimizers lack, with the values that switch them off.
        moments: tensors of the parameter's shape that its state has.
        adam: whether it has the two moments and the bias correction of Adam, element by element.
        decoupled: whether decay multiplies the parameter, apart from the gradient.
        elementwise: whether elements are updated independently of one another.
        matrices: whether parameters must be matrices.
        coarse: the formula with the narrow arithmetic that its authors chose for a part of it; what rounding may do.
    """

    name: str
    source: str
    rule: Rule
    defaults: Mapping[str, Any]
    exercise: Mapping[str, Any]
    moments: int
    optional: Mapping[str, Any] = field(default_factory=dict)
    adam: bool = False
    decoupled: bool = False
    elementwise: bool = True
    matrices: bool = False
    coarse: Rule | None = None

    @property
    def torch_class(self) -> type[torch.optim.Optimizer] | None:
        """The class of torch.optim of this name."""
        module, _, name = self.name.rpartition(".")
        return getattr(torch.optim, name) if module == "torch.optim" else None


_DOCS = "https://docs.pytorch.org/docs/stable/generated/"
_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
_MUON = {
    "lr": 1e-3,
    "weight_decay": 0.1,
    "momentum": 0.95,
    "nesterov": True,
    "ns_coefficients": (3.4445, -4.7750, 2.0315),
    "eps": 1e-7,
    "ns_steps": 5,
    "adjust_lr_fn": None,
}
_ITERATION = {"ns_coefficients": (3.4, -4.7, 2.05), "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
_SGD = {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}

SPECIFICATIONS = {
    spec.name: spec
    for spec in (
        Specification(
            name="torch.optim.AdamW",
            source=_DOCS + "torch.optim.AdamW.html",
            rule=formulas.adamw,
            defaults={**_ADAM, "weight_decay": 1e-2},
            exercise={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
            moments=2,
            adam=True,
            decoupled=True,
        ),
        Specification(
            name="torch.optim.Adam",
            source=_DOCS + "torch.optim.Adam.html",
            rule=formulas.adam_l2,
            defaults=_ADAM,
            exercise={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
            optional={"weight_decay": 0},
            moments=2,
            adam=True,
        ),
        Specification(
            name="torch.optim.SGD",
            source=_DOCS + "torch.optim.SGD.html",
            rule=formulas.sgd,
            defaults=_SGD,
            exercise={"lr": 1e-3, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-2},
            optional={"dampening": 0, "weight_decay": 0},
            moments=1,
        ),
        Specification(
            name="torch.optim.Adagrad",
            source=_DOCS + "torch.optim.Adagrad.html",
            rule=formulas.adagrad,
            defaults={
                "lr": 1e-2,
                "lr_decay": 0,
                "weight_decay": 0,
                "initial_accumulator_value": 0,
                "eps": 1e-10,
                "maximize": False,
            },
            exercise={"lr": 1e-2, "lr_decay": 1e-3, "weight_decay": 1e-2, "initial_accumulator_value": 0.1},
            optional={"lr_decay": 0, "initial_accumulator_value": 0},
            moments=1,
        ),
        Specification(
            name="torch.optim.Muon",
            source=_DOCS
            + "torch.optim.Muon.html, with the iteration in bfloat16, as in kellerjordan.github.io/posts/muon",
            rule=formulas.muon,
            coarse=functools.partial(formulas.muon, rounded=formulas.bfloat16),
            defaults=_MUON,
            exercise={**_MUON, "lr": 2e-3, "weight_decay": 0.2, "momentum": 0.9, **_ITERATION},
            moments=1,
            decoupled=True,
            elementwise=False,
            matrices=True,
        ),
        Specification(
            name="lion",
            source="arXiv:2302.06675, Algorithm 2",
            rule=formulas.lion,
            defaults={"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
            exercise={"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 1e-2},
            optional={"weight_decay": 0},
            moments=1,
            decoupled=True,
        ),
        Specification(
            name="lamb",
            source="arXiv:1904.00962, Algorithm 2, with gradients clipped to a global norm first, as in apex",
            rule=formulas.lamb,
            defaults={
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-6,
                "weight_decay": 0.01,
                "max_grad_norm": 1.0,
            },
            exercise={"lr": 2e-3, "betas": (0.88, 0.995), "eps": 3e-6, "weight_decay": 0.03, "max_grad_norm": 2.0},
            optional={"max_grad_norm": None},
            moments=2,
            elementwise=False,
        ),
        Specification(
            name="lars",
            source="arXiv:1708.03888, with the learning rate outside of the momentum, as in timm",
            rule=formulas.lars,
            defaults={
                "lr": 1.0,
                "momentum": 0,
                "dampening": 0,
                "weight_decay": 0,
                "nesterov": False,
                "trust_coeff": 0.001,
                "eps": 1e-8,
            },
            exercise={"lr": 0.5, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-2, "trust_coeff": 2e-3},
            optional={"dampening": 0},
            moments=1,
            elementwise=False,
        ),
    )
}


def specification(name: str) -> Specification:
    """The specification of this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return SPECIFICATIONS[name]
    except KeyError:
        msg = f"like={name!r}: must be one of {sorted(SPECIFICATIONS)}"
        raise ValueError(msg) from None


class Reference:
    """An optimizer whose parameters, state and arithmetic are float64: the documented formula and nothing else.

    Args:
        params: tensors, or groups as in torch; they are copied, not changed.
        like: name of the specification.
        stored: round parameters and moments to this dtype after each step, and what the authors of the formula round:
            what storage alone does to the result.
        **options: of the specification; what is not given has its default.

    Attributes:
        params: in float64, on the CPU.
        param_groups: options of each group, which may be changed between steps.

    Raises:
        ValueError: there is no such specification.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        like: str,
        *,
        stored: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        self._spec = specification(like)
        self._stored = stored
        self._rule = self._spec.rule if stored is None else self._spec.coarse or self._spec.rule
        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.params: list[Tensor] = []
        self.param_groups: list[dict[str, Any]] = []
        self._group_of: list[dict[str, Any]] = []
        for group in groups:
            own = {**self._spec.defaults, **options, **{k: x for k, x in group.items() if k != "params"}}
            self.param_groups.append(own)
            for p in group["params"]:
                self.params.append(_float64(p))
                self._group_of.append(own)
        self._states: list[State] = [{} for _ in self.params]
        self._steps = [0] * len(self.params)

    def step(self, grads: Sequence[Tensor | None]) -> None:
        """Takes one step; a parameter whose gradient is None is left as it is."""
        wide = [None if grad is None else _float64(grad) for grad in grads]
        factor = self._clipping(wide)
        for i, (grad, group) in enumerate(zip(wide, self._group_of, strict=True)):
            if grad is None:
                continue
            self._steps[i] += 1
            signed = -grad if group.get("maximize") else grad
            new = self._rule(self.params[i], factor * signed, self._states[i], group, self._steps[i])
            self.params[i] = self._round(new)
            self._states[i] = {name: self._round(value) for name, value in self._states[i].items()}

    def _round(self, value: Tensor) -> Tensor:
        return value if self._stored is None else value.to(self._stored).double()

    def _clipping(self, grads: Sequence[Tensor | None]) -> float:
        bound = self.param_groups[0].get("max_grad_norm")
        if bound is None:
            return 1.0
        norm = math.sqrt(sum(float((grad * grad).sum()) for grad in grads if grad is not None))
        return min(1.0, float(bound) / (norm + 1e-6))


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)
