"""Checks of options that differ between groups or change while training: are they heeded as they then are.

An optimizer of another formula is compared with itself, so that only what these checks ask for can fail them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, distance, float64, generator, give, normal, percent
from gaudi3_rt.numerics._checks_options import SCALE, within
from gaudi3_rt.numerics._oracle import Reference
from gaudi3_rt.numerics._passport import Figure

_HALF = 5
_GAMMA = 0.7
_CHANGED = 10.0
"""The decay of the second group, from half-way on."""
AS_ITSELF = "Its formula is another, so that it is compared with itself: "


def _groups(bench: Bench) -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
    random = generator(1)
    params = [bench.parameter(normal((32, 8), random, SCALE)) for _ in range(3)]
    second: dict[str, Any] = {"lr": 3 * bench.spec.exercise["lr"], "weight_decay": 30.0}
    if "betas" in bench.spec.exercise:
        second["betas"] = (0.5, 0.75)
    return params, [{"params": params[:2]}, {"params": params[2:], **second}]


def _walk(
    bench: Bench,
    params: list[torch.nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    references: Sequence[Reference],
    steps: int,
    before: Callable[[int], None] = lambda _: None,
) -> None:
    """Steps all of them with equal random gradients."""
    random = generator(2)
    torch.manual_seed(1)
    for t in range(steps):
        before(t)
        grads = [bench.tensor(normal(p.shape, random)) for p in params]
        give(params, grads)
        for optimizer in optimizers:
            optimizer.step()
        for reference in references:
            reference.step(grads)


def _error(bench: Bench, params: Sequence[Tensor], references: Sequence[Reference], start: Sequence[Tensor]) -> Figure:
    """The subject's update error, and its bound from the model's."""
    oracle, model = references
    bound = bench.rounding(distance(model.params, oracle.params, start))
    return Figure(value=distance(params, oracle.params, start), unit="relative update error", bound=bound)


def param_groups(bench: Bench) -> Finding:
    """Two groups with options of their own, in turn changed while training, and a third that is added."""
    params, groups = _groups(bench)
    start = [float64(p) for p in params]
    references = tuple(bench.reference(groups, stored=stored) for stored in (None, bench.dtype))
    optimizer = bench.optimizer([dict(group) for group in groups])

    def change(t: int) -> None:
        if t == _HALF:
            for groups_of in (optimizer.param_groups, *(one.param_groups for one in references)):
                groups_of[1]["weight_decay"] = _CHANGED

    _walk(bench, params, [optimizer], references, 2 * _HALF, change)
    figure = _error(bench, params, references, start)
    said = "Every group is stepped with its own options."
    if not within(figure):
        figure = _beside_itself(bench, figure)
        said = f"{AS_ITSELF}{said[0].lower()}{said[1:]}"
    if not within(figure):
        said = f"Options of a second group are not heeded as given: updates are {percent(figure.value)} off."
        return Finding(status="fails", consequence=said, figure=figure)
    late = bench.parameter(torch.ones(4))
    optimizer.add_param_group({"params": [late], "lr": 0.0, "weight_decay": 0.0})
    give([late, *params], [bench.tensor(torch.ones(4)), *(None for _ in params)])
    optimizer.step()
    if not torch.equal(float64(late), torch.ones(4, dtype=torch.float64)):
        said = "A group that is added later with lr=0 moves all the same: its options are not heeded."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence=said, figure=figure)


def _beside_itself(bench: Bench, figure: Figure) -> Figure:
    """One optimizer of two groups beside two of one group each; the first figure if a change of decay does nothing."""
    clipping: dict[str, Any] = {"max_grad_norm": 1e9} if "max_grad_norm" in bench.options({}) else {}

    def end(*, separate: bool = False, change: bool = False) -> list[Tensor]:
        params, groups = _groups(bench)
        if separate:
            optimizers = [bench.optimizer(**{**clipping, **group}) for group in groups]
        else:
            optimizers = [bench.optimizer(groups, **clipping)]

        def before(t: int) -> None:
            if change and t == _HALF:
                optimizers[0].param_groups[1]["weight_decay"] = _CHANGED

        _walk(bench, params, optimizers, (), 2 * _HALF, before)
        return [p.detach() for p in params]

    together, apart = end(), end(separate=True)
    if torch.equal(together[2], end(change=True)[2]):
        return figure
    start, _ = _groups(bench)
    value = distance(together, [float64(p) for p in apart], start)
    return Figure(value=value, unit="relative difference from separate optimizers", bound=figure.bound)


def scheduler(bench: Bench) -> Finding:
    """A learning rate that torch's scheduler changes in each step."""
    params, _ = _groups(bench)
    start = [float64(p) for p in params]
    optimizer = bench.optimizer(params)
    references = tuple(bench.reference(params, stored=stored) for stored in (None, bench.dtype))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=_GAMMA)

    def tick(t: int) -> None:
        if t:
            schedule.step()
            for reference in references:
                reference.param_groups[0]["lr"] *= _GAMMA

    _walk(bench, params, [optimizer], references, 10, tick)
    figure = _error(bench, params, references, start)
    said = "A scheduler's learning rate is used from its next step on."
    if not within(figure):
        figure = _next_step(bench)
        said = f"{AS_ITSELF}the step after a scheduler's is as much shorter as its learning rate."
    if within(figure):
        return Finding(status="pass", consequence=said, figure=figure)
    said = f"What a scheduler does to lr is not heeded: the next step is {percent(figure.value)} off."
    return Finding(status="fails", consequence=said, figure=figure)


def _next_step(bench: Bench) -> Figure:
    """A step after a scheduler's beside the same without: in all of these formulas it is proportional to lr."""

    def last(*, scheduled: bool) -> Tensor:
        params, _ = _groups(bench)
        optimizer = bench.optimizer(params)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=_GAMMA)
        before = float64(params[0])

        def tick(t: int) -> None:
            if t == _HALF:
                before.copy_(float64(params[0]))
                if scheduled:
                    schedule.step()

        _walk(bench, params, [optimizer], (), _HALF + 1, tick)
        return float64(params[0]) - before

    full, short = last(scheduled=False), last(scheduled=True)
    share = float((short * full).sum() / (full * full).sum())
    unit = "relative error of the step after a scheduler's"
    return Figure(value=abs(share / _GAMMA - 1), unit=unit, bound=bench.rounding(0.0))
