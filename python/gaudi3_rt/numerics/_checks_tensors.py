"""Checks of tensors that are not a plain block of memory, of shards, and of gradients under a scaler."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, distance, float64, generator, give, normal, off
from gaudi3_rt.numerics._checks_formula import UPDATE
from gaudi3_rt.numerics._checks_options import SCALE, within
from gaudi3_rt.numerics._passport import Figure

_STEPS = 3


Alike = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""The same numbers in plain tensors."""


def _error(
    bench: Bench,
    params: Sequence[Tensor],
    grads: Sequence[Sequence[Tensor]],
    alike: Alike,
    groups: Sequence[dict[str, Any]] = (),
) -> Figure:
    """How far parameters as they are laid out are from plain ones, of the same optimizer, after these gradients."""
    plain = [bench.parameter(p.contiguous()) for p in alike(params)]
    start = [float64(p) for p in plain]
    optimizer, beside = bench.optimizer(groups or params), bench.optimizer(plain)
    oracle, model = (bench.reference(plain, stored=stored) for stored in (None, bench.dtype))
    for step in grads:
        for p, grad in zip(params, step, strict=True):
            p.grad = grad.clone()  # as it is laid out; a step that changes it is found by its own check
        same = [grad.contiguous() for grad in alike(step)]
        give(plain, same)
        for one in (optimizer, beside):
            one.step()
        for reference in (oracle, model):
            reference.step(same)
    bound = bench.rounding(distance(model.params, oracle.params, start))
    error = distance(alike([p.detach() for p in params]), [float64(p) for p in plain], start)
    return Figure(value=error, unit=UPDATE, bound=bound)


def _judged(figure: Figure, good: str, bad: str) -> Finding:
    if within(figure):
        return Finding(status="pass", consequence=good, figure=figure)
    said = f"{bad}: after {_STEPS} steps parameters are {off(figure.value)}."
    return Finding(status="fails", consequence=said, figure=figure)


def noncontiguous(bench: Bench) -> Finding:
    """Parameters that fill their memory in another order, as transposed and channels-last ones do.

    Two layouts are tried and told of besides, because training loops rarely have them: a parameter that is a view with
    gaps, and a gradient whose strides are not its parameter's, which autograd does not make but a hook may.
    """
    random = generator(3)
    plain, turned, gaps = (bench.tensor(normal(shape, random, SCALE)) for shape in ((24, 20), (20, 24), (24, 40)))
    values = [bench.tensor(normal((24, 20), random)) for _ in range(_STEPS)]
    crossed = [value.t().contiguous().t() for value in values]

    def error(layout: Tensor, grads: list[Tensor]) -> Figure:
        return _error(bench, [torch.nn.Parameter(layout)], [[grad] for grad in grads], lambda tensors: tensors)

    finding = _judged(
        error(turned.t(), crossed),
        "Transposed parameters are updated like others.",
        "Transposed parameters are updated wrongly",
    )
    if finding.status != "pass":
        return finding
    said = finding.consequence
    for what, figure in (
        ("a parameter that is a view with gaps", error(gaps[:, ::2], values)),
        ("a gradient whose strides are not its parameter's", error(plain, crossed)),
    ):
        if not within(figure):
            said += f" Beware of {what}: after {_STEPS} steps elements are {off(figure.value)}."
    return dataclasses.replace(finding, consequence=said)


def _nonempty(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in tensors if one.numel()]


def empty_tensor(bench: Bench) -> Finding:
    """Empty tensors first, last and alone in a group: shards that have nothing."""
    figures = []
    for where in ("first", "last", "alone"):
        random = generator(4)
        full = [bench.parameter(normal((16, 3), random, SCALE)) for _ in range(2)]
        empty = bench.parameter(torch.zeros(0))
        params = [empty, *full] if where == "first" else [*full, empty]
        groups = [{"params": [empty]}, {"params": full}] if where == "alone" else []
        steps = [[bench.tensor(normal(p.shape, random)) for p in params] for _ in range(_STEPS)]
        figures.append(_error(bench, params, steps, _nonempty, groups))
    worst = max(figures, key=lambda figure: figure.value if within(figure) else math.inf)
    return _judged(
        worst,
        "Empty tensors are passed over, and nothing else is.",
        "Other parameters of a group that has an empty tensor are not updated as without it",
    )


