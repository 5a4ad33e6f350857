"""The whole run in bounded memory: when it is full, neighbours are merged, so a longer run has a coarser timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was sampled in one interval of the timeline; bytes and seconds.

    Attributes:
        time: of its last sample, on the monitor's clock.
        step: how many steps were marked until then.
        allocated: at its last sample.
        low: least ``allocated`` in it.
        high: largest in it, counting peaks between samples where the device counts them.
        reserved: at its last sample.
        limit: at its last sample.
        workspace: at its last sample.
        samples: how many it stands for.
    """

    time: float
    step: int
    allocated: int
    low: int
    high: int
    reserved: int | None
    limit: int | None
    workspace: int | None
    samples: int = 1


def _merge(a: Point, b: Point) -> Point:
    return replace(b, low=min(a.low, b.low), high=max(a.high, b.high), samples=a.samples + b.samples)


class Timeline:
    """At most ``capacity`` points of equally many samples each, but for the last.

    Args:
        capacity: an even number.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._points: list[Point] = []
        self._per_point = 1

    def add(self, point: Point) -> None:
        """Appends a sample."""
        if self._points and self._points[-1].samples < self._per_point:
            self._points[-1] = _merge(self._points[-1], point)
            return
        if len(self._points) == self.capacity:
            self._points = [_merge(*pair) for pair in zip(self._points[::2], self._points[1::2], strict=True)]
            self._per_point *= 2
        self._points.append(point)

    @property
    def points(self) -> Sequence[Point]:
        """From the first to the last."""
        return tuple(self._points)

    @property
    def complete(self) -> Sequence[Point]:
        """Those that stand for equally many samples."""
        last_is_short = bool(self._points) and self._points[-1].samples < self._per_point
        return tuple(self._points[:-1] if last_is_short else self._points)
