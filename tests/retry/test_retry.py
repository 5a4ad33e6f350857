"""Retries: which errors, how often, after what delays, with which events; the same for plain and async functions."""

import asyncio
import concurrent.futures
import errno
import functools
import inspect
import logging
import random
import sys
import threading
import traceback

import pytest
from _retry_clock import FakeClock

from gaudi3_rt import errors, events, log
from gaudi3_rt.retry import (
    RetryBudget,
    RetryPolicy,
    Strategy,
    execute_with_retry,
    execute_with_retry_async,
    retry_on_failure,
)


@pytest.fixture
def clock():
    """Time that stands still."""
    return FakeClock()


@pytest.fixture(params=["plain", "async"])
def call(request, clock):
    """Calls a function that raises these errors in turn and then returns its argument; how often it was called."""

    def call(failures, argument="done", **options):
        failures = list(failures)
        calls = []

        def service(value):
            calls.append(value)
            if failures:
                raise failures.pop(0)
            return value

        async def async_service(value):
            await asyncio.sleep(0)
            return service(value)

        decorate = retry_on_failure(**{"jitter": 0, "clock": clock, "async_sleep": clock.async_sleep, **options})
        call.count = lambda: len(calls)
        if request.param == "plain":
            return decorate(service)(argument)
        return asyncio.run(decorate(async_service)(argument))

    return call


@pytest.fixture
def recorded():
    """All events."""
    seen = []
    with events.subscribe(seen.append, inline=True):
        yield seen


def test_success_after_failures(call, clock, recorded):
    """The value, the delays, and one event for each retry."""
    assert call([ConnectionResetError(), TimeoutError()]) == "done"
    assert clock.slept == [1.0, 2.0]
    assert [(e.attempt, e.max_attempts, e.delay_seconds, e.error, e.code) for e in recorded] == [
        (1, 3, 1.0, "ConnectionResetError", 6001),
        (2, 3, 2.0, "TimeoutError", 6001),
    ]
    assert {type(e) for e in recorded} == {events.RetryScheduled}
    assert recorded[0].function.endswith("service")


def test_last_error_is_raised_as_itself(call, clock, recorded):
    """Not wrapped; with the number of attempts."""
    last = errors.ServiceUnavailableError("third")
    with pytest.raises(errors.ServiceUnavailableError) as caught:
        call([errors.NetworkError("first"), errors.NetworkError("second"), last, errors.NetworkError("never")])
    assert caught.value is last
    assert last.context["attempts"] == 3
    assert call.count() == 3
    assert clock.slept == [1.0, 2.0]
    assert isinstance(recorded[-1], events.RetryExhausted)
    assert (recorded[-1].attempts, recorded[-1].reason, recorded[-1].code) == (3, "attempts", 6002)
    if sys.version_info >= (3, 11):
        assert "was called 3 times; given up: attempts" in "".join(traceback.format_exception(last))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError(errno.ENOSPC, "full"),
        RuntimeError("synStatus=26 [Generic failure] Device acquire failed."),
        errors.NetworkError("x", retryable=False),
        errors.TrainingStepError("x"),
        concurrent.futures.CancelledError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_is_not_retryable_is_raised_at_once(call, clock, recorded, error):
    """A bug, a full disk, what says so itself."""
    with pytest.raises(type(error)) as caught:
        call([error])
    assert caught.value is error
    assert (call.count(), clock.slept, recorded) == (1, [], [])


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, concurrent.futures.CancelledError]
)
def test_interrupts_and_cancellation_are_never_retried(call, kind):
    """Whatever is named."""
    with pytest.raises(kind):
        call([kind()], retryable_exceptions=Exception)
    assert call.count() == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::268435456 (256)MB"),
        RuntimeError("MODULE:SYNHELPER workspace Allocation of size ::14493510400 failed!"),
        errors.HPUMemoryError("full", retryable=True),
    ],
    ids=["foreign", "workspace", "ours"],
)
def test_device_out_of_memory_is_never_retried(call, error):
    """The same shapes fail again, also when their class is named or they say otherwise."""
    with pytest.raises(type(error)):
        call([error], retryable_exceptions=(RuntimeError, errors.HardwareError))
    assert call.count() == 1


def test_named_exceptions_replace_the_classification(call):
    """Only those, with their subclasses."""
    assert call([KeyError(), LookupError()], retryable_exceptions=LookupError) == "done"
    with pytest.raises(ConnectionResetError):
        call([ConnectionResetError()], retryable_exceptions=(LookupError, ValueError))


