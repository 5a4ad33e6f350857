"""A clock that a test moves: sleeping takes no time."""

from __future__ import annotations


class FakeClock:
    """Time that passes only when somebody sleeps or calls :meth:`advance`. Seconds.

    Args:
        time: what :meth:`time` says at first, seconds since the epoch.

    Attributes:
        slept: every sleep so far, in order.
    """

    def __init__(self, time: float = 0.0) -> None:
        self._epoch = time
        self._now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._epoch + self._now

    def sleep(self, seconds: float, /) -> None:
        """Returns at once, with time moved on by that much."""
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Moves time on.

        Raises:
            ValueError: a negative number; time does not run backwards.
        """
        if not seconds >= 0:
            msg = f"a clock cannot be moved by {seconds} s; only forwards"
            raise ValueError(msg)
        self._now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self._now:g} s)"
