"""Checks of the formula: does it move parameters as documented, and if not, which term is another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gaudi3_rt.numerics._bench import Bench, Finding, distance, dtype_name, generator, give, normal, percent
from gaudi3_rt.numerics._case import Case, Movement
from gaudi3_rt.numerics._passport import Figure
from gaudi3_rt.numerics._subject import Subject

_SHAPE = (64, 64)
_STEPS = (1, 10, 100, 1000)
_NOTHING = 1e-3
NOTABLE = 0.05
"""Shares from which on a sentence says so; no status depends on them."""
_COARSE = 5e-3
_SMALLEST_SQUARE = 1e-30
MOVEMENT = "relative error of the movement"
_UPDATE = "relative update error"


def follow(
    bench: Bench,
    options: Mapping[str, Any],
    steps: tuple[int, ...],
    *,
    scale: float = 0.02,
    fade: bool = False,
    oracle: Mapping[str, Any] | None = None,
) -> list[tuple[int, float, float]]:
    """Steps, the subject's relative update error and the model's at each, along one random trajectory.

    Args:
        bench: see there.
        options: beside those that exercise the formula.
        steps: after which to compare.
        scale: of the parameters.
        fade: gradients shrink tenfold half-way.
        oracle: options of the oracle, where it is to have others.
    """
    documented = options if oracle is None else oracle
    random = generator()
    start = bench.tensor(normal(_SHAPE, random, scale))
    scales = 10.0 ** (torch.rand(_SHAPE, generator=random) * 2 - 2)
    param = bench.parameter(start)
    optimizer = bench.optimizer([param], **options)
    exact = bench.reference([param], **documented)
    model = bench.reference([param], stored=bench.dtype, **documented)
    found = []
    for t in range(1, steps[-1] + 1):
        shrunk = 0.1 if fade and t > steps[-1] // 2 else 1.0
        grad = bench.tensor(normal(_SHAPE, random) * scales * shrunk)
        give([param], [grad])
        optimizer.step()
        exact.step([grad])
        model.step([grad])
        if t in steps:
            found.append((t, distance([param], exact.params, [start]), distance(model.params, exact.params, [start])))
    return found


def formula(bench: Bench) -> Finding:
    """The whole update along 1000 steps, every option given explicitly."""
    points = follow(bench, {}, _STEPS)
    curve = tuple((t, error) for t, error, _ in points)
    wrong = [point for point in points if not point[1] <= bench.rounding(point[2])]
    step, error, model = wrong[0] if wrong else points[-1]
    bound = bench.rounding(model)
    figure = Figure(value=error, unit=f"{_UPDATE} at step {step}", bound=bound)
    script = _formula_script(bench, step)
    if not wrong:
        said = (
            f"After {step} steps parameters are {percent(error)} of their way from where exact arithmetic puts them; "
            f"storing them in {dtype_name(bench.dtype)} alone gives {percent(model)}."
        )
        return Finding(status="pass", consequence=said, figure=figure, reproduce=script, curve=curve)
    after = "one step" if step == 1 else f"{step} steps"
    said = (
        f"After {after} parameters are {percent(error)} of their way from where the formula of {bench.spec.name} puts "
        f"them; rounding explains {percent(bound)}."
    )
    return Finding(status="differs", consequence=said, figure=figure, reproduce=script, curve=curve)


def _formula_script(bench: Bench, steps: int) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in bench.options({}).items())
    where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
    ours = bench.spec.torch_class is None
    documented = ", ".join(f"{name}={value!r}" for name, value in bench.documented({}).items())
    like = f"Reference([p], {bench.spec.name!r}, {documented})" if ours else f"{bench.spec.name}([q], {options})"
    step = "    reference.step([p.grad])" if ours else "    q.grad = p.grad.cpu().double()\n    reference.step()"
    lines = [
        "import torch",
        *(["from gaudi3_rt.numerics import Reference"] if ours else []),
        *Subject.lines(bench.subject),
        "",
        "random = torch.Generator().manual_seed(0)",
        f"start = (torch.randn(64, 64, generator=random) * 0.02).to(dtype=torch.{dtype_name(bench.dtype)}{where})",
        "scales = 10.0 ** (torch.rand(64, 64, generator=random) * 2 - 2)",
        "p = torch.nn.Parameter(start.clone())",
        *([] if ours else ["q = torch.nn.Parameter(start.cpu().double())"]),
        f"optimizer = Optimizer([p], {options})",
        f"reference = {like}",
        f"for _ in range({steps}):",
        "    p.grad = (torch.randn(64, 64, generator=random) * scales).to(p)",
        step,
        "    optimizer.step()",
        *(["q = reference.params[0]"] if ours else []),
        "p, start = p.detach().cpu().double(), start.cpu().double()",
        "print(((p - q).norm() / (q - start).norm()).item())",
    ]
    return "\n".join(lines)


def _judged(bench: Bench, case: Case, good: str, bad: Callable[[Movement], str], *, coarse: float = _COARSE) -> Finding:
    """A finding from one case; texts have ``{share}`` for how far the subject moves.

    An error below ``coarse`` is not put down to the defect that the case is made for.
    """
    moved = case.measure(bench)
    size = max(abs(x) for x in case.start) / abs(moved.oracle)
    bound = bench.rounding_of_mean(case.steps, case.options) * max(1.0, size)
    error = abs(moved.share - 1)
    figure = Figure(value=error, unit=MOVEMENT, bound=bound)
    script = case.script(bench, moved)
    if error <= bound:
        return Finding(status="pass", consequence=good, figure=figure, reproduce=script)
    said = bad(moved).replace("{share}", percent(moved.share))
    if error < coarse:
        said = (
            f"Parameters are {percent(error)} of their way off, where {dtype_name(bench.dtype)} arithmetic and storage "
            f"explain {percent(bound)}: state or arithmetic is coarser."
        )
    return Finding(status="differs", consequence=said, figure=figure, reproduce=script)


def eps_placement(bench: Bench) -> Finding:
    """Gradients of the size of eps: does it stand beside the corrected root, as documented."""
    lr, steps = 1e-3, 10
    # The second moment has the square of this, which float16 must be able to hold.
    eps = 1e-8 if torch.finfo(bench.dtype).tiny < _SMALLEST_SQUARE else 0.5
    options = {"lr": lr, "eps": eps, "weight_decay": 0.0}
    case = Case(gradients=((steps, eps),), start=(-5 * lr, 5 * lr), options=options)

    def share_of(eps_at: Callable[[int], float]) -> float:
        g = eps * torch.linspace(1, 2, case.size, dtype=torch.float64)
        moved, right = (sum((g / (g + at(t))).mean() for t in range(1, steps + 1)) for at in (eps_at, lambda _: eps))
        return float(moved / right)

    _, beta2 = bench.spec.exercise["betas"]

    def bad(moved: Movement) -> str:
        causes = {
            "eps is added to the root of the second moment before its bias correction": share_of(
                lambda t: eps / math.sqrt(1 - beta2**t)
            ),
            "eps is not added at all": share_of(lambda _: 0.0),
            "eps stands under the root": _inside_root(eps, case.size, steps),
        }
        cause, share = min(causes.items(), key=lambda item: abs(item[1] - moved.share))
        known = abs(share - moved.share) <= 0.05 * max(share, 0.1)
        why = cause if known else "eps does not stand where it is documented, or state cannot hold such numbers"
        return f"Ten steps with gradients as small as eps move a parameter {{share}} as far as they should: {why}."

    return _judged(bench, case, "Gradients as small as eps move a parameter as far as documented.", bad)


def _inside_root(eps: float, size: int, steps: int) -> float:
    g = eps * torch.linspace(1, 2, size, dtype=torch.float64)
    return float((steps * g / (g * g + eps).sqrt()).mean() / (steps * g / (g + eps)).mean())


def bias_correction(bench: Bench) -> Finding:
    """First gradients that come late: by zeros, so that steps are counted; and by none, so that they are not."""
    lr = 1e-3
    options = {"lr": lr, "weight_decay": 0.0}
    good = "A first gradient moves a parameter as far as documented, at whatever step it comes."
    for t in (1, 2, 5, 20):
        runs = ((t - 1, 0.0), (1, 1.0)) if t > 1 else ((1, 1.0),)
        case = Case(gradients=runs, start=(-lr, lr), options=options)
        bad = (
            f"A parameter whose first gradient comes in step {t}, after zeros, moves {{share}} as far as it should: "
            "bias correction is another, or missing."
        )
        finding = _judged(bench, case, good, lambda _, bad=bad: bad)  # type: ignore[misc]
        if finding.status != "pass":
            return finding
    late = Case(gradients=((19, None), (1, 1.0)), start=(-lr, lr), options=options, beside=((20, 1.0),))
    return _judged(
        bench,
        late,
        good,
        lambda _: (
            "A parameter that gets its first gradient in step 20 of its group moves {share} as far as it should: steps "
            "are counted for a group, not for a parameter."
        ),
    )


def beta_rounding(bench: Bench) -> Finding:
    """Moments that decay by rates which a 16-bit float cannot hold."""
    lr = 1e-3
    betas = (230.45 / 256, 243.55 / 256)  # between two bfloat16, so that rounding moves both, apart from one another
    options = {"lr": lr, "betas": betas, "weight_decay": 0.0}
    case = Case(gradients=((1, 1.0), (20, 0.0)), start=(-5 * lr, 5 * lr), options=options)
    return _judged(
        bench,
        case,
        "The moments decay by the betas that were given.",
        lambda _: (
            "Twenty steps after one gradient a parameter has moved {share} as far as it should: the moments decay by "
            "other betas than were given."
        ),
    )


def step_size_rounding(bench: Bench) -> Finding:
    """One step whose size a 16-bit float cannot hold, with bias corrections that are powers of two."""
    lr = (1 + 0.45 / 128) * 2**-10
    options = {"lr": lr, "betas": (0.5, 0.75), "weight_decay": 0.0}
    case = Case(gradients=((1, 1.0),), start=(-lr, lr), options=options)
    return _judged(
        bench,
        case,
        "A step has the size that lr says.",
        lambda moved: (
            f"Steps are {{share}} of the size that lr says: it is rounded, by {percent(abs(moved.share - 1))}."
        ),
        coarse=0.0,
    )


def decoupled_weight_decay(bench: Bench) -> Finding:
    """Decay alone: gradients are zero."""
    decay = 1 - 230.45 / 256  # the factor is between two bfloat16
    options = {"lr": 0.01, "weight_decay": 100 * decay}
    case = Case(gradients=((5, 0.0),), start=(1.0, 2.0), options=options)

    def bad(moved: Movement) -> str:
        if abs(moved.share) <= _NOTHING:
            return "Weight decay does nothing where the gradient is zero ({share} of the documented decay)."
        return "Weight decay shrinks a parameter {share} as much as documented."

    finding = _judged(bench, case, "Weight decay shrinks a parameter by lr times weight_decay.", bad)
    if finding.status == "pass" and bench.narrow:
        usual = Case(gradients=((100, 0.0),), start=(1.0, 2.0), options={"lr": 1e-3, "weight_decay": 1e-2})
        lost = 1 - usual.measure(bench).share
        if lost > NOTABLE:
            note = (
                f" Decay that is less than half a unit in the last place is lost with this storage, as with "
                f"{bench.spec.name}: {percent(lost)} of it at lr=1e-3, weight_decay=1e-2."
            )
            finding = dataclasses.replace(finding, consequence=finding.consequence + note)
    return finding


def weight_decay(bench: Bench) -> Finding:
    """Decay that is a part of the gradient or of a ratio: a trajectory with much of it."""
    return _along(bench, {"weight_decay": 0.5}, "Weight decay acts as documented.", "weight_decay=0.5")


def _along(bench: Bench, options: Mapping[str, Any], good: str, what: str) -> Finding:
    ((_, error, model),) = follow(bench, options, (20,))
    figure = Figure(value=error, unit=f"{_UPDATE} at step 20", bound=bench.rounding(model))
    if error <= bench.rounding(model):
        return Finding(status="pass", consequence=good, figure=figure)
    said = f"With {what} parameters are {percent(error)} of their way from where the formula puts them after 20 steps."
    return Finding(status="differs", consequence=said, figure=figure)
