"""Checks of constants that an implementation may round: betas, the size of a step, the factor of decay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from gaudi3_rt.numerics._bench import Bench, Finding, dtype_name, percent
from gaudi3_rt.numerics._case import Case, Movement
from gaudi3_rt.numerics._checks_formula import NOTABLE, judged

_NOTHING = 1e-3
_BFLOAT16 = 2.0**-8
"""The largest relative error of one rounding to bfloat16."""


def beta_rounding(bench: Bench) -> Finding:
    """Moments that decay by rates which a 16-bit float cannot hold."""
    lr = 1e-3
    # The first is between two bfloat16, and about the root of the second, so that late steps are as large as early ones
    # and errors add up. The second is a bfloat16: torch's foreach rounds it on a CPU, which no other storage shows.
    betas = (179.45 / 256, 252 / 512)
    options = {"lr": lr, "betas": betas, "weight_decay": 0.0}
    case = Case(gradients=((1, 1.0), (14, 0.0)), start=(lr, 5 * lr), options=options, since=5)
    grads = [torch.tensor(g, dtype=torch.float64) for count, g in case.gradients if g is not None for _ in range(count)]

    def moves(by: tuple[float, ...]) -> float:
        reference, passed = bench.reference([torch.zeros(1)], betas=by, lr=lr, weight_decay=0.0), []
        for grad in grads:
            passed.append(float(reference.params[0]))
            reference.step([grad.reshape(1)])
        return float(reference.params[0]) - passed[case.since]

    rounded = moves(tuple(float(torch.tensor(beta, dtype=torch.bfloat16)) for beta in betas)) / moves(betas)

    def bad(moved: Movement) -> str:
        known = abs(moved.share - rounded) <= 0.2 * abs(rounded - 1)
        why = "betas are rounded to bfloat16" if known else "moments decay, or are corrected, otherwise than documented"
        return f"Some steps after one gradient a parameter has moved {{share}} as far as it should: {why}."

    return judged(bench, case, "The moments decay by the betas that were given.", bad)


def step_size_rounding(bench: Bench) -> Finding:
    """One step whose size a 16-bit float cannot hold, with bias corrections that are powers of two."""
    lr = (1 + 0.45 / 128) * 2**-10
    options = {"lr": lr, "betas": (0.5, 0.75), "weight_decay": 0.0}
    case = Case(gradients=((1, 1.0),), start=(-lr, lr), options=options)
    return judged(
        bench,
        case,
        "A step has the size that lr says.",
        lambda moved: (
            "Steps are {share} of the size that lr says"
            + (": it is rounded." if abs(moved.share - 1) <= _BFLOAT16 else "; rounding lr explains less.")
        ),
        coarse=0.0,
    )


def decoupled_weight_decay(bench: Bench) -> Finding:
    """Decay alone: gradients are zero."""
    decay = 1 - 230.45 / 256  # the factor is between two bfloat16
    options = {"lr": 0.01, "weight_decay": 100 * decay}
    case = Case(gradients=((5, 0.0),), start=(1.0, 2.0), options=options)
    # torch's foreach rounds the factor to a narrow dtype on a CPU, which a training that changes to it must not miss.
    allowance = bench.u / 2 / decay if bench.narrow else 0.0
    rounded = (1 - float(torch.tensor(1 - decay, dtype=bench.dtype)) ** case.steps) / (1 - (1 - decay) ** case.steps)

    def bad(moved: Movement) -> str:
        if abs(moved.share) <= _NOTHING:
            in_matrices = dataclasses.replace(bench, spec=dataclasses.replace(bench.spec, matrices=True))
            if abs(case.measure(in_matrices).share) > _NOTHING:
                return "Weight decay does nothing to parameters of one dimension ({share} of the documented decay)."
            return "Weight decay does nothing where the gradient is zero ({share} of the documented decay)."
        return "Weight decay shrinks a parameter {share} as much as documented."

    good = "Weight decay shrinks a parameter by lr times weight_decay."
    finding = judged(bench, case, good, bad, allowance=allowance)
    found = finding.figure.value if finding.figure else 0.0
    if finding.status == "pass" and bench.spec.elementwise:
        beside = _decay_beside_update(bench, options)
        finding = finding if beside.status == "pass" else beside
    if finding.status == "pass" and bench.narrow and 2 * found > abs(rounded - 1):
        note = (
            f" Its factor 1 - lr * weight_decay is rounded to {dtype_name(bench.dtype)} first, as by torch's foreach on"
            f" a CPU: decay is off by {percent(found)} here, and there is none where lr * weight_decay is below "
            f"{bench.u / 2:.2g}."
        )
        finding = dataclasses.replace(finding, consequence=finding.consequence + note)
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


def _decay_beside_update(bench: Bench, options: Mapping[str, float]) -> Finding:
    """Much decay of parameters that are as small as the update: it is the old parameter that shrinks."""
    lr = options["lr"]
    case = Case(gradients=((1, 1.0),), start=(-lr, lr), options=options)
    return judged(
        bench,
        case,
        "",
        lambda _: (
            f"With lr * weight_decay = {lr * options['weight_decay']:.2g} an update is {{share}} of what it should be: "
            "decay, as if it came later, shrinks it as well."
        ),
    )
