"""The timeline of a monitor as a picture."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.memory._findings import Mark
from gaudi3_rt.memory._sources import MemorySource
from gaudi3_rt.memory._timeline import Point

_EVENT_COLOURS = {
    "MemoryHigh": "tab:orange",
    "MemoryRecovered": "tab:green",
    "LeakSuspected": "tab:red",
    "MemoryUnreadable": "tab:gray",
}
_TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
_BYTE_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))


class Plottable(Protocol):
    """What of a monitor is drawn."""

    device: MemorySource
    high: float
    low: float

    @property
    def timeline(self) -> tuple[Point, ...]: ...
    @property
    def marks(self) -> tuple[Mark, ...]: ...
    @property
    def last(self) -> MemoryStats | None: ...


def plot(monitor: Plottable, path: str | os.PathLike[str]) -> None:
    """Writes the picture; the ending of the path says in which format.

    Raises:
        ImportError: matplotlib is missing.
        ParameterValidationError: there is no sample yet.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (only for pictures)
        from matplotlib.figure import Figure  # noqa: PLC0415 (same)
    except ImportError as error:
        msg = 'plot() needs matplotlib; install it with: pip install "gaudi3_rt[examples]"'
        raise ImportError(msg) from error
    points = monitor.timeline
    if not points:
        msg = "the monitor has no samples to plot; enter it as a context manager, or call sample()"
        raise ParameterValidationError(msg)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, monitor, points)
    figure.savefig(path, dpi=120)


def _draw(axes: Any, monitor: Plottable, points: tuple[Point, ...]) -> None:
    limit = points[-1].limit
    second, time_unit = next((s, name) for least, s, name in _TIME_UNITS if points[-1].time >= least)
    largest = max(point.high for point in points)
    byte, byte_unit = next((b, name) for b, name in _BYTE_UNITS if largest >= b or b == 1)
    times = np.array([point.time for point in points]) / second

    axes.fill_between(
        times,
        [point.low / byte for point in points],
        [point.high / byte for point in points],
        color="tab:blue",
        alpha=0.25,
        linewidth=0,
        label="lowest to highest",
    )
    axes.plot(times, [point.allocated / byte for point in points], color="tab:blue", label="allocated")
    for name, colour in (("reserved", "tab:purple"), ("workspace", "tab:brown")):
        values = [getattr(point, name) for point in points]
        if all(value is not None for value in values):
            axes.plot(times, [value / byte for value in values], color=colour, linewidth=1, label=name)
    if limit is not None and largest > monitor.low * limit / 2:
        axes.axhline(limit / byte, color="black", linewidth=1, label="limit")
        axes.axhline(monitor.high * limit / byte, color="tab:orange", linestyle="--", linewidth=1, label="high")
        axes.axhline(monitor.low * limit / byte, color="tab:green", linestyle="--", linewidth=1, label="low")
    seen = set()
    for mark in monitor.marks:
        label = None if mark.event in seen else mark.event
        seen.add(mark.event)
        axes.axvline(mark.time / second, color=_EVENT_COLOURS[mark.event], linestyle=":", linewidth=1.2, label=label)
    axes.set_xlabel(f"time [{time_unit}]")
    axes.set_ylabel(f"memory [{byte_unit}]")
    axes.set_ylim(bottom=0)
    simulated = (
        " (simulated)" if monitor.device.simulated or (monitor.last is not None and monitor.last.simulated) else ""
    )
    limit_text = "" if limit is None else f", limit {limit / byte:.4g} {byte_unit}"
    axes.set_title(f"memory of {monitor.device.name}{simulated}{limit_text}")
    steps = np.array([point.step for point in points], dtype=float)
    if steps[-1] > steps[0]:
        _add_steps(axes, times, steps)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _add_steps(axes: Any, times: Any, steps: Any) -> None:
    """A second axis: which step was reached when."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (only for pictures)

    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    wanted = [
        s for s in MaxNLocator(nbins=8, integer=True).tick_values(steps[0], steps[-1]) if steps[0] <= s <= steps[-1]
    ]
    first = np.searchsorted(steps, wanted)
    top.set_xticks(times[first], [f"{s:.0f}" for s in wanted])
    top.set_xlabel("step")
