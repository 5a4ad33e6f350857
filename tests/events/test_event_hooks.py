"""Hooks that fail, hang, emit, close themselves: who emits goes on."""

import contextvars
import os
import signal
import threading

import pytest
from _delivered import LONG, Gate, Other, Saved, Stepped

from gaudi3_rt.events import capture_events, emit, subscribe
from gaudi3_rt.events._delivery import LOG_EVERY


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


def test_a_record_that_comes_as_the_subscription_is_closed(monkeypatch):
    """By another thread, in the middle of emit: it is not put into a queue that nobody empties."""
    seen, copy = [], contextvars.copy_context
    subscription = subscribe(seen.append)
    monkeypatch.setattr(contextvars, "copy_context", lambda: subscription.close() and copy())
    emit(Other)
    assert subscription.flush(0.0)
    assert (seen, subscription.dropped) == ([], 0)
