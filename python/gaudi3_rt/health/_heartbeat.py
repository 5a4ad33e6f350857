"""Signs of life of a loop: a beat costs less than a microsecond and can be looked at from any thread."""

from __future__ import annotations

import time

from gaudi3_rt._protocols import Clock

TRAINING = "training"
"""The heartbeat that beats with every ``StepCompleted`` while a monitor watches it."""


class Heartbeat:
    """When a loop was last alive.

    Args:
        clock: what time it is.

    Attributes:
        last: when it beat, on the clock's monotonic scale; None before the first beat and after :meth:`stop`.
    """

    __slots__ = ("_now", "last")

    def __init__(self, clock: Clock = time) -> None:
        self._now = clock.monotonic
        self.last: float | None = None

    def beat(self) -> None:
        """The loop is alive."""
        self.last = self._now()

    def stop(self) -> None:
        """The loop has ended as it should: from now on it is not missed, until it beats again."""
        self.last = None

    @property
    def age_seconds(self) -> float | None:
        """Time since the last beat; None if there was none, or the loop has ended."""
        last = self.last
        return None if last is None else max(self._now() - last, 0.0)


_by_name: dict[str, Heartbeat] = {}


def heartbeat(name: str = TRAINING) -> Heartbeat:
    """The heartbeat of this name in this process; made when it is first asked for."""
    found = _by_name.get(name)
    return _by_name.setdefault(name, Heartbeat()) if found is None else found  # no lock, which a fork might leave held
