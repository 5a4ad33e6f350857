"""The pictures of a run. A long one is drawn by the median of many steps and the range that they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.lib.stride_tricks import sliding_window_view

from gaudi3_rt.report._gather import DeviceSeries, Floats, Numbers, RunData
from gaudi3_rt.report._summary import throughput

_POINTS = 800  # more than can be told apart in a picture of this width
_GAP = 5  # times the usual distance of points thereabouts
_NEAR = 2  # distances on each side that say what is usual
_TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
_BYTE_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (0, "bytes"))
_MARKS = {
    "non_finite_loss": "tab:red",
    "non_finite_gradient": "tab:orange",
    "loss_divergence": "tab:purple",
    "stall": "tab:brown",
    "straggler": "tab:olive",
}
_READINGS = (
    ("temperature_celsius", "temperature [°C]", 1),
    ("power_watts", "power [W]", 1),
    ("utilization_ratio", "utilisation [%]", 100),
    ("clock_hertz", "clock [GHz]", 1e-9),
)


def charts(run: RunData) -> Iterator[tuple[str, Figure]]:
    """Those that there are data for, by name."""
    for name, draw in CHARTS.items():
        figure = draw(run)
        if figure is not None:
            FigureCanvasAgg(figure)
            yield name, figure


def binned(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Where, median, least and most of the neighbours that belong to one point; values that are no numbers left out.

    Returns:
        Four arrays of equal length; they are ``x, y, y, y`` as long as every value has a point of its own.
    """
    is_number = np.isfinite(x) & np.isfinite(y)
    x, y = x[is_number], y[is_number]
    if len(x) <= _POINTS:
        return x, y, y, y
    begins = _begins(x)
    parts = zip(np.split(x, begins[1:]), np.split(y, begins[1:]), strict=True)
    found = [(where.mean(), np.median(part), part.min(), part.max()) for where, part in parts]
    where, median, least, most = np.array(found).T
    return where, median, least, most


def _begins(x: Floats) -> Numbers:
    """The first of those values, in their order, that belong to each point: all points are equally wide.

    So they are evenly spread although older steps of a long history have been thinned.
    """
    if len(x) <= _POINTS:
        return np.arange(len(x))
    edges = np.linspace(x.min(), x.max(), _POINTS + 1)[1:-1]
    return np.flatnonzero(np.diff(np.searchsorted(edges, x, side="right"), prepend=-1))


def _line(axes: Any, x: Floats | Numbers, y: Floats, **style: Any) -> None:
    where, median, least, most = _with_gaps(*binned(np.asarray(x, np.float64), y))
    (line,) = axes.plot(where, median, **({"linewidth": 1.2} | style))
    if len(x) > _POINTS:
        axes.fill_between(where, least, most, color=line.get_color(), alpha=0.2, linewidth=0)


def _with_gaps(where: Floats, *columns: Floats) -> tuple[Floats, ...]:
    """Breaks lines where there is nothing for much longer than thereabouts: between two attempts nobody has measured.

    Points are closer in the newest part of a long history than in the older one.
    """
    distances = np.diff(where)
    if len(distances) == 0:
        return where, *columns
    around = sliding_window_view(np.pad(distances, _NEAR, constant_values=np.nan), 2 * _NEAR + 1)
    gaps = np.flatnonzero(distances > _GAP * np.nanmedian(around, axis=1)) + 1
    return np.insert(where, gaps, where[gaps]), *(np.insert(column, gaps, np.nan) for column in columns)


def _panels(rows: int, *, height: float = 2.6) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(9, 1.0 + height * rows), layout="constrained")
    axes = figure.subplots(rows, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])


def _finish(axes: Any, label: str, *, from_zero: bool = False) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(axes.get_legend_handles_labels()[0]) > 0:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _by_step(run: RunData, axes: list[Any], *, marks: bool = False) -> None:
    """Names the axis of steps, and shows on it where the run was restarted and what happened."""
    for i, restart in enumerate(run.restarts):
        for one in axes:
            label = "restart" if i == 0 and one is axes[0] else None
            one.axvline(restart.start_step, color="black", linestyle="--", linewidth=0.8, label=label)
    seen: set[str] = set()
    for happening in run.happenings if marks else ():
        colour = _MARKS.get(happening.kind)
        if colour is not None:
            label = None if happening.kind in seen else happening.kind.replace("_", " ")
            seen.add(happening.kind)
            axes[0].axvline(happening.step, color=colour, linestyle=":", linewidth=1.2, label=label)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def _loss(run: RunData) -> Figure | None:
    """The mean of the ranks, which is the loss of the whole batch if all have as many samples."""
    given = [
        (name, label)
        for name, label in (("loss", "loss"), ("accuracy", "accuracy [%]"), ("gradient_norm", "gradient norm"))
        if any(np.isfinite(steps.given[name]).any() for steps in run.ranks.values())
    ]
    if not given:
        return None
    figure, axes = _panels(len(given))
    for one, (name, _) in zip(axes, given, strict=True):
        numbers, rows = run.over_ranks(name)
        is_told = np.isfinite(rows)
        with np.errstate(invalid="ignore"):  # a step that no rank told of
            mean = np.where(is_told, rows, 0).sum(axis=0) / is_told.sum(axis=0)
        _line(
            one, numbers, 100 * mean if name == "accuracy" else mean, label="mean of ranks" if len(rows) > 1 else None
        )
    _by_step(run, axes, marks=True)
    for one, (_, label) in zip(axes, given, strict=True):
        _finish(one, label)
    axes[0].set_title("loss")
    return figure