def zero_dim(bench: Bench) -> Finding:
    """A parameter without dimensions, beside another."""
    random = generator(5)
    params = [bench.parameter(torch.tensor(1.5 * SCALE)), bench.parameter(normal((5,), random, SCALE))]
    steps = [[bench.tensor(normal(p.shape, random)) for p in params] for _ in range(_STEPS)]
    figure = _error(bench, params, steps, lambda tensors: [one.reshape(-1) for one in tensors])
    return _judged(
        figure,
        "A parameter without dimensions is updated like others.",
        "A parameter without dimensions is not updated like one of a single element",
    )


def uneven_shards(bench: Bench) -> Finding:
    """A tensor of an odd size, whole and cut into uneven parts."""
    random = generator(6)
    whole = normal((1003,), random, SCALE)
    cuts = [1, 7, 333, 662]
    grads = [bench.tensor(normal((1003,), random)) for _ in range(_STEPS)]
    parts = [bench.parameter(part) for part in torch.split(whole, cuts)]
    figure = _error(bench, parts, [list(torch.split(grad, cuts)) for grad in grads], lambda all_: [torch.cat([*all_])])
    return _judged(
        figure,
        "Parts of any size are updated like the whole.",
        "Uneven parts of a tensor are not updated like the whole",
    )


def gradient_untouched(bench: Bench) -> Finding:
    """Gradients have the same bits after the step, whatever the options make of them inside."""
    random = generator(7)
    param = bench.parameter(normal((257,), random))
    options: list[dict[str, Any]] = [{}, {"maximize": True}] if bench.subject.takes("maximize") else [{}]
    changed, when = 0, ""
    for option in options:
        optimizer = bench.optimizer([param], **option)
        grad = bench.tensor(normal((257,), random))
        give([param], [grad])
        optimizer.step()
        found = int((param.grad != grad).sum()) if param.grad is not None else grad.numel()
        if found > changed:
            changed, when = found, "With maximize=True the" if option else "The"
    figure = Figure(value=changed, unit="elements changed", bound=0)
    if changed:
        said = f"{when} step changes gradients ({changed} elements of {param.numel()}), which later code may read."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Gradients are as before.", figure=figure)


def found_inf(bench: Bench) -> Finding:
    """What ``GradScaler`` hands to optimizers that unscale and skip by themselves."""
    random = generator(8)
    param = bench.parameter(normal((64,), random, SCALE))
    optimizer = bench.optimizer([param])
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        said = "It leaves unscaling and skipping to GradScaler, which does both for every optimizer."
        return Finding(status="not applicable", consequence=said)
    plain = bench.parameter(param)
    beside = bench.optimizer([plain])  # which no scaler knows
    oracle, model = (bench.reference([param], stored=stored) for stored in (None, bench.dtype))
    start = [float64(param)]

    def step(grad: Tensor, scale: float, *, skipped: bool = False) -> None:
        give([param], [grad * scale])  # exact: a power of two
        optimizer.grad_scale = torch.tensor(scale, device=bench.device)  # type: ignore[attr-defined]  # as GradScaler
        optimizer.found_inf = torch.tensor(float(skipped), device=bench.device)  # type: ignore[attr-defined]  # the same
        optimizer.step()

    def error(scales: Sequence[float]) -> Figure:
        for scale in scales:
            grad = bench.tensor(normal((64,), random))
            step(grad, scale)
            give([plain], [grad])
            beside.step()
            oracle.step([grad])
            model.step([grad])
        bound = bench.rounding(distance(model.params, oracle.params, start))
        return Figure(value=distance([param], [float64(plain)], start), unit=UPDATE, bound=bound)

    figure = error([16.0**t for t in range(_STEPS)])  # one scale for all steps would not show in Adam
    if not within(figure):
        return _judged(figure, "", "Gradients are not divided by grad_scale")
    before = float64(param)
    step(torch.full_like(param, math.inf), 1.0, skipped=True)
    if not torch.equal(float64(param), before):
        said = "found_inf is ignored: the step is taken with gradients that are not finite, which ruins the parameters."
        return Finding(status="fails", consequence=said, figure=Figure(value=math.nan, unit="of movement", bound=0))
    return _judged(
        error([4.0]),
        "With found_inf nothing changes; else gradients are divided by grad_scale.",
        "A step that is skipped for found_inf changes state",
    )
