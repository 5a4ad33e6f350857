"""Delivery of events: whatever a hook does, who emits goes on, and what is lost is counted."""

import contextvars
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.events import Event, capture_events, emit, subscribe
from gaudi3_rt.events._delivery import LOG_EVERY, WORKER_NAME

LONG = 30.0  # seconds until a test gives up; none waits for it


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """A step was made."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Saved(Stepped):
    """A special step."""


@dataclass(frozen=True, kw_only=True)
class Other(Event):
    """Something else."""


class Gate:
    """A hook that says when it is called and waits to be let on."""

    def __init__(self):
        self.seen = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, event):
        """Is the hook."""
        self.entered.set()
        assert self.go_on.wait(LONG)
        self.seen.append(event.step)


def workers():
    """How many threads deliver events."""
    return sum(thread.name == WORKER_NAME for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    assert events._dispatch._table.subscriptions == ()
    assert workers() == 0


def test_a_record_is_not_made_without_a_hook_for_it():
    """An event costs nothing until somebody wants it."""
    made = []

    @dataclass(frozen=True, kw_only=True)
    class Counted(Stepped):
        def __post_init__(self):
            made.append(self.step)

    emit(Counted, step=1)
    with capture_events(Other) as captured:
        emit(Counted, step=2)
    assert (made, captured) == ([], [])
    with capture_events(Stepped) as captured:
        emit(Counted, step=3)
    assert made == [3]
    assert [e.step for e in captured] == [3]


def test_kinds():
    """Of classes, their subclasses, and what a function makes."""
    with capture_events(Stepped) as stepped, capture_events(Saved, Other) as some, capture_events() as everything:
        emit(Stepped, step=1)
        emit(Saved, step=2)
        emit(lambda: Saved(step=3))
        emit(Other)
    assert [e.step for e in stepped] == [1, 2, 3]
    assert [type(e) for e in some] == [Saved, Saved, Other]
    assert len(everything) == 4
    emit(Other)
    assert len(everything) == 4


def test_capture_from_many_threads():
    """All of every thread."""
    start = threading.Barrier(8)

    def work(number):
        start.wait(LONG)
        for i in range(500):
            emit(Stepped, step=1000 * number + i)

    with capture_events() as captured:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(e.step for e in captured) == sorted(1000 * n + i for n in range(8) for i in range(500))


def test_inline_is_in_the_thread_that_emits():
    """And is over when emit returns."""
    names = []
    with subscribe(lambda _: names.append(threading.current_thread()), inline=True):
        emit(Other)
    assert names == [threading.current_thread()]


def test_a_slow_hook_delays_nobody_and_close_waits_for_it():
    """In order, in its own thread, all of it."""
    gate = Gate()
    subscription = subscribe(gate)
    assert workers() == 1
    for step in range(5):
        emit(Stepped, step=step)
    assert gate.entered.wait(LONG)
    assert gate.seen == []
    assert not subscription.flush(0.0)
    gate.go_on.set()
    assert subscription.close(LONG)
    assert gate.seen == list(range(5))
    assert (subscription.delivered, subscription.dropped, subscription.closed) == (5, 0, True)
    emit(Stepped, step=9)
    assert subscription.close()
    assert subscription.delivered == 5


def test_flush():
    """What was emitted before it is delivered after it."""
    seen = []
    with subscribe(lambda event: seen.append(event.step)) as subscription:
        for step in range(100):
            emit(Stepped, step=step)
        assert subscription.flush(LONG)
        assert seen == list(range(100))


@pytest.mark.parametrize(("drop", "kept"), [("oldest", [0, 3, 4]), ("newest", [0, 1, 2])])
def test_overflow(drop, kept, caplog):
    """The oldest or the newest are lost, counted, and it is said once."""
    gate = Gate()
    with subscribe(gate, capacity=2, drop=drop) as subscription:
        emit(Stepped, step=0)
        assert gate.entered.wait(LONG)
        for step in range(1, 5):
            emit(Stepped, step=step)
        assert subscription.dropped == 2
        gate.go_on.set()
        assert subscription.flush(LONG)
    assert gate.seen == kept
    assert subscription.delivered == 3
    assert caplog.text.count("is slow: 2 records wait") == 1


def test_close_gives_up_on_a_hook_that_hangs(caplog):
    """What waited is counted as lost."""
    gate = Gate()
    subscription = subscribe(gate)
    for step in range(4):
        emit(Stepped, step=step)
    assert gate.entered.wait(LONG)
    worker = subscription._thread
    assert not subscription.close(0.0)
    assert subscription.dropped == 3
    assert "did not end within 0 s; 3 records" in caplog.text
    gate.go_on.set()
    worker.join(LONG)
    assert gate.seen == [0]


@pytest.mark.parametrize(("inline", "error"), [(True, ValueError), (False, ValueError), (False, SystemExit)])
def test_a_failing_hook(inline, error, caplog):
    """Is logged once in a while, counted, and heard again when it works again."""
    fails = [True] * 9 + [False] + [True] * 9

    def hook(event):
        if fails[event.step]:
            raise error(event.step)

    with subscribe(hook, inline=inline) as subscription:
        for step in range(len(fails)):
            emit(Stepped, step=step)
        subscription.flush(LONG)
        assert (subscription.failed, subscription.delivered) == (18, 1)
        assert not subscription.closed
    assert [r.exc_info[0] for r in caplog.records] == [error]


@pytest.mark.parametrize("inline", [True, False])
def test_a_hook_that_always_fails_is_closed(inline, caplog):
    """After so many in a row; others go on, and it gets nothing of what waited."""
    ready = threading.Event()

    def hook(_):
        assert inline or ready.wait(LONG)
        raise ValueError

    with capture_events() as captured, subscribe(hook, inline=inline, max_failures=3) as subscription:
        for step in range(10):
            emit(Stepped, step=step)
        ready.set()
        subscription.close(LONG)
        assert subscription.failed == 3
        assert subscription.closed
        assert subscription.dropped == (0 if inline else 7)
    assert len(captured) == 10
    assert "failed 3 times in a row" in caplog.text


def test_failures_in_a_row_are_not_all_failures(caplog):
    """One success between begins a new row, and the log says how long the row was."""

    def hook(event):
        if event.step != 1:
            raise ValueError

    with subscribe(hook, inline=True, max_failures=2) as subscription:
        for step in range(4):
            emit(Stepped, step=step)
        assert (subscription.failed, subscription.closed) == (3, True)
    assert "failed 2 times in a row" in caplog.text


def test_failures_are_logged_once_in_so_many(caplog):
    """Not each of a million."""

    def hook(event):
        if event.step % 2:
            raise ValueError

    with subscribe(hook, inline=True) as subscription:
        for step in range(2 * LOG_EVERY + 3):
            emit(Stepped, step=step)
        assert subscription.failed == LOG_EVERY + 1
    assert len(caplog.records) == 2


def test_an_interrupt_is_for_who_emits():
    """Ctrl-C inside an inline hook stops the program, as everywhere."""

    def interrupted(_):
        raise KeyboardInterrupt

    with subscribe(interrupted, inline=True), pytest.raises(KeyboardInterrupt):
        emit(Other)


@pytest.mark.parametrize("inline", [True, False])
def test_a_hook_that_emits_does_not_answer_itself(inline):
    """Two hooks that answer each other end, too; everybody else gets all."""

    def answer(event):
        emit(Stepped, step=event.step + 1)

    def echo(event):
        emit(Saved, step=event.step + 10)

    with capture_events() as captured, subscribe(answer, inline=inline) as a, subscribe(echo, inline=inline) as b:
        emit(Stepped, step=0)
        for one in (a, b, a, b):
            assert one.flush(LONG)
        assert sorted(e.step for e in captured) == [0, 1, 10, 11, 11]


@pytest.mark.parametrize("inline", [True, False])
def test_a_hook_may_close_itself(inline):
    """Inline and in its thread, where nothing can wait for itself."""
    seen = []

    def once(event):
        seen.append(event.step)
        subscription.close()

    subscription = subscribe(once, inline=inline)
    thread = subscription._thread
    emit(Stepped, step=1)
    if thread:
        thread.join(LONG)
    emit(Stepped, step=2)
    assert seen == [1]


def test_hooks_see_the_context_of_who_emits():
    """Also in their own thread: a log's bound step is that of the event."""
    variable = contextvars.ContextVar("variable", default=0)
    seen = []
    with subscribe(lambda event: seen.append((event.step, variable.get()))) as subscription:
        for step in (1, 2):
            variable.set(10 * step)
            emit(Stepped, step=step)
        variable.set(99)
        assert subscription.flush(LONG)
    assert seen == [(1, 10), (2, 20)]