def _throughput(run: RunData) -> Figure | None:
    given = [
        name for name in ("samples", "tokens") if any(np.isfinite(s.given[name]).any() for s in run.ranks.values())
    ]
    if not run.ranks:
        return None
    figure, axes = _panels(len(given) + 1)
    for one, name in zip(axes, given, strict=False):
        _line(one, *throughput(run, name))
        one.yaxis.set_major_formatter(EngFormatter(sep=""))
    for rank, steps in run.ranks.items():
        _line(axes[-1], steps.number, 1000 * steps.seconds, label=f"rank {rank}" if len(run.ranks) > 1 else None)
    _by_step(run, axes)
    for one, label in zip(axes, [*(f"{name} per second" for name in given), "step [ms]"], strict=True):
        _finish(one, label, from_zero=True)
    axes[0].set_title("throughput" + (" of all ranks" if len(run.ranks) > 1 else ""))
    return figure


def phase_means(run: RunData) -> tuple[Numbers, dict[str, Floats]]:
    """Numbers of steps, and the mean seconds of each phase over the ranks that tell phases of that step apart."""
    names = dict.fromkeys(name for steps in run.ranks.values() for name in steps.phases)
    rows = {name: run.over_ranks(name) for name in names}
    if not rows:
        return np.array([], np.int64), {}
    numbers = next(iter(rows.values()))[0]
    told = np.any([np.isfinite(seconds) for _, seconds in rows.values()], axis=0).sum(axis=0)
    is_told = told > 0
    return numbers[is_told], {
        name: np.nansum(seconds, axis=0)[is_told] / told[is_told] for name, (_, seconds) in rows.items()
    }


def _time_split(run: RunData) -> Figure | None:
    numbers, columns = phase_means(run)
    if not columns:
        return None
    figure, (axes,) = _panels(1, height=3.2)
    where = numbers.astype(np.float64)
    begins = _begins(where)
    means = [np.add.reduceat(column, begins) for column in columns.values()]
    lengths = np.diff(begins, append=len(numbers))
    axes.stackplot(
        where[begins], *(1000 * part / lengths for part in means), labels=list(columns), alpha=0.85, step="post"
    )
    _by_step(run, [axes])
    _finish(axes, "step [ms]", from_zero=True)
    axes.set_title("where the time of a step goes" + (", mean of ranks" if len(run.ranks) > 1 else ""))
    return figure


def _memory(run: RunData) -> Figure | None:
    shown = ("memory_used_bytes", "memory_allocated_bytes", "memory_peak_bytes")
    series = [one for one in run.devices if any(np.isfinite(one.readings[name]).any() for name in shown)]
    if not series:
        return None
    largest = max(
        float(np.nanmax(one.readings[name]))
        for one in series
        for name in shown
        if np.isfinite(one.readings[name]).any()
    )
    byte, unit = next((max(b, 1), name) for b, name in _BYTE_UNITS if largest >= b)
    figure, axes = _panels(len(series), height=2.2)
    second = _time_unit(run)
    for one, device in zip(axes, series, strict=True):
        time = (device.time - run.began) / second[0]
        for name, label in zip(shown, ("used by all", "allocated", "peak"), strict=True):
            if np.isfinite(device.readings[name]).any():
                _line(one, time, device.readings[name] / byte, label=label)
        total = device.readings["memory_limit_bytes"]
        total = total if np.isfinite(total).any() else device.readings["memory_total_bytes"]
        if np.isfinite(total).any() and largest > np.nanmax(total) / 4:
            one.axhline(float(np.nanmax(total)) / byte, color="black", linewidth=1, label="limit")
        one.set_title(_device_title(device), fontsize="medium")
        _finish(one, f"memory [{unit}]", from_zero=True)
        if largest == 0:  # else the axis is cut into parts of a byte
            one.set_ylim(top=1)
    axes[-1].set_xlabel(f"time [{second[1]}]")
    return figure


def _devices(run: RunData) -> Figure | None:
    def has(device: DeviceSeries, name: str) -> bool:
        return bool(np.isfinite(device.readings[name]).any())

    shown = [row for row in _READINGS if any(has(device, row[0]) for device in run.devices)]
    if not shown:
        return None
    figure, axes = _panels(len(shown), height=1.8)
    second, unit = _time_unit(run)
    unnamed = {i: _device_title(device) for i, device in enumerate(run.devices)}  # one legend entry for all panels
    for one, (name, label, factor) in zip(axes, shown, strict=True):
        for i, device in enumerate(run.devices):
            if has(device, name):
                time = (device.time - run.began) / second
                title = unnamed.pop(i, None)
                _line(one, time, factor * device.readings[name], color=f"C{i % 10}", label=title)
        if name == "utilization_ratio":
            one.set_ylim(0, 102)
        _finish(one, label)
    axes[0].set_title("devices")
    axes[-1].set_xlabel(f"time [{unit}]")
    return figure


def _time_unit(run: RunData) -> tuple[float, str]:
    lasted = run.ended - run.began
    return next((second, name) for least, second, name in _TIME_UNITS if lasted >= least)


def _device_title(device: DeviceSeries) -> str:
    return f"{device.name}, rank {device.rank}" + (" (simulated)" if device.simulated else "")


CHARTS: dict[str, Callable[[RunData], Figure | None]] = {
    "loss": _loss,
    "throughput": _throughput,
    "time_split": _time_split,
    "memory": _memory,
    "devices": _devices,
}
