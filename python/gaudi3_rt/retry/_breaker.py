"""When to stop calling what is down, and who tries whether it is back: a circuit breaker with a single probe."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar

from gaudi3_rt import events
from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import ParameterValidationError, ServiceUnavailableError
from gaudi3_rt.retry._calls import is_async, name_of, refuse_coroutine

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Maker = Callable[[], events.Event]
# The calls that are inside `with breaker:` here; a task and a thread each have their own.
_inside: ContextVar[tuple[_Call, ...]] = ContextVar("gaudi3_rt_breaker_calls", default=())


class BreakerState(Enum):
    """What a breaker does with the next call: let it pass, refuse it, or let it pass alone."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Refuses calls to what has failed several times in succession, and lets one try after a while.

    Closed, it lets all calls pass and counts failures in succession. After ``failure_threshold`` of them it opens:
    calls end at once with ``ServiceUnavailableError``, which says in how many seconds to come back. After
    ``recovery_timeout`` seconds exactly one call passes, the probe, however many threads and tasks come at once. Its
    success closes the breaker, its failure opens it again. A probe that is cancelled says nothing, so the next call is
    a probe; so is one that comes when a probe has been out for ``recovery_timeout`` seconds.

    It is a decorator for plain and async functions, and a context manager, ``with`` or ``async with``. One breaker may
    guard several functions. It may be used from any thread and task.

    Args:
        failure_threshold: failures in succession that open it.
        recovery_timeout: seconds.
        name: for events and errors; else that of the first function that it decorates.
        failures: exceptions that count, a class or a tuple; others pass as if the call had succeeded.
        clock: where the time comes from.

    Raises:
        ParameterValidationError: a number is out of range, or ``failures`` are no exceptions.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout: float = 30.0,
        *,
        name: str = "",
        failures: type[Exception] | tuple[type[Exception], ...] = Exception,
        clock: Clock = time,
    ) -> None:
        if failure_threshold < 1 or not recovery_timeout > 0:
            message = (
                "a breaker has a failure_threshold of 1 or more and a recovery_timeout above 0 seconds, "
                f"not {failure_threshold} and {recovery_timeout}"
            )
            raise ParameterValidationError(message)
        for kind in failures if isinstance(failures, tuple) else (failures,):
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                message = f"failures names {kind!r}; it has to be a class of exceptions, or a tuple of them"
                raise ParameterValidationError(message, context={"parameter": "failures"})
        self.failure_threshold = failure_threshold
        self.recovery_timeout = recovery_timeout
        self.name = name
        self._counts = failures
        self._clock = clock
        self._after_fork()
        reset_in_children(self)
        self._failures = 0
        self._opened_at: float | None = None
        self._probe: _Call | None = None
        self._probe_since = 0.0

    def _after_fork(self) -> None:
        """Also at the start."""
        self._lock = threading.RLock()  # a signal handler may make a call while its thread does

    @property
    def state(self) -> BreakerState:
        """What it would do with a call now; half open while a probe is out."""
        with self._lock:
            if self._opened_at is None:
                return BreakerState.CLOSED
            return BreakerState.HALF_OPEN if self._probe or self._wait() <= 0 else BreakerState.OPEN

    @property
    def seconds_until_probe(self) -> float:
        """Until a call can pass; 0 when one can."""
        with self._lock:
            return max(self._wait(), 0.0)

    def reset(self) -> None:
        """Closes it, and forgets failures."""
        with self._lock:
            event = self._close()
        _announce(event)

    def __call__(self, function: _Function) -> _Function:
        """Decorates a plain or an async function.

        Raises:
            ParameterValidationError: it is a generator.
        """
        self.name = self.name or name_of(function)
        decorated: Any
        if is_async(function):

            @functools.wraps(function)
            async def decorated(*args: Any, **kwargs: Any) -> Any:
                with _Call(self):
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def decorated(*args: Any, **kwargs: Any) -> Any:
                with _Call(self):
                    result = function(*args, **kwargs)
                    refuse_coroutine(result, function)
                    return result

        guarded: _Function = decorated
        return guarded

    def __enter__(self) -> None:
        call = _Call(self)
        call.__enter__()
        _inside.set((*_inside.get(), call))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        *outer, call = _inside.get()
        _inside.set(tuple(outer))
        call.__exit__(kind, error, tb)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)

    # Each method below returns the event that it causes, which is announced without the lock: a hook may take its time.

    def _admit(self, call: _Call) -> _Maker | None:
        """Lets a call pass, as a probe if it has to be one.

        Raises:
            ServiceUnavailableError: it is refused.
        """
        with self._lock:
            if self._opened_at is None:
                return None
            wait = self._wait()
            if wait > 0:
                raise self._refusal(wait)
            self._probe, self._probe_since = call, self._clock.monotonic()
        return functools.partial(events.BreakerHalfOpened, breaker=self.name)

    def _finished(self, call: _Call, error: BaseException | None) -> _Maker | None:
        with self._lock:
            is_probe = call is self._probe
            if is_probe:
                self._probe = None
            elif self._opened_at is not None:
                return None  # a call from before it opened; what it found is no news
            if isinstance(error, self._counts):
                self._failures += 1
                return self._open() if is_probe or self._failures >= self.failure_threshold else None
            if error is None or isinstance(error, Exception):
                return self._close()
            return None  # cancelled or interrupted: neither success nor failure

    def _wait(self) -> float:
        """Seconds until a call can pass; with the lock held."""
        if self._opened_at is None:
            return 0.0
        since = self._opened_at if self._probe is None else self._probe_since
        return since + self.recovery_timeout - self._clock.monotonic()

    def _refusal(self, wait: float) -> ServiceUnavailableError:
        what = "its probe is out" if self._probe else f"{self._failures} calls failed in succession"
        message = f"{self.name or 'circuit breaker'} refuses calls: {what}; the next one can pass in {wait:.3g} s"
        return ServiceUnavailableError(
            message,
            context={"breaker": self.name, "failures": self._failures, "retry_after_seconds": wait},
            suggestions=(f"Call again in {wait:.3g} s or later", "Find out why the service fails"),
        )

    def _open(self) -> _Maker:
        self._opened_at = self._clock.monotonic()
        return functools.partial(
            events.BreakerOpened,
            breaker=self.name,
            failures=self._failures,
            recovery_seconds=self.recovery_timeout,
        )

    def _close(self) -> _Maker | None:
        was_open, self._opened_at, self._failures, self._probe = self._opened_at is not None, None, 0, None
        return functools.partial(events.BreakerClosed, breaker=self.name) if was_open else None


def _announce(event: _Maker | None) -> None:
    if event is not None:
        events.emit(event)


class _Call:
    """One call through a breaker."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker

    def __enter__(self) -> None:
        _announce(self.breaker._admit(self))

    def __exit__(self, _kind: object, error: BaseException | None, _tb: object) -> None:
        _announce(self.breaker._finished(self, error))