def test_error_that_stops_being_retryable(call, recorded):
    """A retry that meets another error ends with that one."""
    with pytest.raises(ValueError, match="bug"):
        call([TimeoutError(), ValueError("bug")])
    assert call.count() == 2
    assert (recorded[-1].reason, recorded[-1].attempts) == ("not retryable", 2)


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        (Strategy.EXPONENTIAL, [0.5, 1.5, 4.5, 10, 10, 10]),
        (Strategy.LINEAR, [0.5, 1, 1.5, 2, 2.5, 3]),
        (Strategy.FIBONACCI, [0.5, 0.5, 1, 1.5, 2.5, 4]),
        (Strategy.FIXED, [0.5] * 6),
        (lambda attempt: 7.0 * attempt - 8, [0, 6, 10, 10, 10, 10]),
    ],
    ids=["exponential", "linear", "fibonacci", "fixed", "custom"],
)
def test_strategies(call, clock, strategy, delays):
    """Delays in seconds, none above the longest."""
    call([TimeoutError()] * 6, max_attempts=7, strategy=strategy, base_delay=0.5, multiplier=3, max_delay=10)
    assert clock.slept == pytest.approx(delays)


@pytest.mark.parametrize(
    ("strategy", "raised"),
    [(lambda _: float("nan"), errors.ParameterValidationError), (lambda attempt: {}[attempt], KeyError)],
    ids=["nan", "raises"],
)
def test_a_strategy_that_fails_hides_nothing(call, clock, strategy, raised):
    """Its error has the one that was to be retried as its cause."""
    first = TimeoutError("first")
    with pytest.raises(raised) as caught:
        call([first], strategy=strategy)
    assert caught.value.__cause__ is first
    assert clock.slept == []


def test_many_attempts_do_not_overflow(call, clock):
    """Growth ends at the longest delay."""
    for strategy in Strategy:
        call([TimeoutError()] * 2000, max_attempts=2001, strategy=strategy)
    assert max(clock.slept) == 60


def test_jitter_is_bounded_and_reproducible(clock):
    """From (1 - jitter) d to d, the same for the same seed."""

    def delays(seed, jitter):
        clock.slept.clear()
        policy = RetryPolicy(
            max_attempts=200, strategy=Strategy.FIXED, base_delay=8, jitter=jitter, clock=clock, rng=random.Random(seed)
        )
        with pytest.raises(TimeoutError):
            execute_with_retry(fails, policy=policy)
        return list(clock.slept)

    quarter = delays(1, 0.25)
    assert 6 <= min(quarter) < 6.1
    assert 7.9 < max(quarter) <= 8
    assert quarter == delays(1, 0.25) != delays(2, 0.25)
    assert min(delays(1, 1)) < 0.2


def fails():
    """Always."""
    raise TimeoutError


def test_service_says_how_long_to_wait(call, clock):
    """Its word counts if it is longer, up to the longest delay."""
    error = functools.partial(errors.ServiceUnavailableError, "x")
    call([error(context={"retry_after_seconds": 9}), error(context={"retry_after_seconds": 1000})], max_delay=20)
    assert clock.slept == [9, 20]


@pytest.mark.parametrize("asked", ["120", None, float("nan"), -5, [1]])
def test_service_that_says_it_in_other_words(call, clock, asked):
    """What is no number of seconds changes nothing, least of all which error is raised."""
    assert call([errors.ServiceUnavailableError("x", context={"retry_after_seconds": asked})]) == "done"
    assert clock.slept == [1]


def test_a_retry_is_one_entry_of_the_log(call, caplog):
    """It is an event, and the log writes events: that it is said by the module too would be twice."""
    with caplog.at_level(logging.DEBUG, logger="gaudi3_rt"), log.subscribe():
        call([TimeoutError()])
        with pytest.raises(TimeoutError):
            call([TimeoutError()] * 9, max_attempts=2)
    entries = [r for r in caplog.records if r.name.startswith("gaudi3_rt")]  # asyncio may have something to say, too
    assert [(r.message, r.levelname) for r in entries] == [
        ("retry_scheduled", "WARNING"),
        ("retry_scheduled", "WARNING"),
        ("retry_exhausted", "WARNING"),
    ]


