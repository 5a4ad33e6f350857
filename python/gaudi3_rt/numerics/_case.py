"""The smallest case of a question: equal gradients for one tensor, how far it moves, and the same as Python text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, dtype_name, float64, matrix_shape
from gaudi3_rt.numerics._subject import Subject

Runs = tuple[tuple[int, float | None], ...]
"""How many steps with which gradient, in turn; None for no gradient."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One tensor whose elements all move in one direction.

    Attributes:
        gradients: of the tensor; an element's is this times a number from 1 to 2, so that rounding errors are
            independent.
        start: first and last element; between them evenly spaced.
        options: beside those that exercise the formula.
        size: elements; so many that optimizers which quantize large tensors do so.
        since: movement is measured from after this step.
        beside: gradients of a second tensor in the same group, which comes first in it; none by default.
    """

    gradients: Runs
    start: tuple[float, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 4096
    since: int = 0
    beside: Runs = ()

    @property
    def steps(self) -> int:
        """How many."""
        return sum(count for count, _ in self.gradients)

    def _values(self) -> Tensor:
        return torch.linspace(*self.start, self.size)

    def _gradients(self, bench: Bench, runs: Runs) -> list[Tensor | None]:
        shape = torch.linspace(1, 2, self.size)
        made = [(n, None if value is None else bench.tensor(value * shape)) for n, value in runs]
        return [grad for n, grad in made for _ in range(n)]

    def measure(self, bench: Bench) -> Movement:
        """Runs the subject, the oracle and the model of storage."""
        params = [bench.parameter(self._values()) for _ in range(2 if self.beside else 1)]
        every = [
            self._gradients(bench, runs)
            for runs in ((self.beside, self.gradients) if self.beside else (self.gradients,))
        ]
        optimizer = bench.optimizer(params, **self.options)
        oracle = bench.reference(params, **self.options)
        model = bench.reference(params, stored=bench.dtype, **self.options)
        before = [float64(params[-1])] * 3
        for t, grads in enumerate(zip(*every, strict=True)):
            if t == self.since:
                before = [float64(params[-1]), oracle.params[-1], model.params[-1]]
            for p, grad in zip(params, grads, strict=True):
                p.grad = None if grad is None else grad.clone()
            optimizer.step()
            oracle.step(grads)
            model.step(grads)
        after = [float64(params[-1]), oracle.params[-1], model.params[-1]]
        return Movement(*(float((b - a).mean()) for a, b in zip(before, after, strict=True)))

    def script(self, bench: Bench, moved: Movement) -> str:
        """Python that prints how far the subject moves beside how far it should."""
        options = ", ".join(f"{name}={value!r}" for name, value in bench.options(self.options).items())
        where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
        to = f"dtype=torch.{dtype_name(bench.dtype)}{where}"
        shaped = f".reshape{matrix_shape(self.size)}" if bench.spec.matrices else ""
        lines = [
            "import torch",
            *Subject.lines(bench.subject),
            "",
            f"start = torch.linspace({self.start[0]!r}, {self.start[1]!r}, {self.size}){shaped}.to({to})",
            "p = torch.nn.Parameter(start.clone())",
        ]
        members = "[p]"
        sequence = f"for t, g in enumerate({_text(self.gradients)}):"
        if self.beside:
            lines.append("q = torch.nn.Parameter(start.clone())")
            members = "[q, p]"
            sequence = f"for t, (g, h) in enumerate(zip({_text(self.gradients)}, {_text(self.beside)})):"
        lines += [f"optimizer = Optimizer({members}, {options})", sequence]
        if self.since:
            lines += [f"    if t == {self.since}:", "        start = p.detach().clone()"]
        shape = f"(g * torch.linspace(1, 2, {self.size}){shaped}).to(p)"
        lines.append(
            f"    p.grad = None if g is None else {shape}" if _has_none(self.gradients) else f"    p.grad = {shape}"
        )
        if self.beside:
            lines.append(f"    q.grad = {shape.replace('g *', 'h *')}")
        lines += [
            "    optimizer.step()",
            "moved = (p.detach().double() - start.double()).mean().item()",
            f"print(moved / {moved.oracle!r} - 1)",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Movement:
    """Mean movement of the elements: of the subject, of the oracle, of the model of storage."""

    subject: float
    oracle: float
    model: float

    @property
    def share(self) -> float:
        """Of the oracle's movement."""
        return self.subject / self.oracle

    @property
    def stored(self) -> float:
        """The share that storage rounded to nearest leaves."""
        return self.model / self.oracle


def _text(runs: Runs) -> str:
    return " + ".join(f"[{value!r}] * {count}" if count > 1 else f"[{value!r}]" for count, value in runs)


def _has_none(runs: Runs) -> bool:
    return any(value is None for _, value in runs)
