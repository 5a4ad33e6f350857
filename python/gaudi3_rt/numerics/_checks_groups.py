"""Checks of groups of parameters: is each stepped with its own options, also when they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gaudi3_rt.numerics._anew import Anew
from gaudi3_rt.numerics._bench import Bench, Finding, distance, float64, generator, give, normal, off
from gaudi3_rt.numerics._checks_formula import UPDATE
from gaudi3_rt.numerics._checks_options import SCALE, within
from gaudi3_rt.numerics._oracle import Reference
from gaudi3_rt.numerics._passport import Figure

_HALF = 5


def _groups(bench: Bench) -> list[dict[str, Any]]:
    random = generator(1)
    tensors = [bench.tensor(normal((32, 8), random, SCALE)) for _ in range(3)]
    second: dict[str, Any] = {"lr": 3 * bench.spec.exercise["lr"], "weight_decay": 30.0}
    if "betas" in bench.spec.exercise:
        second["betas"] = (0.5, 0.75)
    second = {name: value for name, value in second.items() if name not in bench.lacking}
    return [{"params": tensors[:2]}, {"params": tensors[2:], **second}]


class _Walk:
    """Ten steps of the subject and its references with equal random gradients.

    Args:
        bench: see there.
        groups: tensors and options.
        anew: compare with the subject made anew in each step instead of with the oracle.
    """

    def __init__(self, bench: Bench, groups: Sequence[dict[str, Any]], *, anew: bool) -> None:
        own = [{**group, "params": [bench.parameter(p) for p in group["params"]]} for group in groups]
        self.bench = bench
        self.param_groups = own
        self.params = [p for group in own for p in group["params"]]
        self.optimizer = bench.optimizer(own)
        self.oracle, self.model = (bench.reference(groups, stored=stored) for stored in (None, bench.dtype))
        self.expected: Reference | Anew = Anew(bench, groups, self.optimizer.param_groups) if anew else self.oracle
        self.references = {id(one): one for one in (self.oracle, self.model, self.expected)}.values()

    @property
    def regrouped(self) -> bool:
        """Whether the subject has other groups than it was given."""
        made, given = ([len(group["params"]) for group in one.param_groups] for one in (self.optimizer, self))
        return made != given

    def take(self, before: Callable[[int], None]) -> Figure:
        """The update error, and its bound from the model's."""
        random = generator(2)
        start = [float64(p) for p in self.params]
        for t in range(2 * _HALF):
            before(t)
            grads = [self.bench.tensor(normal(p.shape, random)) for p in self.params]
            give(self.params, grads)
            self.optimizer.step()
            for reference in self.references:
                reference.step(grads)
        bound = self.bench.rounding(distance(self.model.params, self.oracle.params, start))
        error = distance(self.params, self.expected.params, start)
        return Figure(value=error, unit=UPDATE, bound=bound)


def _heeded(
    bench: Bench, groups: Sequence[dict[str, Any]], change: Callable[[_Walk], Callable[[int], None]]
) -> tuple[Figure, _Walk]:
    """Beside the oracle; and where the formula is another, beside the subject that was given its options at once."""
    walk = _Walk(bench, groups, anew=False)
    figure = walk.take(change(walk))
    if not within(figure) and not walk.regrouped:
        walk = _Walk(bench, groups, anew=True)
        figure = walk.take(change(walk))
    return figure, walk


def param_groups(bench: Bench) -> Finding:
    """Two groups with options of their own, in turn changed while training, and a third that is added."""
    changed = 10.0  # the decay of the second group, half-way
    groups = _groups(bench)
    if _Walk(bench, groups, anew=False).regrouped:
        said = "The factory puts parameters into groups of its own: options of a group, given or changed, meet others."
        return Finding(status="differs", consequence=said)

    def change(walk: _Walk) -> Callable[[int], None]:
        def at(t: int) -> None:
            if t == _HALF and "weight_decay" not in bench.lacking:
                for one in (walk.optimizer, *walk.references):
                    one.param_groups[1]["weight_decay"] = changed

        return at

    figure, walk = _heeded(bench, groups, change)
    if not within(figure):
        said = f"Options of a second group are not heeded as given: its parameters are {off(figure.value)}."
        return Finding(status="fails", consequence=said, figure=figure)
    late = bench.parameter(torch.ones(4))
    before = float64(late)
    walk.optimizer.add_param_group({"params": [late], "lr": 0.0, "weight_decay": 0.0})
    give([late, *walk.params], [torch.ones_like(late), *(None for _ in walk.params)])
    walk.optimizer.step()
    if not torch.equal(float64(late), before):
        said = "A group that is added later with lr=0 moves all the same: its options are not heeded."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Every group is stepped with its own options.", figure=figure)


def scheduler(bench: Bench) -> Finding:
    """A learning rate that torch's scheduler changes in each step."""

    def change(walk: _Walk) -> Callable[[int], None]:
        schedule = torch.optim.lr_scheduler.ExponentialLR(walk.optimizer, gamma=0.7)

        def tick(t: int) -> None:
            if t:
                schedule.step()
                for reference in walk.references:
                    reference.param_groups[0]["lr"] *= 0.7

        return tick

    figure, walk = _heeded(bench, [{"params": _groups(bench)[0]["params"]}], change)
    if within(figure):
        said = "A scheduler's learning rate is used from its next step on."
        return Finding(status="pass", consequence=said, figure=figure)
    if walk.expected is walk.oracle:
        said = "Its formula is another, and the factory makes groups of its own: there is nothing to compare with."
        return Finding(status="not applicable", consequence=said)
    said = f"What a scheduler does to lr is not heeded: after ten steps parameters are {off(figure.value)}."
    return Finding(status="fails", consequence=said, figure=figure)
