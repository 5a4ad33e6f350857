"""Checks of tensors that are not a plain block of memory, of shards, and of gradients under a scaler."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gaudi3_rt.numerics._bench import Bench, Finding, distance, float64, generator, give, normal, percent
from gaudi3_rt.numerics._checks_groups import AS_ITSELF
from gaudi3_rt.numerics._checks_options import SCALE, within
from gaudi3_rt.numerics._passport import Figure

_STEPS = 3


def _error(
    bench: Bench, params: Sequence[Tensor], grads: Sequence[Sequence[Tensor]], plain: Sequence[Sequence[Tensor]]
) -> Figure:
    """The update error of parameters as they are laid out, after these gradients in turn.

    An optimizer of another formula is compared with itself on plain tensors, so that only the layout can be at fault.

    Args:
        bench: see there.
        params: as they are laid out.
        grads: of each step.
        plain: the same parameters in another shape, and then their gradients of each step; elements in order.
    """
    start = [float64(p) for p in params]
    twins = [torch.nn.Parameter(p.clone()) for p in plain[0]]  # before they move: some are views of the parameters
    oracle, model = (bench.reference(params, stored=stored) for stored in (None, bench.dtype))
    _walk(bench, params, grads)
    for step in grads:
        oracle.step(step)
        model.step(step)
    bound = bench.rounding(distance(model.params, oracle.params, start))
    figure = Figure(value=distance(params, oracle.params, start), unit="relative update error", bound=bound)
    if within(figure):
        return figure
    _walk(bench, twins, plain[1:])
    got, want, origin = (torch.cat([float64(one).reshape(-1) for one in some]) for some in (params, twins, start))
    value = distance([got], [want[: got.numel()]], [origin])
    return Figure(value=value, unit="relative difference from plain tensors", bound=bound)


def _walk(bench: Bench, params: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]) -> None:
    torch.manual_seed(1)
    optimizer = bench.optimizer(list(params))
    for step in grads:
        for p, grad in zip(params, step, strict=True):
            p.grad = grad.clone()  # as it is laid out; a step that changes gradients is found by its own check
        optimizer.step()


def _judged(figure: Figure, good: str, bad: str) -> Finding:
    if within(figure):
        itself = figure.unit.startswith("relative difference")
        said = f"{AS_ITSELF}{good[0].lower()}{good[1:]}" if itself else good
        return Finding(status="pass", consequence=said, figure=figure)
    return Finding(status="fails", consequence=f"{bad}: updates are {percent(figure.value)} off.", figure=figure)


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
        same = [[layout.clone(memory_format=torch.contiguous_format)], *([value] for value in values)]
        return _error(bench, [torch.nn.Parameter(layout)], [[grad] for grad in grads], same)

    finding = _judged(
        error(turned.t(), crossed),
        "Transposed parameters are updated like others.",
        "A transposed parameter is updated wrongly",
    )
    if finding.status != "pass":
        return finding
    said = finding.consequence
    for what, figure in (
        ("a parameter that is a view with gaps", error(gaps[:, ::2], values)),
        ("a gradient whose strides are not its parameter's", error(plain, crossed)),
    ):
        if not within(figure):
            said += f" Beware of {what}: its update is {percent(figure.value)} off."
    return dataclasses.replace(finding, consequence=said)


def empty_tensor(bench: Bench) -> Finding:
    """Empty tensors first, last and alone in a group: shards that have nothing."""
    worst = Figure(value=0.0, unit="relative update error", bound=1.0)
    for where in ("first", "last"):
        random = generator(4)
        full = [bench.parameter(normal((16, 3), random, SCALE)) for _ in range(2)]
        empty = bench.parameter(torch.zeros(0))
        params = [empty, *full] if where == "first" else [*full, empty]
        steps = [[bench.tensor(normal(p.shape, random)) for p in params] for _ in range(_STEPS)]
        laid: list[Sequence[Tensor]] = [params, *steps]
        found = _error(bench, params, steps, [[t for t in one if t.numel()] for one in laid])
        worst = max(worst, found, key=lambda figure: math.inf if not within(figure) else figure.value)
        if not within(worst):
            break
    return _judged(
        worst,
        "Empty tensors are passed over, and nothing else is.",
        "Other parameters of a group that has an empty tensor are not updated as they should be",
    )


def zero_dim(bench: Bench) -> Finding:
    """A parameter without dimensions, beside another."""
    random = generator(5)
    params = [bench.parameter(torch.tensor(1.5 * SCALE)), bench.parameter(normal((5,), random, SCALE))]
    steps = [[bench.tensor(normal(p.shape, random)) for p in params] for _ in range(_STEPS)]
    laid: list[Sequence[Tensor]] = [params, *steps]
    figure = _error(bench, params, steps, [[t.reshape(-1) for t in one] for one in laid])
    return _judged(
        figure, "A parameter without dimensions is updated like others.", "With a parameter without dimensions"
    )


def uneven_shards(bench: Bench) -> Finding:
    """A tensor of an odd size, whole and cut into uneven parts."""
    random = generator(6)
    whole = normal((1003,), random, SCALE)
    cuts = [1, 7, 333, 662]
    grads = [bench.tensor(normal((1003,), random)) for _ in range(_STEPS)]
    parts = [bench.parameter(part) for part in torch.split(whole, cuts)]
    plain = [[bench.tensor(whole)], *([grad] for grad in grads)]
    figure = _error(bench, parts, [list(torch.split(grad, cuts)) for grad in grads], plain)
    if not within(figure):
        return _judged(figure, "", "Uneven parts of a tensor")
    even = [[torch.nn.functional.pad(one[0], (0, 21))] for one in plain]
    single = _error(bench, [bench.parameter(whole)], [[grad] for grad in grads], even)
    return _judged(single, "Parts of any size are updated like the whole.", "A tensor of an odd size")


def gradient_untouched(bench: Bench) -> Finding:
    """Gradients have the same bits after the step, whatever the options make of them inside."""
    random = generator(7)
    param = bench.parameter(normal((257,), random))
    options = [{}, {"maximize": True}] if bench.subject.takes("maximize") else [{}]
    changed = 0
    for option in options:
        optimizer = bench.optimizer([param], **option)
        grad = bench.tensor(normal((257,), random))
        give([param], [grad])
        optimizer.step()
        changed += int((param.grad != grad).sum()) if param.grad is not None else grad.numel()
    figure = Figure(value=changed, unit="elements changed", bound=0)
    if changed:
        said = f"The step changes gradients ({changed} elements of {257 * len(options)}), which later code may read."
        return Finding(status="fails", consequence=said, figure=figure)
    return Finding(status="pass", consequence="Gradients are as before.", figure=figure)


def found_inf(bench: Bench) -> Finding:
    """What ``GradScaler`` hands to optimizers that unscale and skip by themselves."""
    random = generator(8)
    param = bench.parameter(normal((64,), random, SCALE))
    optimizer = bench.optimizer([param])
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        said = "GradScaler unscales gradients and skips steps for it: the optimizer does not claim to."
        return Finding(status="not applicable", consequence=said)
    zero = torch.zeros((), device=bench.device)
    oracle, model = (bench.reference([param], stored=stored) for stored in (None, bench.dtype))
    start = [float64(param)]

    def step(grad: Tensor, scale: float, inf: Tensor) -> None:
        give([param], [grad * scale])  # exact: a power of two
        optimizer.grad_scale = torch.tensor(scale, device=bench.device)  # type: ignore[attr-defined]
        optimizer.found_inf = inf  # type: ignore[attr-defined]
        optimizer.step()

    for t in range(_STEPS):
        grad = bench.tensor(normal((64,), random))
        step(grad, 16.0**t, zero.clone())  # one scale for all steps would not show in Adam
        oracle.step([grad])
        model.step([grad])
    bound = bench.rounding(distance(model.params, oracle.params, start))
    figure = Figure(value=distance([param], oracle.params, start), unit="relative update error", bound=bound)
    if not within(figure):
        return _judged(figure, "", "Gradients are not divided by grad_scale")
    before = float64(param)
    step(torch.full_like(param, math.inf), 1.0, zero + 1)
    if not torch.equal(float64(param), before):
        said = "found_inf is ignored: the step is taken with gradients that are not finite, which ruins the parameters."
        return Finding(status="fails", consequence=said, figure=Figure(value=math.nan, unit="moved", bound=0))
    grad = bench.tensor(normal((64,), random))
    step(grad, 4.0, zero.clone())
    oracle.step([grad])
    model.step([grad])
    bound = bench.rounding(distance(model.params, oracle.params, start))
    figure = Figure(value=distance([param], oracle.params, start), unit="relative update error", bound=bound)
    return _judged(
        figure,
        "With found_inf nothing changes; else gradients are divided by grad_scale.",
        "A step that was skipped for found_inf changes state",
    )
