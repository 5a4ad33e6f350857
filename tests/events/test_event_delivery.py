"""Delivery of events: who gets which, in which thread, and what is lost is counted."""

import threading
from dataclasses import dataclass

import pytest
from _delivered import LONG, Gate, Other, Saved, Stepped, workers

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.events import capture_events, emit, subscribe


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
