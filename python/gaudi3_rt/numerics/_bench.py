"""What every check works with: the subject and its reference on parameters of one dtype, and the bounds of rounding."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._oracle import Reference, Specification
from gaudi3_rt.numerics._passport import Figure, Status
from gaudi3_rt.numerics._subject import Subject

_MANTISSAS = 128
"""Numbers of bfloat16 in an octave: so many rounding errors of a tensor are independent of one another."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check says, without its name and dtype; fields as of ``Check``."""

    status: Status
    consequence: str
    figure: Figure | None = None
    reproduce: str = ""
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The subject beside its specification, for one dtype on one device."""

    subject: Subject
    spec: Specification
    dtype: torch.dtype
    device: torch.device
    lacking: Collection[str] = ()
    """Optional terms of the formula that the subject refuses: it is measured without them."""

    @property
    def u(self) -> float:
        """The largest relative error of one rounding to the dtype."""
        return float(torch.finfo(self.dtype).eps) / 2

    @property
    def narrow(self) -> bool:
        """Whether the dtype has fewer bits than float32."""
        return torch.finfo(self.dtype).bits < torch.finfo(torch.float32).bits

    def tensor(self, values: Tensor) -> Tensor:
        """A copy in the dtype, on the device."""
        return values.to(self.device, self.dtype, copy=True)

    def parameter(self, values: Tensor) -> torch.nn.Parameter:
        """A parameter that starts with these values."""
        return torch.nn.Parameter(self.tensor(values))

    def options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Those that exercise the formula, as far as the subject has them, with changes."""
        given = {name: value for name, value in self.spec.exercise.items() if name not in self.lacking}
        return {**given, **changes}

    def documented(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The same for the oracle, in which terms that the subject lacks are switched off."""
        return {**{name: self.spec.optional[name] for name in self.lacking}, **self.options(changes)}

    def optimizer(self, params: Any, **changes: Any) -> torch.optim.Optimizer:
        """The subject, with every option that matters given explicitly."""
        return self.subject.make(params, self.options(changes))

    def reference(self, params: Any, *, stored: torch.dtype | None = None, **changes: Any) -> Reference:
        """The float64 oracle, with the same options."""
        return Reference(params, self.spec.name, stored=stored, **self.documented(changes))

    def rounding_of_rates(self, options: Mapping[str, Any]) -> float:
        """Bound of what comes of decay rates and their powers as float32 numbers: 1 - beta has the error of 1."""
        given = self.options(options)
        rates = [float(rate) for rate in (*given.get("betas", ()), given.get("momentum", 0))]
        return 2.0**-24 / (1 - max(rates))

    def rounding_of_mean(self, steps: int, options: Mapping[str, Any]) -> float:
        """Bound of the relative error of a mean movement, for an implementation that rounds ten times in a step.

        Float32 and wider: all errors of all steps in one direction. Narrower, where that would bound nothing: six
        standard deviations of the mean of independent errors that are uniform within half a unit in the last place.
        """
        rates = self.rounding_of_rates(options)
        if not self.narrow:
            return 10 * steps * self.u + rates
        return 6 * math.sqrt(10 * steps) * self.u / math.sqrt(3 * _MANTISSAS) + rates

    def rounding(self, of_model: float, options: Mapping[str, Any] | None = None) -> float:
        """Bound of the relative update error of a trajectory.

        Three terms. Eight times the model's error: an implementation that rounds the result of every operation has at
        most eight roundings where the model has one (two in each moment, three in the denominator, three in the
        update). Sixteen roundings of an update itself, for a model whose own happen to cancel. And that of rates.

        Args:
            of_model: error of the oracle with parameters and moments rounded to the dtype after each step.
            options: beside those that exercise the formula.
        """
        return 8 * of_model + 16 * self.u + self.rounding_of_rates(options or {})


def normal(shape: Sequence[int], generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Random numbers of the CPU's generator, so that they are the same for every device and dtype."""
    return torch.randn(tuple(shape), generator=generator) * scale


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own, which leaves the user's alone."""
    return torch.Generator().manual_seed(seed)


def float64(tensor: Tensor) -> Tensor:
    """A copy for comparison."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


def give(params: Iterable[Tensor], grads: Iterable[Tensor | None]) -> None:
    """Sets gradients."""
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else grad.clone()


def distance(got: Sequence[Tensor], want: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """How far parameters are from those of the oracle, relative to how far those have moved."""
    off = math.sqrt(sum(float((float64(a) - b).square().sum()) for a, b in zip(got, want, strict=True)))
    way = math.sqrt(sum(float((b - float64(c)).square().sum()) for b, c in zip(want, start, strict=True)))
    return off / way if way else math.inf if off else 0.0


def percent(share: float) -> str:
    """A share for a sentence: two digits that matter."""
    if not math.isfinite(share):
        return f"{share} %"
    return f"{100 * share:.{max(0, 1 - math.floor(math.log10(abs(100 * share))))}f} %" if share else "0 %"


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
