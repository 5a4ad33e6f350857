"""When a call is made again: attempts, delays, which errors, within which budget."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tenacity

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import Classification, Gaudi3RTError, HPUMemoryError, ParameterValidationError, classify
from gaudi3_rt.retry._budget import RetryBudget
from gaudi3_rt.retry._calls import is_async, name_of, refuse_coroutine
from gaudi3_rt.retry._strategies import Strategy, jittered, wait_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When and how often a call is made again.

    Attributes:
        max_attempts: calls in all, the first one included.
        strategy: how delays grow, or a function from the number of the failed attempt (from 1) to seconds.
        base_delay: the first delay, in seconds, before jitter.
        multiplier: growth of ``Strategy.EXPONENTIAL``.
        max_delay: no delay is longer, in seconds.
        jitter: the part of each delay that is random, 0 to 1: a delay d becomes one from (1 - jitter) d to d.
        retryable_exceptions: only these are retried, a class or a tuple; without it, what ``errors.classify`` calls
            retryable. ``KeyboardInterrupt``, ``SystemExit`` and cancellation are never retried, and neither is a
            device that ran out of memory, because the same shapes fail again.
        budget: shared bound on retries.
        clock: where sleep comes from, for plain functions.
        async_sleep: likewise for async functions.
        rng: where jitter comes from.

    Raises:
        ParameterValidationError: a value is out of range, or names what is never retried.
    """

    max_attempts: int = 3
    strategy: Strategy | Callable[[int], float] = Strategy.EXPONENTIAL
    base_delay: float = 1.0
    multiplier: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.5
    retryable_exceptions: type[Exception] | tuple[type[Exception], ...] | None = None
    budget: RetryBudget | None = None
    clock: Clock = time
    async_sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "max_attempts": (1, math.inf),
            "base_delay": (0, math.inf),
            "multiplier": (1, math.inf),
            "max_delay": (0, math.inf),
            "jitter": (0, 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:  # false for NaN too
                message = f"{name} is {value!r}; it has to be from {low} to {high}"
                raise ParameterValidationError(message, context={"parameter": name})
        if not isinstance(self.strategy, Strategy) and not callable(self.strategy):
            message = f"strategy is {self.strategy!r}; it has to be a Strategy or a function from attempt to seconds"
            raise ParameterValidationError(message, context={"parameter": "strategy"})
        for kind in self._named() or ():
            _check_retryable(kind)

    def _named(self) -> tuple[type[Exception], ...] | None:
        named = self.retryable_exceptions
        return named if named is None or isinstance(named, tuple) else (named,)

    def allows(self, error: BaseException, found: Classification) -> bool:
        """Whether a call that ended with ``error``, which means ``found``, may be made again."""
        if not isinstance(error, Exception) or isinstance(error, concurrent.futures.CancelledError):
            return False
        if issubclass(found.error, HPUMemoryError):
            return False
        named = self._named()
        return found.retryable if named is None else isinstance(error, named)


def _check_retryable(kind: Any) -> None:
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        message = f"retryable_exceptions names {kind!r}, which is no class of exceptions"
    elif issubclass(kind, HPUMemoryError):
        message = "HPUMemoryError cannot be retried: the same shapes fail again. Catch it, and call with smaller ones"
    elif not issubclass(kind, Exception):
        message = f"retryable_exceptions names {kind.__name__}, which ends a program or a task and is never retried"
    else:
        return
    raise ParameterValidationError(message, context={"parameter": "retryable_exceptions"})


DEFAULT = RetryPolicy()


def retry_on_failure(
    max_attempts: int = 3,
    strategy: Strategy | Callable[[int], float] = Strategy.EXPONENTIAL,
    *,
    base_delay: float = 1.0,
    multiplier: float = 2.0,
    max_delay: float = 60.0,
    retryable_exceptions: type[Exception] | tuple[type[Exception], ...] | None = None,
    jitter: float = 0.5,
    budget: RetryBudget | None = None,
    clock: Clock = time,
    async_sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    rng: random.Random | None = None,
) -> Callable[[_Function], _Function]:
    """A decorator for a plain or an async function, which is called again after errors that may pass.

    The arguments are those of :class:`RetryPolicy`. When no attempt succeeds, the last error is raised as it is, with
    the number of attempts as a note and, for errors of gaudi3_rt, in its context. Every retry is an event,
    ``RetryScheduled``; giving up is ``RetryExhausted``.

    Never put it around a kernel or a training step: see ``docs/retry.md`` for what a call costs.

    Raises:
        ParameterValidationError: an argument is out of range, or the decorated thing is a generator.
    """
    if callable(max_attempts):
        message = "write the parentheses: @retry_on_failure()"
        raise ParameterValidationError(message)
    policy = RetryPolicy(
        max_attempts=max_attempts,
        strategy=strategy,
        base_delay=base_delay,
        multiplier=multiplier,
        max_delay=max_delay,
        jitter=jitter,
        retryable_exceptions=retryable_exceptions,
        budget=budget,
        clock=clock,
        async_sleep=async_sleep,
        rng=rng or random.Random(),  # noqa: S311 (spreads calls over time)
    )
    return functools.partial(_decorated, policy)


def execute_with_retry(function: Callable[..., _T], /, *args: Any, policy: RetryPolicy = DEFAULT, **kwargs: Any) -> _T:
    """Calls a plain function as :func:`retry_on_failure` would; ``policy`` is not handed on to it.

    Raises:
        ParameterValidationError: it is async, or a generator.
    """
    if is_async(function):
        message = f"{name_of(function)} is async; use execute_with_retry_async"
        raise ParameterValidationError(message)
    result: _T = _Attempts(policy, function).run(args, kwargs)
    return result


async def execute_with_retry_async(
    function: Callable[..., Awaitable[_T]], /, *args: Any, policy: RetryPolicy = DEFAULT, **kwargs: Any
) -> _T:
    """Awaits a function's result as :func:`retry_on_failure` would; ``policy`` is not handed on to it.

    Raises:
        ParameterValidationError: it is a generator.
    """
    is_async(function)
    result: _T = await _Attempts(policy, function).run_async(args, kwargs)
    return result


def _decorated(policy: RetryPolicy, function: _Function) -> _Function:
    decorated: Any
    if is_async(function):

        @functools.wraps(function)
        async def decorated(*args: Any, **kwargs: Any) -> Any:
            return await _Attempts(policy, function).run_async(args, kwargs)
    else:

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            return _Attempts(policy, function).run(args, kwargs)

    result: _Function = decorated
    return result


class _Attempts:
    """One call with all its attempts: tenacity's questions, answered by the policy."""

    def __init__(self, policy: RetryPolicy, function: Callable[..., Any]) -> None:
        self.policy = policy
        self.function = function
        self.found: Classification | None = None  # of the last error

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._call(args, kwargs)
        except Exception as error:  # noqa: BLE001 (tenacity asks the policy what it is)
            failed = [error]

        # tenacity costs more than most calls, so it is asked only after a failure, which it then sees as its first.
        def attempt() -> Any:
            if failed:
                raise failed.pop()
            return self._call(args, kwargs)

        return tenacity.Retrying(sleep=self.policy.clock.sleep, **self._answers())(attempt)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.function(*args, **kwargs)
        refuse_coroutine(result, self.function)
        return result

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return await self.function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (same)
            failed = [error]

        async def attempt() -> Any:
            if failed:
                raise failed.pop()
            return await self.function(*args, **kwargs)

        return await tenacity.AsyncRetrying(sleep=self.policy.async_sleep, **self._answers())(attempt)

    def _answers(self) -> dict[str, Any]:
        return {
            "retry": self._may_be_retried,
            "stop": self._is_over,
            "wait": self._delay,
            "before_sleep": self._announce,
            "reraise": True,
        }

    def _may_be_retried(self, state: tenacity.RetryCallState) -> bool:
        error = _error(state)
        if error is None:
            return False
        self.found = classify(error)
        if self.policy.allows(error, self.found):
            return True
        if state.attempt_number > 1:
            self._give_up(state, "not retryable")
        return False

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        if state.attempt_number >= self.policy.max_attempts:
            self._give_up(state, "attempts")
            return True
        if self.policy.budget is not None and not self.policy.budget.spend(self._kind(state)):
            self._give_up(state, "budget")
            return True
        return False

    def _kind(self, state: tenacity.RetryCallState) -> type[BaseException]:
        """What a budget counts: errors of one meaning together, those that nothing is known of by their class."""
        found = self._meaning()
        return found.error if found.recognized else type(_error(state) or Exception())

    def _delay(self, state: tenacity.RetryCallState) -> float:
        policy, error = self.policy, _error(state)
        wait = wait_of(policy.strategy, policy.base_delay, policy.multiplier, policy.max_delay)
        try:
            delay = jittered(wait(state), policy.jitter, policy.rng)
        except Exception as wrong:
            raise wrong from error  # a strategy that fails does not hide what it was asked about
        return max(delay, min(_asked(error), policy.max_delay))  # a service that says how long knows best

    def _announce(self, state: tenacity.RetryCallState) -> None:
        events.emit(
            events.RetryScheduled,
            function=name_of(self.function),
            attempt=state.attempt_number,
            max_attempts=self.policy.max_attempts,
            delay_seconds=state.upcoming_sleep,
            error=type(_error(state)).__name__,
            code=self._meaning().code,
        )

    def _give_up(self, state: tenacity.RetryCallState, reason: str) -> None:
        error, attempts = _error(state), state.attempt_number
        if isinstance(error, Gaudi3RTError):
            error.context.setdefault("attempts", attempts)
        if attempts > 1 and (add_note := getattr(error, "add_note", None)):  # Python 3.11 on
            add_note(f"{name_of(self.function)} was called {attempts} times; given up: {reason}")
        events.emit(
            events.RetryExhausted,
            function=name_of(self.function),
            attempts=attempts,
            reason=reason,
            error=type(error).__name__,
            code=self._meaning().code,
        )

    def _meaning(self) -> Classification:
        assert self.found is not None  # noqa: S101 (tenacity asks whether to retry before anything else)
        return self.found


def _asked(error: BaseException | None) -> float:
    """Seconds that a service wants to be left alone; 0 if it does not say so with a number."""
    asked = error.context.get("retry_after_seconds") if isinstance(error, Gaudi3RTError) else None
    return asked if isinstance(asked, int | float) and asked > 0 else 0.0


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
