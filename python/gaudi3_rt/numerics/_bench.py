"""What every check works with: the subject and its reference on parameters of one dtype, and the bounds of rounding."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._oracle import Reference, Specification
from gaudi3_rt.numerics._passport import Figure, Status
from gaudi3_rt.numerics._subject import RefusedError, Subject

_SMALL = 0.1
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
        """A copy in the dtype, on the device; a matrix where parameters must be."""
        made = values.to(self.device, self.dtype, copy=True)
        return made.reshape(matrix_shape(made.numel())) if self.spec.matrices and made.dim() == 1 else made

    def parameter(self, values: Tensor) -> torch.nn.Parameter:
        """A parameter that starts with these values."""
        return torch.nn.Parameter(self.tensor(values))

    def options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Those that exercise the formula, with changes; what the subject lacks is not given to switch it off."""
        given = {name: value for name, value in self.spec.exercise.items() if name not in self.lacking}
        off = {name for name in self.lacking if changes.get(name) == self.spec.optional[name]}
        return {**given, **{name: value for name, value in changes.items() if name not in off}}

    def documented(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The same for the oracle, in which terms that the subject lacks are switched off."""
        return {**{name: self.spec.optional[name] for name in self.lacking}, **self.options(changes)}

    def makes(self, options: Mapping[str, Any]) -> bool:
        """Whether the subject can be made with these options."""
        try:
            self.subject.make([self.parameter(torch.ones(2))], options)
        except RefusedError:
            return False
        return True

    def refused_terms(self) -> tuple[str, ...]:
        """The optional terms that the subject refuses while it takes the others; none if it refuses these too."""
        optional, given = self.spec.optional, self.spec.exercise
        needed = {name: value for name, value in given.items() if name not in optional}
        if not optional or self.makes(given) or not self.makes(needed):
            return ()
        return tuple(name for name in optional if not self.makes({**needed, name: given[name]}))

    def optimizer(self, params: Any, **changes: Any) -> torch.optim.Optimizer:
        """The subject, with every option that matters given explicitly."""
        return self.subject.make(params, self.options(changes))

    def reference(self, params: Any, *, stored: torch.dtype | None = None, **changes: Any) -> Reference:
        """The float64 oracle, with the same options."""
        return Reference(params, self.spec.name, stored=stored, **self.documented(changes))

    def rounding_of_rates(self, options: Mapping[str, Any]) -> float:
        """Bound of what comes of decay rates and their powers as float32 numbers: 1 - beta has the error of 1.

        Float64 parameters are promised float64 rates.
        """
        given = self.options(options)
        rates = [float(rate) for rate in (*given.get("betas", ()), given.get("momentum", 0))]
        return (2.0**-53 if self.dtype is torch.float64 else 2.0**-24) / (1 - max(rates, default=0.0))

    def rounding_of_mean(self, steps: int, options: Mapping[str, Any]) -> float:
        """Bound of the relative error of a mean movement, for an implementation that rounds ten times in a step.

        Float32 and wider: all errors of all steps in one direction. Narrower, where that would bound nothing: three
        standard deviations of the mean of independent errors that are uniform within half a unit in the last place.
        """
        rates = self.rounding_of_rates(options)
        if not self.narrow:
            return 10 * steps * self.u + rates
        return 3 * math.sqrt(10 * steps) * self.u / math.sqrt(3 * _MANTISSAS) + rates

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


def matrix_shape(count: int) -> tuple[int, int]:
    """Of a matrix with so many elements, as near to a square as can be, and not one."""
    rows = next((rows for rows in range(math.isqrt(count), 1, -1) if not count % rows and rows * rows != count), 1)
    return rows, count // rows


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


def checkpoint(optimizer: torch.optim.Optimizer) -> Any:
    """A copy of its state_dict; by way of a file where its tensors can be copied in no other, as trainings do."""
    state = optimizer.state_dict()
    try:
        return copy.deepcopy(state)
    except NotImplementedError:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)


def distance(got: Sequence[Tensor], want: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """How far parameters are from those of the oracle, relative to how far those have moved."""
    off = math.sqrt(sum(float((float64(a) - b).square().sum()) for a, b in zip(got, want, strict=True)))
    way = math.sqrt(sum(float((b - float64(c)).square().sum()) for b, c in zip(want, start, strict=True)))
    return off / way if way else math.inf if off else 0.0


def differing(a: Tensor, b: Tensor) -> int:
    """How many elements of two tensors of one shape differ; NaN is equal to NaN."""
    return int(((a != b) & ~(a.isnan() & b.isnan())).sum()) if a.is_floating_point() else int((a != b).sum())


def percent(share: float) -> str:
    """A share for a sentence: two digits that matter."""
    if not math.isfinite(share):
        return f"{share} %"
    return f"{100 * share:.{max(0, 1 - math.floor(math.log10(abs(100 * share))))}f} %" if share else "0 %"


def counted(count: int, one: str, many: str) -> str:
    """A number of things, for a sentence."""
    return f"{count} {one if count == 1 else many}"


def part(share: float) -> str:
    """A share of what should be, for a sentence: as many digits as tell it from the whole."""
    if not math.isfinite(share) or abs(share) < _SMALL:
        return percent(share)
    rest = abs(100 * (share - 1))
    return f"{100 * share:.{max(0, -math.floor(math.log10(rest))) if rest else 0}f} %"


def off(error: float) -> str:
    """An update error, for a sentence about parameters."""
    if not math.isfinite(error):
        return "no finite numbers"
    return f"off by {percent(error)} of the distance that they should move"


def sentence(text: str, limit: int = 300) -> str:
    """One line that begins and ends like a sentence; of a long error the first line."""
    text = " ".join((text if len(text) <= limit else text.partition("\n")[0]).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    start = text if "." in text.partition(" ")[0] else text[0].upper() + text[1:]  # torch.optim.Adam is a name
    return start + ("" if text.endswith((".", "?", "!", "…")) else ".")


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