def test_a_signal_handler_may_emit():
    """While its thread is in the middle of emitting: the lock is held by that thread."""
    with subscribe(lambda _: None) as subscription:
        before = signal.signal(signal.SIGUSR1, lambda *_: emit(Other))
        try:
            with subscription._changed:
                os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert subscription.flush(LONG)
        assert subscription.delivered == 1


def run(code):
    """What a fresh interpreter prints."""
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


PRELUDE = """
import os, threading
from dataclasses import dataclass
from gaudi3_rt.events import Event, emit, subscribe
@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    step: int
"""


def test_what_lingers_waits_for_others_and_keeps_its_order():
    """Many records wake the thread once; nothing is lost, and who asks does not wait for it."""
    seen, wakes = [], []
    with subscribe(lambda event: seen.append(event.step), Stepped, capacity=1000, linger=LONG) as subscription:
        notify = subscription._changed.notify_all
        subscription._changed.notify_all = lambda: wakes.append(len(seen)) or notify()
        for i in range(400):
            emit(Stepped, step=i)
        assert len(wakes) <= 1
        assert seen == []
        assert subscription.flush(LONG)
        assert seen == list(range(400))
        emit(Stepped, step=400)
        assert subscription.flush(LONG)
        emit(Stepped, step=401)
    assert seen == list(range(402))


