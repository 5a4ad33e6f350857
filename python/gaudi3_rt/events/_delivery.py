"""How one hook gets its records: in the thread that emits, or from a bounded queue in a thread of its own."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from typing_extensions import Self

from gaudi3_rt.events._records import Event

LOG_EVERY = 100
"""Of a hook's failures the first is logged, and each so many-th."""
WORKER_NAME = "gaudi3_rt events"
Drop = Literal["oldest", "newest"]

_log = logging.getLogger(__name__)
_all_dropped = 0
_counting = threading.RLock()  # a signal handler may emit while its thread counts
# The subscriptions whose hooks led to what is emitted now: none of them gets it, so that no record begets itself.
_answering: contextvars.ContextVar[tuple[Subscription, ...]] = contextvars.ContextVar("answering", default=())


def dropped() -> int:
    """How many records hooks of this process never got, those of closed subscriptions included."""
    return _all_dropped


def reset_counting() -> None:
    """In a forked child: the lock may be held by a thread that it does not have."""
    global _counting  # noqa: PLW0603 (a new lock)
    _counting = threading.RLock()


class Hook(Protocol):
    """Whatever takes records."""

    def __call__(self, event: Event, /) -> None: ...


class Subscription:
    """A hook that receives records until :meth:`close`; also a context manager. Made by :func:`subscribe`.

    Attributes:
        hook: what is called.
        kinds: the records that it is called with.
        inline: whether it is called in the thread that emits.
        delivered: how many calls returned.
        failed: how many calls raised.
        dropped: how many records it never got, because its queue was full, time was up, or it had failed too often.
    """

    def __init__(
        self,
        hook: Hook,
        kinds: tuple[type[Event], ...],
        *,
        inline: bool,
        capacity: int,
        drop: Drop,
        max_failures: int,
        linger: float,
        on_close: Callable[[Subscription], None],
    ) -> None:
        self.hook = hook
        self.kinds = kinds
        self.inline = inline
        self.delivered = self.failed = self.dropped = 0
        self._capacity = capacity
        self._drop = drop
        self._max_failures = max_failures
        self._linger = linger
        self._failures_in_a_row = 0
        self._on_close = on_close
        self._open = True
        self.reset()
        if not inline:
            self._start()

    @property
    def closed(self) -> bool:
        """Whether no more records are taken."""
        return not self._open

    def deliver(self, event: Event) -> None:
        """Takes a record: calls the hook, or puts the record into the queue. What the hook raises goes no further."""
        if not self._open or self in _answering.get():
            return
        if self.inline:
            self._call(event)
        else:
            self._put(event)

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until what was emitted before this call is delivered or dropped.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether it is. The hook itself cannot wait for what comes after it: there the answer is at once.
        """
        with self._changed:
            accepted = self._accepted
            self._is_wanted = True
            self._changed.notify_all()
            if self._thread is threading.current_thread():
                timeout = 0.0
            return self._changed.wait_for(lambda: self._done >= accepted, timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Takes no more records, and waits until those in the queue are delivered. A hook may close itself.

        Args:
            timeout: seconds to wait at most; what still waits then is dropped and counted.

        Returns:
            Whether all were delivered.
        """
        self._on_close(self)
        with self._changed:
            self._open = False
            self._changed.notify_all()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        if self.flush(timeout):
            thread.join(timeout)
            return True
        left = self._abandon()
        _log.warning("hook %r did not end within %g s; %d records that waited are lost", self.hook, timeout, left)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """An empty queue and no thread, as a forked child has to begin: what waited is its parent's to deliver."""
        self._changed = threading.Condition(threading.RLock())  # a signal handler may emit while its thread does
        self._queue: deque[tuple[contextvars.Context, Event]] = deque()
        self._accepted = self._done = 0
        self._is_parked = self._is_wanted = False
        self._thread: threading.Thread | None = None

    # The queue

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name=WORKER_NAME, daemon=True)
        self._thread.start()

    def _restart(self) -> bool:
        """In a forked child; False where the system starts no more threads."""
        try:
            self._start()
        except RuntimeError:
            self._thread = None
            return False
        return True

    def _put(self, event: Event) -> None:
        item = (contextvars.copy_context(), event)
        with self._changed:
            if not self._open:  # since deliver() looked: nobody would empty the queue any more
                return
            if self._thread is None and not self._restart():
                self._count_dropped(1)
                return
            is_full = len(self._queue) >= self._capacity
            self._count_dropped(is_full)
            is_first = is_full and self.dropped == 1
            if is_full and self._drop == "oldest":
                self._queue.popleft()
                self._done += 1
            if not is_full or self._drop == "oldest":
                self._queue.append(item)
                self._accepted += 1
                if self._is_parked or self._has_enough():  # to wake a thread takes longer than all the rest
                    self._is_parked = False
                    self._changed.notify_all()
        if is_first:
            _log.warning("hook %r is slow: %d records wait for it, so some are dropped", self.hook, self._capacity)

    def _has_enough(self) -> bool:
        return 2 * len(self._queue) >= self._capacity

    def _work(self) -> None:
        while self._wait():
            while item := self._take():
                context, event = item
                context.run(self._call, event)
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()

    def _wait(self) -> bool:
        """Until there is something to deliver, and what lingers has lingered; False if nothing will come any more."""
        with self._changed:
            self._is_parked = True
            self._changed.wait_for(lambda: self._queue or not self._open)
            self._is_parked = False
            if self._linger:
                self._changed.wait_for(lambda: self._is_wanted or not self._open or self._has_enough(), self._linger)
            self._is_wanted = False
            return self._open or bool(self._queue)

    def _take(self) -> tuple[contextvars.Context, Event] | None:
        with self._changed:
            return self._queue.popleft() if self._queue else None

    def _abandon(self) -> int:
        with self._changed:
            left = len(self._queue)
            self._queue.clear()
            self._done += left
            self._count_dropped(left)
            self._changed.notify_all()
        return left

    def _count_dropped(self, count: int) -> None:
        """Of this subscription, and of all."""
        global _all_dropped  # noqa: PLW0603 (a number of the process)
        if count:
            self.dropped += count
            with _counting:
                _all_dropped += count

    # The call

    def _call(self, event: Event) -> None:
        token = _answering.set((*_answering.get(), self))
        try:
            self.hook(event)
        except BaseException as error:
            if self.inline and not isinstance(error, Exception):  # KeyboardInterrupt is for who emits
                raise
            self._note_failure(event, error)
        else:
            with self._changed:
                self.delivered += 1
                self._failures_in_a_row = 0
        finally:
            _answering.reset(token)

    def _note_failure(self, event: Event, error: BaseException) -> None:
        with self._changed:
            self.failed += 1
            self._failures_in_a_row += 1
            failed, gives_up = self.failed, self._failures_in_a_row == self._max_failures
        if failed % LOG_EVERY == 1:
            _log.error("hook %r failed on %s", self.hook, type(event).__name__, exc_info=error)
        if gives_up:
            self._on_close(self)
            self._open = False
            left = self._abandon()
            limit = self._max_failures
            _log.error("hook %r failed %d times in a row: it is closed, %d records lost", self.hook, limit, left)
