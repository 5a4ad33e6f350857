"""The circuit breaker: when it opens, and that exactly one call finds out whether the service is back."""

import asyncio
import signal
import threading

import pytest
from _retry_clock import FakeClock
from _threads import child_succeeds

from gaudi3_rt import errors, events
from gaudi3_rt.retry import BreakerState, CircuitBreaker, RetryBudget, RetryPolicy, execute_with_retry


@pytest.fixture
def clock():
    """Time that stands still."""
    return FakeClock()


@pytest.fixture
def breaker(clock):
    """Opens after three failures, for ten seconds."""
    return CircuitBreaker(3, 10, name="store", clock=clock)


@pytest.fixture
def recorded():
    """Names of the events."""
    seen = []
    with events.subscribe(lambda event: seen.append(type(event).__name__), inline=True):
        yield seen


def use(breaker, error=None):
    """One call."""
    with breaker:
        if error is not None:
            raise error


def fail(breaker, times=3):
    """Failures in succession."""
    for _ in range(times):
        with pytest.raises(OSError, match="down"):
            use(breaker, OSError("down"))


def test_life_of_a_breaker(breaker, clock, recorded):
    """Closed, open, half open, open again, half open, closed."""
    fail(breaker, 2)
    use(breaker)
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    clock.now += 4
    with pytest.raises(errors.ServiceUnavailableError, match="store refuses calls: 3 calls failed") as refused:
        use(breaker)
    assert refused.value.context == {"breaker": "store", "failures": 3, "retry_after_seconds": 6}
    assert refused.value.retryable
    assert breaker.seconds_until_probe == 6
    clock.now += 6
    assert breaker.state is BreakerState.HALF_OPEN
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    clock.now += 9.9
    assert breaker.state is BreakerState.OPEN
    clock.now += 0.2
    use(breaker)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    assert recorded == ["BreakerOpened", "BreakerHalfOpened", "BreakerOpened", "BreakerHalfOpened", "BreakerClosed"]


def test_one_probe_among_20_threads(breaker, clock):
    """One goes through; the others are refused while it is out, and told when to come back."""
    fail(breaker)
    clock.now += 10
    through, refused = [], []
    everyone_has_asked, at_once = threading.Event(), threading.Barrier(20)

    @breaker
    def probe():
        through.append(threading.get_ident())
        assert everyone_has_asked.wait(60)

    def call():
        at_once.wait()
        try:
            probe()
        except errors.ServiceUnavailableError as error:
            refused.append(error)
            if len(refused) == 19:
                everyone_has_asked.set()

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (len(through), len(refused)) == (1, 19)
    assert {error.context["retry_after_seconds"] for error in refused} == {10}
    assert "its probe is out" in str(refused[0])
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_waits_for_no_lock_of_its_parent(breaker):
    """A worker of a data loader, for example, which was forked while another thread made a call."""
    budget = RetryBudget(3)
    assert child_succeeds(lambda: budget.spend(OSError), budget._lock)
    assert child_succeeds(lambda: use(breaker) is None, breaker._lock)


