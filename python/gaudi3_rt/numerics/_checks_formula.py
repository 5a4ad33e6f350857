"""Checks of the formula: does it move parameters as documented, and if not, which term is another."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gaudi3_rt.numerics._bench import (
    Bench,
    Finding,
    distance,
    dtype_name,
    generator,
    give,
    normal,
    off,
    part,
    percent,
)
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
UPDATE = "relative update error"


def follow(
    bench: Bench,
    options: Mapping[str, Any],
    steps: tuple[int, ...],
    *,
    scale: float = 0.02,
    fade: bool = False,
    oracle: Mapping[str, Any] | None = None,
    shape: tuple[int, int] = _SHAPE,
) -> list[tuple[int, float, float]]:
    """Steps, the subject's relative update error and the model's at each, along one random trajectory.

    Args:
        bench: see there.
        options: beside those that exercise the formula.
        steps: after which to compare.
        scale: of the parameters.
        fade: gradients shrink tenfold half-way.
        oracle: options of the oracle, where it is to have others.
        shape: of the parameter.
    """
    documented = options if oracle is None else oracle
    random = generator()
    start = bench.tensor(normal(shape, random, scale))
    scales = 10.0 ** (torch.rand(shape, generator=random) * 2 - 2)
    param = bench.parameter(start)
    optimizer = bench.optimizer([param], **options)
    exact = bench.reference([param], **documented)
    model = bench.reference([param], stored=bench.dtype, **documented)
    found = []
    for t in range(1, steps[-1] + 1):
        shrunk = 0.1 if fade and t > steps[-1] // 2 else 1.0
        grad = bench.tensor(normal(shape, random) * scales * shrunk)
        give([param], [grad])
        optimizer.step()
        exact.step([grad])
        model.step([grad])
        if t in steps:
            found.append((t, distance([param], exact.params, [start]), distance(model.params, exact.params, [start])))
    return found


def steps_text(count: int) -> str:
    """A number of steps in words."""
    return "one step" if count == 1 else f"{count} steps"


def formula(bench: Bench) -> Finding:
    """The whole update along 1000 steps, every option given explicitly."""
    points = follow(bench, {}, _STEPS)
    curve = tuple((t, error) for t, error, _ in points)
    wrong = [point for point in points if not point[1] <= bench.rounding(point[2])]
    step, error, model = wrong[0] if wrong else points[-1]
    bound = bench.rounding(model)
    figure = Figure(value=error, unit=f"{UPDATE} at step {step}", bound=bound)
    script = _formula_script(bench, step)
    if not wrong:
        said = (
            f"After {step} steps parameters are {off(error)}; storage in {dtype_name(bench.dtype)} alone explains "
            f"{percent(model)}."
        )
        return Finding(status="pass", consequence=said, figure=figure, reproduce=script, curve=curve)
    after = steps_text(step)
    said = (
        f"After {after} parameters are {off(error)} by the formula of {bench.spec.name}; rounding explains at most "
        f"{percent(bound)}."
    )
    return Finding(status="differs", consequence=said, figure=figure, reproduce=script, curve=curve)


def _formula_script(bench: Bench, steps: int) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in bench.options({}).items())
    where = "" if bench.device.type == "cpu" else f", device={str(bench.device)!r}"
    documented = ", ".join(f"{name}={value!r}" for name, value in bench.documented({}).items())
    ours = bench.spec.torch_class is None
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


def judged(
    bench: Bench,
    case: Case,
    good: str,
    bad: Callable[[Movement], str],
    *,
    coarse: float = _COARSE,
    allowance: float = 0.0,
) -> Finding:
    """A finding from one case; texts have ``{share}`` for how far the subject moves.

    An error below ``coarse`` is not put down to the defect that the case is made for. ``allowance`` is added to the
    bound of rounding.
    """
    moved = case.measure(bench)
    size = max(abs(x) for x in case.start) / abs(moved.oracle)
    bound = bench.rounding_of_mean(case.steps, case.options) * max(1.0, size) + allowance
    error = abs(moved.share - 1)
    figure = Figure(value=error, unit=MOVEMENT, bound=bound)
    script = case.script(bench, moved)
    if error <= bound:
        return Finding(status="pass", consequence=good, figure=figure, reproduce=script)
    if not math.isfinite(moved.share):
        said = f"Parameters are no finite numbers after {steps_text(case.steps)}, where those of the formula are."
    elif error < coarse:
        said = (
            f"Parameters are {off(error)}, where {dtype_name(bench.dtype)} arithmetic and storage explain at most "
            f"{percent(bound)}: state or arithmetic is coarser, or a small term is another."
        )
    else:
        said = bad(moved).replace("{share}", part(moved.share))
    return Finding(status="differs", consequence=said, figure=figure, reproduce=script)


def eps_placement(bench: Bench) -> Finding:
    """Gradients of the size of eps: does it stand beside the corrected root, as documented."""
    lr, steps = 1e-3, 10
    # The second moment has the square of this, which float16 must be able to hold.
    # Neither is the default, which an optimizer that ignores eps may have.
    eps = 3e-8 if torch.finfo(bench.dtype).tiny < _SMALLEST_SQUARE else 0.5
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
            "eps is its default, whatever is given": share_of(lambda _: bench.spec.defaults["eps"]),
        }
        cause, share = min(causes.items(), key=lambda item: abs(item[1] - moved.share))
        known = abs(share - moved.share) <= 0.05 * share + _NOTHING
        why = f": {cause}." if known else "; no usual place of eps explains that."
        return f"Ten steps with gradients as small as eps move a parameter {{share}} as far as they should{why}"

    return judged(bench, case, "Gradients as small as eps move a parameter as far as documented.", bad)


def _inside_root(eps: float, size: int, steps: int) -> float:
    g = eps * torch.linspace(1, 2, size, dtype=torch.float64)
    return float((steps * g / (g * g + eps).sqrt()).mean() / (steps * g / (g + eps)).mean())


def _said(text: str, _: Movement) -> str:
    return text


def bias_correction(bench: Bench) -> Finding:
    """First gradients that come late: by zeros, so that steps are counted; and by none, so that they are not."""
    lr = 1e-3
    options = {"lr": lr, "weight_decay": 0.0}
    good = "A first gradient moves a parameter as far as documented, at whatever step it comes."
    for t in (1, 2, 5, 20):
        runs = ((t - 1, 0.0), (1, 1.0)) if t > 1 else ((1, 1.0),)
        case = Case(gradients=runs, start=(-lr, lr), options=options)
        when = f"whose first gradient comes in step {t}, after zeros," if t > 1 else "in its first step"
        bad = f"A parameter {when} moves {{share}} as far as it should: bias correction is another, or missing."
        finding = judged(bench, case, good, functools.partial(_said, bad))
        if finding.status != "pass":
            return finding
    late = Case(gradients=((19, None), (1, 1.0)), start=(-lr, lr), options=options, beside=((20, 1.0),))
    return judged(
        bench,
        late,
        good,
        lambda _: (
            "A parameter that gets its first gradient in step 20 of its group moves {share} as far as it should: steps "
            "are counted for a group, not for a parameter."
        ),
    )


def weight_decay(bench: Bench) -> Finding:
    """Decay that is a part of the gradient or of a ratio: a trajectory with much of it."""
    return _along(bench, {"weight_decay": 0.5}, "Weight decay acts as documented.", "weight_decay=0.5")


def adjust_lr(bench: Bench) -> Finding:
    """What the shape of a matrix does to lr: a wide one, and a tall one, with both rules."""
    good = "The shape of a matrix scales lr as documented."
    findings = []
    for rule in ("original", "match_rms_adamw"):
        for shape in ((16, 48), (48, 16)):
            said = f"adjust_lr_fn={rule!r} and {shape[0]} x {shape[1]} elements"
            findings.append(_along(bench, {"adjust_lr_fn": rule}, good, said, shape=shape))
    return next((one for one in findings if one.status != "pass"), findings[-1])


def _along(
    bench: Bench, options: Mapping[str, Any], good: str, what: str, *, shape: tuple[int, int] = _SHAPE
) -> Finding:
    ((_, error, model),) = follow(bench, options, (20,), shape=shape)
    figure = Figure(value=error, unit=f"{UPDATE} at step 20", bound=bench.rounding(model))
    if error <= bench.rounding(model):
        return Finding(status="pass", consequence=good, figure=figure)
    said = f"With {what} parameters are {off(error)} after 20 steps."
    return Finding(status="differs", consequence=said, figure=figure)
