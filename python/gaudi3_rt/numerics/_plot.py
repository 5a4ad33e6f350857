"""The curves of a passport as a picture: how far parameters are from the documented formula, step by step."""

from __future__ import annotations

import math
import os
from typing import Any

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.numerics._passport import Check, Passport

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
_MARKERS = ("o", "s", "^", "D")


def plot(passport: Passport, path: str | os.PathLike[str]) -> None:
    """Writes the picture; the ending of the path says in which format.

    Raises:
        ImportError: matplotlib is missing.
        ParameterValidationError: the passport has no curve that can be drawn.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (only for pictures)
        from matplotlib.figure import Figure  # noqa: PLC0415 (same)
    except ImportError as error:
        msg = 'plot() needs matplotlib; install it with: pip install "gaudi3_rt[examples]"'
        raise ImportError(msg) from error
    checks = [check for check in passport.checks if check.dtype in passport.curves and check.name == "formula"]
    if not any(_drawable(error) for check in checks for _, error in check.curve):
        msg = "the passport has no curve to plot: the check 'formula' was not run, or it has no errors above zero"
        raise ParameterValidationError(msg)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, passport, checks)
    figure.savefig(path, dpi=120)


def _draw(axes: Any, passport: Passport, checks: list[Check]) -> None:
    for i, check in enumerate(checks):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        drawn = [(step, error) for step, error in check.curve if _drawable(error)]
        label = f"{check.dtype}: {check.status}{_left_out(check)}"
        steps, errors = [step for step, _ in drawn], [error for _, error in drawn]
        axes.plot(steps, errors, color=colour, marker=marker, label=label)
        figure = check.figure
        if figure is not None and figure.bound is not None and _drawable(figure.bound):
            # The bound is that of one step: the first that is beyond its own, or the last.
            step = next((step for step, error in check.curve if _same(error, figure.value)), check.curve[-1][0])
            label = f"{check.dtype}: bound at step {step}, {figure.bound:.2g}"
            axes.plot([step], [figure.bound], color=colour, marker="_", markersize=22, mew=2, ls="none", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative update error")
    axes.set_title(f"{passport.subject}\ncompared with {passport.like} in float64", fontsize="medium")
    axes.grid(which="major", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _drawable(value: float) -> bool:
    """Whether a logarithmic axis has it."""
    return math.isfinite(value) and value > 0


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _left_out(check: Check) -> str:
    """Which points the axis does not have."""
    exact = [str(step) for step, error in check.curve if error == 0]
    broken = [str(step) for step, error in check.curve if not math.isfinite(error)]
    notes = [f"exact at step {', '.join(exact)}"] if exact else []
    notes += [f"not finite at step {', '.join(broken)}"] if broken else []
    return "".join(f"; {note}" for note in notes)
