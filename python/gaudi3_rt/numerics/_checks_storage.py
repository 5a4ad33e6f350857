"""Checks of what storage may lose: a second moment that cannot fall, updates too small to be seen."""

from __future__ import annotations

import math

from gaudi3_rt.numerics._bench import Bench, Finding, dtype_name, part
from gaudi3_rt.numerics._case import Case
from gaudi3_rt.numerics._checks_formula import MOVEMENT, NOTABLE
from gaudi3_rt.numerics._passport import Figure

_LOST = 0.75
"""The share below which a movement that is too small is put down to what the check asks for."""


def _against_storage(bench: Bench, case: Case, what: str, kept: str, lost: str) -> Finding:
    """A movement that storage may hinder: not more than rounding parameters and moments to nearest would."""
    moved = case.measure(bench)
    low, high = sorted((1.0, moved.stored))
    tolerance = bench.rounding_of_mean(case.steps, case.options) + 0.5 * (high - low)
    error = abs(moved.share - 1)
    bound = tolerance + (high - 1 if moved.share > 1 else 1 - low)
    figure = Figure(value=error, unit=MOVEMENT, bound=bound)
    script = case.script(bench, moved)
    if not error <= bound:
        why = f": {lost}" if moved.share < _LOST else ""
        said = f"{what} moves parameters {part(moved.share)} as far as it should{why}."
        if not math.isfinite(moved.share):
            said = f"{what} makes parameters no finite numbers."
        return Finding(status="differs", consequence=said, figure=figure, reproduce=script)
    if error <= NOTABLE:
        return Finding(
            status="pass",
            consequence=f"{what} moves parameters as far as it should: {kept}.",
            figure=figure,
            reproduce=script,
        )
    nearest = f"{bench.spec.name} with {dtype_name(bench.dtype)} storage, which rounds to nearest"
    said = f"{what} moves parameters {part(moved.share)} as far as in exact arithmetic; "
    if abs(moved.share - moved.stored) < error:
        said += f"so does {nearest} ({part(moved.stored)})."
    else:
        said += f"{nearest}, moves them {part(moved.stored)}."
    return Finding(status="pass", consequence=said, figure=figure, reproduce=script)


def frozen_second_moment(bench: Bench) -> Finding:
    """A spike, then quiet steps in which the second moment should fall to a third, then a few of use.

    One step takes less of it than a bfloat16 can hold: of the rate, and of the moment. Steps are quiet by gradients of
    zero, so that parameters are still small, and precise, in those that are measured.
    """
    options = {"lr": 1e-3, "betas": (0.9, 0.9985), "weight_decay": 0.0}
    spike, quiet = 20, 800
    case = Case(
        gradients=((spike, 100.0), (quiet, 0.0), (5, 30.0)), start=(0.02, 0.04), options=options, since=spike + quiet
    )
    what = "Training on after a spike of gradients"
    lost = "the second moment does not fall again as it should"
    return _against_storage(bench, case, what, "the second moment falls again", lost)


def tiny_updates(bench: Bench) -> Finding:
    """Updates of a millionth of the parameter."""
    options = {"lr": 2.0**-20, "weight_decay": 0.0}
    case = Case(gradients=((100, 1.0),), start=(1.0, 2.0), options=options)
    return _against_storage(
        bench, case, "An update of a millionth of the parameter", "none is lost", "updates are lost"
    )
