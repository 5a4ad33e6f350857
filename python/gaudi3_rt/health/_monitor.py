"""How is everything? Checks at an interval, each in its own time: one that hangs delays nobody."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType

from typing_extensions import Self

from gaudi3_rt import events
from gaudi3_rt._forks import reset_in_children
from gaudi3_rt._protocols import Clock
from gaudi3_rt._redact import redact_text
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.health._check import HealthCheck
from gaudi3_rt.health._status import CheckResult, HealthReport, HealthStatus, Outcome, roll_up
from gaudi3_rt.health._watched import Watched

_log = logging.getLogger(__name__)


class HealthMonitor:
    """Runs checks, remembers what they found, and emits ``HealthChanged`` when that changes.

    As a context manager it does so at an interval, from a thread of its own, which begins at once. Without one, call
    :meth:`check_now`. Each run of a check has its own daemon thread, so that none waits for another but for the limit.
    Before its first run a check may start what it needs, in the same thread and for as long as its timeout.
    A run that exceeds its timeout hangs: its check is UNKNOWN, is not started again until it returns, and is CRITICAL
    when it still hangs at the time of its next run. It keeps no process from ending.

    Args:
        checks: what to run. Labels that are equal get a number.
        interval_seconds: from the start of one round of all checks to the start of the next.
        max_concurrent: how many checks run at the same time; one that hangs counts until its timeout.
        clock: what time it is. Waiting, for timeouts too, takes real time.

    Raises:
        ParameterValidationError: there is no check, or a number is out of range.
    """

    def __init__(
        self,
        checks: Iterable[HealthCheck],
        interval_seconds: float = 10.0,
        *,
        max_concurrent: int = 16,
        clock: Clock = time,
    ) -> None:
        self.checks = tuple(checks)
        self.interval_seconds, self.max_concurrent = interval_seconds, max_concurrent
        _check_arguments(self.checks, interval_seconds, max_concurrent)
        self._clock = clock
        now = clock.time()
        self._watched = [Watched(check, label, now) for check, label in _labelled(self.checks)]
        self._status = HealthStatus.UNKNOWN
        self._began = False
        self._entered = False
        self._users = 0  # the block, and each check_now() that is under way
        self._thread: threading.Thread | None = None
        self._after_fork()
        reset_in_children(self)

    def _after_fork(self) -> None:
        """Also at the start. Locks may be held, and runs be under way, by threads that a child does not have."""
        self._changed = threading.Condition()
        self._opening = threading.RLock()  # a signal handler may ask for a round
        self._pending: deque[events.HealthChanged] = deque()
        self._active = 0
        self._stop = False
        if self._thread is not None:
            self._thread = None
            for one in self._watched:
                one.run, one.is_prepared = None, False
                message = "not watched: this process was forked, and its parent watches"
                one.result = replace(one.result, status=HealthStatus.UNKNOWN, message=message, figures={})
            self._status = HealthStatus.UNKNOWN

    # The thread

    def __enter__(self) -> Self:
        if self._entered:
            msg = "this monitor is already running; make another one, or leave its with block first"
            raise ParameterValidationError(msg)
        self._use()
        self._stop = False
        thread = threading.Thread(target=self._watch, name="gaudi3_rt health", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._disuse()
            raise
        self._entered, self._thread = True, thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        try:
            if thread is not None:
                thread.join()  # it waits for nothing but what was just said
        finally:
            self._entered = False
            self._disuse()

    def _watch(self) -> None:
        while not self._stop:
            due = time.monotonic() + self.interval_seconds
            self._round(lambda: self._stop)
            with self._changed:
                self._changed.wait_for(lambda: self._stop, max(due - time.monotonic(), 0))

    # Asking

    def report(self) -> HealthReport:
        """What is known now; runs nothing and waits for nothing."""
        with self._changed:
            results = tuple(one.result for one in self._watched)
            return HealthReport(status=self._status, results=results, time=self._clock.time())

    def statuses(self) -> dict[str, str]:
        """The last status of every check by its label, as ``gaudi3_rt.metrics.Metrics(health=...)`` takes them."""
        return {result.check: result.status.value for result in self.report().results}

    def check_now(self) -> HealthReport:
        """Runs all checks once, and waits for them, for no longer than their timeouts; the first time twice as long."""
        self._use()
        try:
            self._round(lambda: False)
        finally:
            self._disuse()
        return self.report()

    # What checks have opened

    def _use(self) -> None:
        with self._changed:
            self._users += 1
        try:
            self._open_or_close(self._watched)
        except BaseException:
            self._disuse()
            raise

    def _disuse(self) -> None:
        with self._changed:
            self._users -= 1
        self._open_or_close(self._watched)

    def _open_or_close(self, watched: Iterable[Watched]) -> None:
        """Opens checks that somebody uses, closes the others; what still runs is closed by its own run at its end."""
        with self._opening:
            for one in watched:
                with self._changed:
                    is_used, is_idle = self._users > 0, one.run is None
                if is_used and not one.is_open:
                    one.check.open()
                    one.is_open = True
                elif one.is_open and not is_used and is_idle:
                    one.is_open = one.is_prepared = False
                    try:
                        one.check.close()
                    except Exception:  # noqa: BLE001 (the others are closed, and what ended the block is not hidden)
                        _log.exception("the check %s cannot be closed", one.label)

    # One round

    def _round(self, is_over: Callable[[], bool]) -> None:
        """Starts what is due as far as the limit allows, and waits until each has ended or hangs, or the round does."""
        with self._changed:
            queue: deque[Watched] = deque()
            for one in self._watched:
                if one.hangs:
                    self._still_hangs(one)
                else:
                    queue.append(one)
            waiting: list[Watched] = []
            while (queue or waiting) and not is_over():
                while queue and (queue[0].run is not None or self._active < self.max_concurrent):
                    one = queue.popleft()
                    if one.run is None:  # else a round at the same time has started it
                        self._start(one)
                    waiting.append(one)
                self._give_up_late(waiting)
                waiting = [one for one in waiting if one.run is not None and not one.hangs]
                if queue and self._active < self.max_concurrent:
                    continue
                if queue or waiting:
                    deadlines = [one.deadline for one in self._watched if one.run is not None and not one.hangs]
                    self._changed.wait(max(min(deadlines) - time.monotonic(), 0) if deadlines else None)
        self._emit()

    def _start(self, one: Watched) -> None:
        run = object()
        began = time.monotonic()
        thread = threading.Thread(target=self._run, args=(one, run), name=f"health of {one.label}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._settle(one, _cannot_start(error), 0.0)
            return
        one.run, one.hangs, one.began, one.began_at = run, False, began, self._clock.time()
        one.deadline = began + one.check.timeout_seconds
        self._active += 1

    def _run(self, one: Watched, run: object) -> None:
        began = time.perf_counter()
        try:
            if not one.is_prepared:
                one.check.prepare()
                self._note_prepared(one, run)
                began = time.perf_counter()
            outcome = one.check.run(self._clock)
        except BaseException as error:  # noqa: BLE001 (whatever a check raises, the others go on)
            outcome = _raised(error)
        seconds = time.perf_counter() - began
        with self._changed:
            if one.run is not run:  # of before a fork
                return
            one.run = None
            if one.hangs:
                one.hangs = False
            else:
                self._active -= 1
            self._settle(one, outcome, seconds)
            self._changed.notify_all()
        self._emit()
        self._open_or_close([one])

    def _note_prepared(self, one: Watched, run: object) -> None:
        """What had to be started is no time of the check: now it has all of its own."""
        with self._changed:
            if one.run is run:
                one.is_prepared = True
                one.began = time.monotonic()
                one.deadline = one.began + one.check.timeout_seconds
                self._changed.notify_all()

    def _give_up_late(self, waiting: list[Watched]) -> None:
        now = time.monotonic()
        for one in waiting:
            if one.run is not None and not one.hangs and now >= one.deadline:
                one.hangs = True
                self._active -= 1
                limit = f"{one.check.timeout_seconds:g} s"
                message = f"no answer within {limit}; it is not asked again until it has answered"
                outcome = Outcome(status=HealthStatus.UNKNOWN, message=message, simulated=one.result.simulated)
                self._settle(one, outcome, now - one.began)
                self._changed.notify_all()

    def _still_hangs(self, one: Watched) -> None:
        seconds = time.monotonic() - one.began
        since = time.strftime("%H:%M:%S UTC", time.gmtime(one.began_at))
        outcome = Outcome(
            status=HealthStatus.CRITICAL,
            message=f"hangs since {since}, for {seconds:.0f} s",
            figures={"hanging_seconds": round(seconds, 3)},
            simulated=one.result.simulated,
        )
        self._settle(one, outcome, seconds)

    def _settle(self, one: Watched, outcome: Outcome, seconds: float) -> None:
        """Remembers what was found, and what has changed by that."""
        now, before = self._clock.time(), one.result
        one.result = CheckResult(
            check=one.label,
            type=one.check.type,
            critical=one.check.critical,
            status=outcome.status,
            message=redact_text(outcome.message),
            figures=dict(outcome.figures),
            detail=redact_text(outcome.detail),
            simulated=outcome.simulated,
            time=now,
            seconds=seconds,
            since=before.since if before.time is not None and before.status is outcome.status else now,
        )
        is_news = before.status is not outcome.status
        if is_news and not (before.time is None and outcome.status is HealthStatus.HEALTHY):
            self._note(one.label, before.status, one.result.status, one.result.message, outcome)
        whole, was = roll_up(each.result for each in self._watched), self._status
        self._status = whole
        if whole is not was:
            if self._began or whole is not HealthStatus.HEALTHY:
                self._note(None, was, whole, f"{one.label}: {one.result.message}", outcome)
            self._began = True

    def _note(
        self, check: str | None, before: HealthStatus, after: HealthStatus, message: str, outcome: Outcome
    ) -> None:
        self._pending.append(
            events.HealthChanged(
                check=check, before=before.value, after=after.value, message=message, simulated=outcome.simulated
            )
        )

    def _emit(self) -> None:
        """Outside of the lock: a hook may ask for a report."""
        while True:
            try:
                event = self._pending.popleft()
            except IndexError:
                return
            events.emit(lambda one: one, event)


def _raised(error: BaseException) -> Outcome:
    """Only the type is shown to others: a text may hold anything."""
    kind = type(error).__name__
    detail = f"{kind}: {error}"
    return Outcome(status=HealthStatus.CRITICAL, message=f"the check raised {kind}", detail=detail)


def _cannot_start(error: RuntimeError) -> Outcome:
    return Outcome(status=HealthStatus.UNKNOWN, message="no thread could be started for it", detail=str(error))


def _labelled(checks: Iterable[HealthCheck]) -> list[tuple[HealthCheck, str]]:
    """Labels that occur again get a number."""
    taken: set[str] = set()
    found = []
    for check in checks:
        label, number = check.label, 1
        while label in taken:
            number += 1
            label = f"{check.label}-{number}"
        taken.add(label)
        found.append((check, label))
    return found


def _check_arguments(checks: tuple[HealthCheck, ...], interval_seconds: float, max_concurrent: int) -> None:
    if not checks:
        msg = "there is no check; give some, such as gaudi3_rt.health.create_default_hpu_health_checks()"
        raise ParameterValidationError(msg)
    strange = next((one for one in checks if not (hasattr(one, "run") and hasattr(one, "label"))), None)
    if strange is not None:
        msg = f"{strange!r} is no check; give one of gaudi3_rt.health, or FunctionCheck(name, function)"
        raise ParameterValidationError(msg)
    for name, value in [("interval_seconds", interval_seconds), *((one.label, one.timeout_seconds) for one in checks)]:
        if not (0 < value < math.inf):
            msg = f"{name}: {value!r} has to be a number of seconds above 0"
            raise ParameterValidationError(msg)
    if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int) or max_concurrent < 1:
        msg = f"max_concurrent={max_concurrent!r}: has to be a whole number, 1 or more"
        raise ParameterValidationError(msg)
