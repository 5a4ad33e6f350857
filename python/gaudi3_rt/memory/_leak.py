"""Does memory grow without end? The slope of its troughs, with a confidence interval, and what growth is no leak.

Memory of a training goes up and down: activations within a step, caches and garbage over many. So the timeline is cut
into ``BLOCKS`` blocks and each is represented by its least value, its trough: what goes up and comes back within a
block leaves no trace there. The slope is that of Theil and Sen, the median over all pairs of troughs, with Sen's
interval (Sen, J. Am. Stat. Assoc. 63, 1968): one trough that is far off does not move it. Neighbouring troughs may
still be alike, which would make the interval too narrow: its variance is that of the effective number of
observations, (1 + r) / (1 - r) times as large for a lag-one autocorrelation r of the residuals (Yue and Wang, Water
Resour. Manag. 18, 2004). ``CRITICAL`` is high because a run is looked at many times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gaudi3_rt.memory._timeline import Point

Array = npt.NDArray[Any]

BLOCKS = 16
MIN_POINTS = 8 * BLOCKS
"""Points of the timeline in the shortest window that is looked at; further windows are 2, 4, 8 ... times as long."""
CRITICAL = 3.29
"""Quantile of the normal distribution: intervals of 99.9 %."""
MIN_RISING = 2 / 3
"""Share of troughs above the one before. A leak adds to most blocks; caches that fill add to a few."""
MIN_LATE_SHARE = 0.5
"""How steep the second half of a window must be against the first: warm-up flattens."""
LATE_CRITICAL = 1.28
"""The second half must rise by itself, with an interval of 80 %."""
MIN_NEW_SHARE = 0.25
"""Share of a window's rise that must be above all troughs before it and in its first quarter: a slow sawtooth has been
there."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Growth that does not look like anything but a leak. Intervals are of 99.9 %.

    Attributes:
        since: where the window begins in which it is seen, on the monitor's clock.
        bytes_per_second: slope of the troughs.
        bytes_per_second_interval: of that slope.
        bytes_per_step: the same against marked steps; None where none were marked.
        bytes_per_step_interval: of that slope.
        grown: bytes that were gained in the window.
        seconds_to_limit: until the peaks of now reach the limit at this slope; None without a limit.
        seconds_to_limit_interval: soonest and latest.
        samples: how many the window has.
    """

    since: float
    bytes_per_second: float
    bytes_per_second_interval: tuple[float, float]
    bytes_per_step: float | None
    bytes_per_step_interval: tuple[float, float] | None
    grown: int
    seconds_to_limit: float | None
    seconds_to_limit_interval: tuple[float, float] | None
    samples: int


@dataclass(frozen=True)
class Slope:
    """A slope and its interval of 99.9 %."""

    value: float
    low: float
    high: float


def find_leak(points: Sequence[Point], *, min_growth: float) -> Leak | None:
    """Looks at the last 128, 256, 512 ... points and at all of them.

    Args:
        points: of equally many samples each, without those of the warm-up.
        min_growth: bytes that must be gained in a window.

    Returns:
        What the longest window shows that shows anything.
    """
    lows = np.array([point.low for point in points], dtype=float)
    length = len(points)
    while length >= MIN_POINTS:
        found = _in_window(points, lows, length // BLOCKS, min_growth)
        if found is not None:
            return found
        length = _next_shorter(length)
    return None


def _next_shorter(length: int) -> int:
    """The largest of 128, 256, 512 ... that is less; 0 if none is."""
    shorter = 0
    candidate = MIN_POINTS
    while candidate < length:
        shorter, candidate = candidate, 2 * candidate
    return shorter


def _in_window(points: Sequence[Point], lows: Array, size: int, min_growth: float) -> Leak | None:
    """Looks at the last blocks of this size."""
    first = len(points) - size * BLOCKS
    troughs = _troughs(lows[first:], size)
    grown = troughs[-1] - troughs[0]
    if grown < min_growth or np.mean(np.diff(troughs) > 0) < MIN_RISING:
        return None
    before = np.concatenate([_troughs(lows[first % size : first], size), troughs[: BLOCKS // 4]])
    if troughs[-1] - before.max() < MIN_NEW_SHARE * (troughs[-1] - troughs.min()):
        return None
    window = points[first:]
    times = _middles([point.time for point in window], size)
    if not np.all(np.diff(times) > 0):
        return None  # a clock that a test has stopped: there is no growth in time
    slope = theil_sen(times, troughs)
    half = BLOCKS // 2
    early, late = (theil_sen(times[part], troughs[part], LATE_CRITICAL) for part in (slice(half), slice(half, None)))
    if slope.low <= 0 or late.low <= 0 or late.value < MIN_LATE_SHARE * early.value:
        return None
    steps = _middles([float(point.step) for point in window], size)
    per_step = theil_sen(steps, troughs) if np.all(np.diff(steps) > 0) else None
    limit, peak = window[-1].limit, max(point.high for point in window[-size:])
    left = None if limit is None else max(limit - peak, 0)
    return Leak(
        since=window[0].time,
        bytes_per_second=slope.value,
        bytes_per_second_interval=(slope.low, slope.high),
        bytes_per_step=None if per_step is None else per_step.value,
        bytes_per_step_interval=None if per_step is None else (per_step.low, per_step.high),
        grown=int(grown),
        seconds_to_limit=None if left is None else left / slope.value,
        seconds_to_limit_interval=None if left is None else (left / slope.high, left / slope.low),
        samples=sum(point.samples for point in window),
    )


def _troughs(lows: Array, size: int) -> Array:
    least: Array = lows.reshape(-1, size).min(axis=1)
    return least


def _middles(values: Sequence[float], size: int) -> Array:
    means: Array = np.array(values).reshape(BLOCKS, size).mean(axis=1)
    return means


def _pairs(x: Array, y: Array) -> Array:
    i, j = np.triu_indices(len(x), k=1)
    slopes: Array = np.sort((y[j] - y[i]) / (x[j] - x[i]))
    return slopes


def theil_sen(x: Array, y: Array, critical: float = CRITICAL) -> Slope:
    """The median slope over all pairs, and its interval.

    Args:
        x: increasing.
        y: as many.
        critical: quantile of the normal distribution, e.g. 1.96 for 95 %.
    """
    slopes = _pairs(x, y)
    value = float(np.median(slopes))
    n = len(x)
    variance = n * (n - 1) * (2 * n + 5) / 18 * _inflation(y - value * x)
    half_width = critical * math.sqrt(variance)
    # Sen's ranks; where the interval is wider than all slopes, nothing is known but that it is not narrower.
    lower, upper = int((len(slopes) - half_width) // 2), math.ceil((len(slopes) + half_width) / 2)
    low = float(slopes[lower]) if lower >= 0 else -math.inf
    high = float(slopes[upper]) if upper < len(slopes) else math.inf
    return Slope(value, low, high)


def _inflation(residuals: Array) -> float:
    """By how much autocorrelation widens the variance; at least 1."""
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    r = float(centred[1:] @ centred[:-1]) / power if power > 0 else 0.0
    return (1 + r) / (1 - r) if 0 < r < 1 else 1.0