@pytest.mark.parametrize("form", ["decorator", "async with", "with"])
def test_one_probe_among_20_tasks(breaker, clock, form):
    """The same for asyncio, in every form."""
    fail(breaker)
    clock.now += 10
    through = []

    async def body(everyone_has_asked):
        through.append(1)
        await everyone_has_asked.wait()

    async def call(everyone_has_asked):
        if form == "decorator":
            await breaker(body)(everyone_has_asked)
        elif form == "with":
            with breaker:
                await body(everyone_has_asked)
        else:
            async with breaker:
                await body(everyone_has_asked)

    async def main():
        everyone_has_asked = asyncio.Event()
        tasks = [asyncio.ensure_future(call(everyone_has_asked)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        everyone_has_asked.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert len(through) == 1
    assert sum(isinstance(result, errors.ServiceUnavailableError) for result in results) == 19
    assert breaker.state is BreakerState.CLOSED


def test_cancelled_probe_frees_the_gate(breaker, clock):
    """It says nothing about the service, so the next call is a probe at once."""
    fail(breaker)
    clock.now += 10

    @breaker
    async def hang():
        await asyncio.Event().wait()

    async def main():
        task = asyncio.ensure_future(hang())
        await asyncio.sleep(0)
        assert breaker.seconds_until_probe == 10
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.seconds_until_probe == 0
    with pytest.raises(KeyboardInterrupt):
        use(breaker, KeyboardInterrupt())
    use(breaker)
    assert breaker.state is BreakerState.CLOSED


def test_interrupts_do_not_close_or_count(breaker):
    """Ctrl-C between failures neither forgives nor adds."""
    fail(breaker, 2)
    with pytest.raises(KeyboardInterrupt):
        use(breaker, KeyboardInterrupt())
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_probe_that_never_returns(breaker, clock):
    """After another timeout somebody else may try; what the lost one says later counts like any call."""
    fail(breaker)
    clock.now += 10

    @breaker
    def hang():
        clock.now += 9
        with pytest.raises(errors.ServiceUnavailableError):
            use(breaker)
        clock.now += 1
        use(breaker)
        assert breaker.state is BreakerState.CLOSED
        fail(breaker, 2)
        raise OSError("down")  # noqa: EM101 (says nothing)

    with pytest.raises(OSError, match="down"):
        hang()
    assert breaker.state is BreakerState.OPEN


def test_late_result_of_an_old_call(breaker, clock):
    """A call that began before the breaker opened changes nothing when it ends."""
    with breaker:
        fail(breaker)
        assert breaker.state is BreakerState.OPEN
    assert breaker.state is BreakerState.OPEN
    clock.now += 10
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_signal_handler_may_call():
    """Also while its own thread looks at the clock, with the lock held."""
    seen = []

    class Signalling(FakeClock):
        def monotonic(self):
            if not seen:
                seen.append("inside")
                signal.raise_signal(signal.SIGUSR1)
            return super().monotonic()

    def handler(*_):
        seen.append((breaker.state, budget.spend(OSError)))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        clock = Signalling()
        breaker, budget = CircuitBreaker(1, 10, clock=clock), RetryBudget(4, clock=clock)
        fail(breaker, 1)
        seen.clear()
        budget.spend(OSError)
        assert seen == ["inside", (BreakerState.OPEN, True)]
        seen.clear()
        assert breaker.state is BreakerState.OPEN
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["inside", (BreakerState.OPEN, True)]
    assert budget.left(OSError) == 0


def test_only_named_failures_count(clock):
    """An answer that is an error of the caller is still an answer."""
    breaker = CircuitBreaker(1, 10, failures=ConnectionError, clock=clock)
    with pytest.raises(KeyError):
        use(breaker, KeyError())
    assert breaker.state is BreakerState.CLOSED
    with pytest.raises(ConnectionError):
        use(breaker, ConnectionResetError())
    assert breaker.state is BreakerState.OPEN
    breaker.reset()
    assert breaker.state is BreakerState.CLOSED


def test_decorator_hands_values_on(breaker):
    """And takes the function's name if it has none."""
    unnamed = CircuitBreaker()

    @unnamed
    def double(x, *, y=0):
        return 2 * x + y

    assert double(3, y=1) == 7
    assert unnamed.name.endswith("double")
    assert breaker(lambda: 5)() == 5


def test_retry_waits_for_the_breaker(breaker, clock):
    """A refused call is tried again when the breaker lets one through."""
    fail(breaker)
    policy = RetryPolicy(jitter=0, base_delay=0.1, clock=clock)
    assert execute_with_retry(breaker(lambda: "back"), policy=policy) == "back"
    assert clock.slept == [10]


def test_hook_may_use_the_breaker(breaker):
    """Events are told without the lock."""
    states = []
    with events.subscribe(lambda _: states.append(breaker.state), inline=True):
        fail(breaker)
    assert states == [BreakerState.OPEN]


def numbers():
    """A generator."""
    yield 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CircuitBreaker(0), "failure_threshold of 1 or more"),
        (lambda: CircuitBreaker(failures="OSError"), "failures names 'OSError'"),
        (lambda: CircuitBreaker(failures=(OSError, KeyboardInterrupt)), "failures names .*KeyboardInterrupt"),
        (lambda: CircuitBreaker(recovery_timeout=0), "recovery_timeout above 0"),
        (lambda: CircuitBreaker(recovery_timeout=float("nan")), "recovery_timeout above 0"),
        (lambda: CircuitBreaker()(numbers), "is a generator"),
    ],
)
def test_wrong_use_is_one_clear_error(wrong, message):
    """Before anything is called."""
    with pytest.raises(errors.ParameterValidationError, match=message):
        wrong()