def test_budget_is_shared_and_per_class(clock, recorded):
    """Two places, one service: together as many retries as the budget has, then the errors themselves."""
    budget = RetryBudget(3, window=60, clock=clock)
    policy = RetryPolicy(max_attempts=3, jitter=0, base_delay=1, budget=budget, clock=clock)

    def full_pipe():
        raise errors.ServiceUnavailableError("x")  # noqa: EM101 (says nothing)

    counts = []
    for function in (fails, fails, full_pipe, fails):
        recorded.clear()
        with pytest.raises((TimeoutError, errors.ServiceUnavailableError)) as caught:
            execute_with_retry(function, policy=policy)
        assert type(caught.value) is (TimeoutError if function is fails else errors.ServiceUnavailableError)
        counts.append((sum(isinstance(e, events.RetryScheduled) for e in recorded), recorded[-1].reason))
    assert counts == [(2, "attempts"), (1, "budget"), (2, "attempts"), (0, "budget")]
    clock.now += 60
    assert budget.left(errors.NetworkConnectionError) == 3


def test_budget_counts_threads_once(clock):
    """As many as there are, whoever asks."""
    budget = RetryBudget(50, clock=clock)
    taken = []
    barrier = threading.Barrier(8)

    def spend():
        barrier.wait()
        taken.extend(budget.spend(TimeoutError) for _ in range(20))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (taken.count(True), taken.count(False)) == (50, 110)


def test_execute_hands_arguments_on(clock):
    """Positional and named, plain and async."""

    def add(a, b=0):
        return a + b

    async def add_async(a, b=0):
        return a + b

    assert execute_with_retry(add, 1, b=2, policy=RetryPolicy(clock=clock)) == 3
    assert asyncio.run(execute_with_retry_async(add_async, 1, b=2)) == 3
    assert asyncio.run(execute_with_retry_async(functools.partial(add_async, 1), b=2)) == 3


def test_decorated_function_keeps_its_name_and_kind():
    """For tools that look."""

    @retry_on_failure()
    async def fetch():
        """Fetches."""

    @retry_on_failure()
    def load():
        """Loads."""

    assert inspect.iscoroutinefunction(fetch)
    assert not inspect.iscoroutinefunction(load)
    assert (fetch.__name__, load.__doc__) == ("fetch", "Loads.")


def items():
    """A generator."""
    yield 1


async def async_items():
    """An async generator."""
    yield 1


async def coroutine():
    """An async function."""


def plain():
    """A plain function that hides one."""
    return coroutine()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: retry_on_failure()(items), "items is a generator"),
        (lambda: retry_on_failure()(async_items), "async_items is a generator"),
        (lambda: retry_on_failure()(functools.partial(items)), "items is a generator"),
        (lambda: retry_on_failure(fails), "write the parentheses"),
        (lambda: retry_on_failure()(3), "a function is needed, not 3"),
        (lambda: execute_with_retry(coroutine), "use execute_with_retry_async"),
        (retry_on_failure()(plain), "plain returns a coroutine"),
        (lambda: retry_on_failure(0), "max_attempts is 0"),
        (lambda: retry_on_failure("3"), "max_attempts is '3'; it has to be from 1"),
        (lambda: retry_on_failure(jitter=2), "jitter is 2; it has to be from 0 to 1"),
        (lambda: retry_on_failure(base_delay=-1), "base_delay is -1"),
        (lambda: retry_on_failure(max_delay=float("nan")), "max_delay is nan"),
        (lambda: retry_on_failure(multiplier=0.5), "multiplier is 0.5"),
        (lambda: retry_on_failure(strategy="exponential"), "strategy is 'exponential'"),
        (lambda: retry_on_failure(retryable_exceptions=KeyboardInterrupt), "KeyboardInterrupt, which ends"),
        (lambda: retry_on_failure(retryable_exceptions=(OSError, asyncio.CancelledError)), "CancelledError, which"),
        (lambda: retry_on_failure(retryable_exceptions=errors.HPUMemoryError), "HPUMemoryError cannot be retried"),
        (lambda: retry_on_failure(retryable_exceptions="TimeoutError"), "no class of exceptions"),
        (lambda: RetryBudget(-1), "limit of 0 or more"),
        (lambda: RetryBudget(1, window=0), "window above 0"),
        (lambda: RetryBudget(1, window=float("nan")), "window above 0"),
    ],
)
def test_wrong_use_is_one_clear_error(use, message):
    """When it is decorated, if that can be."""
    with pytest.raises(errors.ParameterValidationError, match=message):
        use()


def test_no_tenacity_error_without_a_failure(call, recorded):
    """One attempt that succeeds is one call, and no event."""
    assert call([], argument=None) is None
    assert call([], argument=errors.NetworkError("a value")).code == 6000
    assert recorded == []
    with pytest.raises(TimeoutError):
        call([TimeoutError()], max_attempts=1)
    assert [type(e) for e in recorded] == [events.RetryExhausted]
