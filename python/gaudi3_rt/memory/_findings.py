"""What follows from samples: watermarks that are crossed, leaks that begin. Each is found once per episode."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gaudi3_rt import events
from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt._units import bytes_text, duration_text
from gaudi3_rt.memory._leak import Leak, find_leak
from gaudi3_rt.memory._timeline import Timeline

_LOOK_EVERY = 8
"""Samples."""


@dataclass(frozen=True)
class Finding:
    """A record to emit: its kind, its fields but for the device, and the same as a sentence for the log."""

    kind: Callable[..., events.Event]
    fields: dict[str, Any]
    text: str
    level: int = logging.WARNING

    @property
    def name(self) -> str:
        """Of the record."""
        return getattr(self.kind, "__name__", "Event")


@dataclass(frozen=True)
class Mark:
    """Something that happened: when on the monitor's clock, what event, and a few words."""

    time: float
    event: str
    text: str


class Watermarks:
    """High once memory reaches one share of the limit, and not again before it was below another.

    Args:
        high: share of the limit.
        low: a smaller one.
    """

    def __init__(self, high: float, low: float) -> None:
        self._high, self._low = high, low
        self.is_high = False

    def update(self, device: str, stats: MemoryStats, highest: int) -> Iterator[Finding]:
        """Looks at a sample; ``highest`` is the most that memory has been since the one before."""
        if not stats.limit:
            return
        if not self.is_high and highest >= self._high * stats.limit:
            self.is_high = True
            yield self._finding(events.MemoryHigh, device, "reached", highest, stats.limit, logging.WARNING)
        if self.is_high and stats.allocated < self._low * stats.limit:
            self.is_high = False
            yield self._finding(
                events.MemoryRecovered, device, "is down to", stats.allocated, stats.limit, logging.INFO
            )

    @staticmethod
    def _finding(
        kind: Callable[..., events.Event], device: str, verb: str, allocated: int, limit: int, level: int
    ) -> Finding:
        fields = {"allocated_bytes": allocated, "limit_bytes": limit, "used_ratio": allocated / limit}
        share = f"{bytes_text(allocated)} of {bytes_text(limit)} ({allocated / limit:.0%})"
        return Finding(kind, fields, f"memory of {device} {verb} {share}", level)


class LeakWatch:
    """Looks for leaks every few samples; an episode ends when nothing is seen for as long as the last window was.

    Args:
        device: its name.
        warmup: samples to leave out at the beginning.
        min_growth: bytes that must be gained.
    """

    def __init__(self, device: str, warmup: int, min_growth: float) -> None:
        self._device, self._warmup, self._min_growth = device, warmup, min_growth
        self._samples = self._quiet = 0
        self.current: Leak | None = None

    def update(self, timeline: Timeline) -> Iterator[Finding]:
        """Counts a sample that was added to the timeline."""
        self._samples += 1
        if self._samples % _LOOK_EVERY:
            return
        points = timeline.complete
        begin = math.ceil(self._warmup / points[0].samples) if points else 0
        found = find_leak(points[begin:], min_growth=self._min_growth)
        if found is None:
            self._quiet += _LOOK_EVERY
            if self.current is not None and self._quiet >= self.current.samples:
                self.current = None
            return
        is_new, self._quiet, self.current = self.current is None, 0, found
        if is_new:
            yield self._finding(found)

    def _finding(self, leak: Leak) -> Finding:
        low, high = leak.bytes_per_second_interval
        text = (
            f"memory of {self._device} seems to leak: {bytes_text(leak.bytes_per_second)}/s "
            f"({bytes_text(low)}/s to {bytes_text(high)}/s) over {leak.samples} samples"
        )
        if leak.bytes_per_step is not None:
            text += f", {bytes_text(leak.bytes_per_step)} a step"
        if leak.seconds_to_limit_interval is not None and leak.seconds_to_limit is not None:
            soonest, latest = map(duration_text, leak.seconds_to_limit_interval)
            text += f"; out of memory in {duration_text(leak.seconds_to_limit)} ({soonest} to {latest})"
        fields = {
            "bytes_per_second": leak.bytes_per_second,
            "bytes_per_second_interval": leak.bytes_per_second_interval,
            "bytes_per_step": leak.bytes_per_step,
            "seconds_to_limit": leak.seconds_to_limit,
            "seconds_to_limit_interval": leak.seconds_to_limit_interval,
        }
        return Finding(events.LeakSuspected, fields, text)
