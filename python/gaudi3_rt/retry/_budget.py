"""How many retries of one class of error several places may make together in a stretch of time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import ParameterValidationError


class RetryBudget:
    """At most ``limit`` retries for each class of error in any ``window`` seconds; then the error itself is raised.

    Give one budget to all decorators that call the same service: a service that is down then sees a bounded number of
    calls, however many places call it. It may be used from any thread.

    Args:
        limit: retries for each class; 0 for none.
        window: seconds.
        clock: where the time comes from.

    Raises:
        ParameterValidationError: ``limit`` is negative, or ``window`` not positive.
    """

    def __init__(self, limit: int, window: float = 60.0, *, clock: Clock = time) -> None:
        if limit < 0 or not window > 0:
            message = f"a budget has a limit of 0 or more and a window above 0 seconds, not {limit} and {window}"
            raise ParameterValidationError(message)
        self.limit = limit
        self.window = window
        self._clock = clock
        self._after_fork()
        reset_in_children(self)
        self._spent: defaultdict[type[BaseException], deque[float]] = defaultdict(deque)

    def _after_fork(self) -> None:
        """Also at the start."""
        self._lock = threading.RLock()  # a signal handler may make a call while its thread does

    def spend(self, kind: type[BaseException]) -> bool:
        """Takes one retry of this class from the budget; False, and nothing taken, if none is left."""
        with self._lock:
            spent = self._recent(kind)
            if len(spent) >= self.limit:
                return False
            spent.append(self._clock.monotonic())
            return True

    def left(self, kind: type[BaseException]) -> int:
        """Retries of this class that could be made now."""
        with self._lock:
            return self.limit - len(self._recent(kind))

    def _recent(self, kind: type[BaseException]) -> deque[float]:
        spent, oldest = self._spent[kind], self._clock.monotonic() - self.window
        while spent and spent[0] <= oldest:
            spent.popleft()
        return spent