def test_half_a_queue_ends_the_wait():
    """Before records are lost."""
    seen, all_of_them = [], threading.Event()

    def hook(event):
        seen.append(event.step)
        if len(seen) == 5:
            all_of_them.set()

    with subscribe(hook, Stepped, capacity=10, linger=LONG) as subscription:
        for i in range(5):
            emit(Stepped, step=i)
        assert all_of_them.wait(LONG / 2)
        assert subscription.dropped == 0


def test_the_wait_ends_by_itself():
    """A record that comes alone."""
    came = threading.Event()
    with subscribe(lambda _: came.set(), Stepped, linger=0.001):
        emit(Stepped, step=1)
        assert came.wait(LONG)


@pytest.mark.parametrize("linger", [-1.0, float("nan"), float("inf")])
def test_a_wait_is_a_number_of_seconds(linger):
    """From 0 on."""
    with pytest.raises(ParameterValidationError, match=r"linger .* has to be a number of seconds, 0 or more"):
        subscribe(print, linger=linger)


def test_dropped_records_of_all_subscriptions_are_counted():
    """Those of closed ones, too."""
    before = events.dropped()
    with subscribe(lambda _: None, Stepped, capacity=2) as subscription, subscription._changed:
        for i in range(7):
            emit(Stepped, step=i)
    assert (subscription.dropped, events.dropped() - before) == (5, 5)


def test_a_forked_child_delivers():
    """With a thread of its own, also if the parent's was in the middle of something; what waited stays the parent's."""
    out, _ = run(
        PRELUDE
        + """
entered, go_on = threading.Event(), threading.Event()
def hook(event):
    if event.step == 0:
        entered.set(); go_on.wait(60)
    os.write(1, f"{os.getpid() == parent} {event.step}\\n".encode())
parent = os.getpid()
subscription = subscribe(hook)
emit(Stepped, step=0)
entered.wait(60)
emit(Stepped, step=1)
with subscription._changed:  # as if another thread had it at that moment
    child = os.fork()
if child == 0:
    emit(Stepped, step=2)
    os._exit(0 if subscription.close(60) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
go_on.set()
assert subscription.close(60)
"""
    )
    assert out.splitlines() == ["False 2", "True 0", "True 1"]


def test_the_end_of_the_process_waits_for_what_is_queued():
    """A short program loses nothing."""
    out, _ = run(PRELUDE + "subscribe(lambda e: print(e.step))\nfor i in range(50): emit(Stepped, step=i)\n")
    assert out.split() == [str(i) for i in range(50)]


def test_the_end_of_the_process_does_not_wait_for_ever():
    """A hook that hangs delays it by EXIT_TIMEOUT at most."""
    code = (
        "import logging\nfrom gaudi3_rt.events import _dispatch\nlogging.basicConfig()\n_dispatch.EXIT_TIMEOUT = 0.01\n"
        "subscribe(lambda e: threading.Event().wait())\nemit(Stepped, step=1)\nprint('end')\n"
    )
    out, err = run(PRELUDE + code)
    assert out == "end\n"
    assert "did not end within" in err


def test_import_starts_nothing():
    """No thread before the first subscription."""
    out, _ = run("import gaudi3_rt.events, threading; print(threading.active_count())")
    assert out == "1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3,), {}), "hook 3 has to be callable"),
        (((print, int), {}), "have to be subclasses of Event"),
        (((print, Other(time=0.0)), {}), "have to be subclasses of Event"),
        (((print,), {"capacity": 0}), "capacity 0 has to be at least 1"),
        (((print,), {"max_failures": 0}), "max_failures 0 has to be at least 1"),
        (((print,), {"drop": "all"}), "drop 'all' has to be 'oldest' or 'newest'"),
    ],
)
def test_wrong_arguments(arguments, message):
    """One clear error, and nothing is subscribed."""
    positional, named = arguments
    with pytest.raises(ParameterValidationError, match=message):
        subscribe(*positional, **named)


def test_many_subscribe_and_close_at_once():
    """None is lost: the table is replaced under a lock."""
    start = threading.Barrier(8)

    def work():
        start.wait(LONG)
        for _ in range(100):
            with subscribe(lambda _: None, inline=True) as one:
                emit(Other)
                assert one.delivered >= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True)
def _levels(caplog):
    caplog.set_level(logging.INFO)
