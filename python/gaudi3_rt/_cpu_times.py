"""How busy the CPUs of this machine were between two readings, for whoever reads: each reader has its own last one."""

from __future__ import annotations

from typing import Any

import psutil

SHORTEST = 0.05
"""Seconds, all CPUs together, that a reading needs: the kernel counts in hundredths."""


class CpuUtilization:
    """Readings of one reader. psutil's own ``cpu_percent`` has one memory for a thread, and is 0 the first time."""

    def __init__(self) -> None:
        self._before = _at_import
        self._ratio: float | None = None

    def read(self) -> float | None:
        """Share of all CPUs that was busy since the last call; at first, since this module was imported. 0 to 1.

        Where hardly any time has passed it is as it was at the last call, None if there was none.
        """
        now = _times()
        busy, total = (new - old for new, old in zip(now, self._before, strict=True))
        if total >= SHORTEST:
            self._before = now
            self._ratio = min(max(busy / total, 0.0), 1.0)
        return self._ratio


def _times() -> tuple[float, float]:
    """Busy seconds and all, of all CPUs; what guests take is in ``user`` already, and waiting for a disk is idle."""
    times: Any = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


_at_import = _times()
