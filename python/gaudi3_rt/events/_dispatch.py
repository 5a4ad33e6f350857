"""Who receives which records: subscriptions, and emitting to them without being stopped by any."""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.events._delivery import Drop, Hook, Subscription, reset_counting
from gaudi3_rt.events._records import Event

EXIT_TIMEOUT = 2.0
"""Seconds that hooks have at the end of the process, all together, for what still waits in their queues."""

_P = ParamSpec("_P")


class _Table:
    """All subscriptions, and which of them take a kind of record. Replaced as a whole, so that emit needs no lock."""

    def __init__(self, subscriptions: tuple[Subscription, ...] = ()) -> None:
        self.subscriptions = subscriptions
        self._takers: dict[type[Event], tuple[Subscription, ...]] = {}

    def takers(self, kind: type[Event]) -> tuple[Subscription, ...]:
        found = self._takers.get(kind)
        if found is None:
            found = tuple(one for one in self.subscriptions if issubclass(kind, one.kinds))
            self._takers[kind] = found
        return found


_table = _Table()
_changing = threading.RLock()


def emit(kind: Callable[_P, Event], *args: _P.args, **fields: _P.kwargs) -> None:
    """Make a record of ``kind`` and deliver it. Without a hook that takes such records it is not even made."""
    table = _table
    if not table.subscriptions or (isinstance(kind, type) and not table.takers(kind)):
        return
    event = kind(*args, **fields)
    for subscription in table.takers(type(event)):
        subscription.deliver(event)


def subscribe(
    hook: Hook,
    *kinds: type[Event],
    inline: bool = False,
    capacity: int = 1024,
    drop: Drop = "oldest",
    max_failures: int = 10,
    linger: float = 0.0,
) -> Subscription:
    """Deliver records of these kinds (all, if none is given) to ``hook`` until the subscription is closed.

    By default a thread of the subscription calls the hook, in the emitter's context (:mod:`contextvars`), one record
    after the other: a slow hook loses records and delays nobody. What a hook emits in turn does not come back to it. In
    a forked child the thread is started anew by the first record. At the end of the process what waits is delivered,
    for ``EXIT_TIMEOUT`` seconds at most.

    Args:
        hook: is called with each record. What it raises is logged and counted.
        *kinds: classes of records; their subclasses count.
        inline: call the hook in the thread that emits, which waits for it: for hooks that need microseconds.
        capacity: how many records may wait.
        drop: which record is lost when one more comes, the ``"oldest"`` that waits or the ``"newest"``.
        max_failures: after so many failures in a row the subscription is closed.
        linger: seconds for which a record may wait for others, so that who emits many wakes a thread for few. What
            fills half of the queue, ``flush`` and ``close`` end the wait.

    Raises:
        ParameterValidationError: the hook cannot be called, a kind is no class of records, or a number is below 1 or,
            for ``linger``, below 0 or not finite.
    """
    for what, allowed in (
        (f"hook {hook!r} has to be callable", callable(hook)),
        (f"kinds {kinds!r} have to be subclasses of Event", all(map(_is_kind, kinds))),
        (f"capacity {capacity!r} has to be at least 1", capacity >= 1),
        (f"drop {drop!r} has to be 'oldest' or 'newest'", drop in {"oldest", "newest"}),
        (f"max_failures {max_failures!r} has to be at least 1", max_failures >= 1),
        (f"linger {linger!r} has to be a number of seconds, 0 or more", 0 <= linger < threading.TIMEOUT_MAX),
    ):
        if not allowed:
            raise ParameterValidationError(what)
    _prepare()
    subscription = Subscription(
        hook,
        kinds or (Event,),
        inline=inline,
        capacity=capacity,
        drop=drop,
        max_failures=max_failures,
        linger=linger,
        on_close=_forget,
    )
    _replace(lambda all_of_them: (*all_of_them, subscription))
    return subscription


@contextmanager
def capture_events(*kinds: type[Event]) -> Iterator[list[Event]]:
    """A list that gets every record of these kinds (all, if none is given) that any thread emits inside the block."""
    events: list[Event] = []
    with subscribe(events.append, *kinds, inline=True):
        yield events


def _is_kind(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


def _replace(change: Callable[[tuple[Subscription, ...]], tuple[Subscription, ...]]) -> None:
    global _table  # noqa: PLW0603 (replaced as a whole)
    with _changing:
        _table = _Table(change(_table.subscriptions))


def _forget(subscription: Subscription) -> None:
    _replace(lambda all_of_them: tuple(one for one in all_of_them if one is not subscription))


@functools.cache
def _prepare() -> None:
    """Once, when the first hook comes: what has to happen when this process forks or ends."""
    atexit.register(_close_all)
    os.register_at_fork(after_in_child=_after_fork)


def _close_all() -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT
    for subscription in _table.subscriptions:
        subscription.close(max(deadline - time.monotonic(), 0.0))


def _after_fork() -> None:
    """Locks may be held by threads that this process does not have."""
    global _changing  # noqa: PLW0603 (a new lock)
    _changing = threading.RLock()
    reset_counting()
    for subscription in _table.subscriptions:
        subscription.reset()
