"""What all layouts are read into and written from: groups, parameters in order, step counts, moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from gaudi3_rt.numerics.convert._values import Values

Algorithm = Literal["adam", "sgd", "lion", "adagrad"]

MOMENTS: Mapping[Algorithm, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "lion": ("exp_avg",),
    "adagrad": ("sum",),
}
"""Names of the moments, as ``torch.optim`` has them."""

OPTIONAL_MOMENT = "max_exp_avg_sq"
"""Kept with ``amsgrad`` alone."""

COUNTED: frozenset[Algorithm] = frozenset({"adam", "adagrad"})
"""The algorithms whose formula has a step count in it."""

NEUTRAL: Mapping[Algorithm, Mapping[str, Any]] = {
    "adam": {"lr": None, "betas": None, "eps": None, "weight_decay": 0, "amsgrad": False, "maximize": False}
    | {"bias_correction": True, "decoupled_weight_decay": None},
    "sgd": {"lr": None, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False},
    "lion": {"lr": None, "betas": None, "weight_decay": 0, "maximize": False},
    "adagrad": {"lr": None, "lr_decay": 0, "eps": None, "weight_decay": 0, "maximize": False},
}
"""Options that change a formula, with the value at which they change nothing; None where there is none."""

NO_FORMULA = frozenset({"foreach", "capturable", "differentiable", "fused", "initial_accumulator_value", "step"})
"""Options that choose an implementation, act before the first step, or are counted elsewhere; a target has its own."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """The state of one parameter.

    Attributes:
        key: what it is called in the ``state_dict``: a number or a name.
        name: of the parameter in its model; None where nobody says.
        step: how many updates its moments have seen.
        moments: by the names of ``torch.optim``; empty before the first update.
    """

    key: int | str
    name: str | None
    step: int = 0
    moments: Mapping[str, Values] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its shape; None before the first update."""
        return next((values.shape for values in self.moments.values()), None)

    def __str__(self) -> str:
        return repr(self.name) if self.name is not None else f"parameter {self.key}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with common options: those of ``NEUTRAL``, and whatever a scheduler or a user has put beside them."""

    options: Mapping[str, Any]
    params: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """A ``state_dict`` without its layout.

    Attributes:
        algorithm: whose formula it belongs to.
        groups: in order.
        notes: what was recovered or assumed when it was read.
        lost: what its source has and no record of ours.
    """

    algorithm: Algorithm
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def params(self) -> Iterator[Parameter]:
        """All parameters, in order."""
        return (param for group in self.groups for param in group.params)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a caller says that a layout does not.

    Attributes:
        optimizer: the class of optimizer, e.g. ``AdamW``; None: what the layout says.
        step: the step count, for layouts that have lost it.
        moments_dtype: of the result; None: as they are.
        names: of the parameters, by group, with their shapes where they are known; None: unknown.
    """

    optimizer: str | None = None
    step: int | None = None
    moments_dtype: torch.dtype | None = None
    names: tuple[tuple[tuple[str | None, tuple[int, ...] | None], ...], ...] | None = None


@dataclass(frozen=True)
class Written:
    """A ``state_dict`` in some layout, whose tensors may still be ``Values``.

    Attributes:
        state_dict: as the library's ``load_state_dict`` takes it.
        lost: what of the state the layout has no place for.
        notes: what else to know, e.g. how to make the optimizer that loads it.
    """

    state_dict: dict[str, Any]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


ALGORITHMS: Mapping[str, tuple[Algorithm, bool | None]] = {
    "AdamW": ("adam", True),
    "Adam": ("adam", False),
    "SGD": ("sgd", None),
    "Lion": ("lion", None),
    "Adagrad": ("adagrad", None),
}
"""By the name of a class: its algorithm, and whether its weight decay is decoupled."""


def class_of(state: OptimizerState) -> str:
    """The name of the class that goes on from this state."""
    decoupled = state.groups[0].options.get("decoupled_weight_decay")
    return next(name for name, fits in ALGORITHMS.items() if fits == (state.algorithm, decoupled))
