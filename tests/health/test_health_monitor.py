"""The monitor: rounds, limits, checks that hang or raise, transitions, labels, arguments."""

import gc
import itertools
import threading
import weakref

import pytest
from _rounds import WAIT, hanging, join_checks, saying

from gaudi3_rt import errors, events, health
from gaudi3_rt.events import HealthChanged, capture_events
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import FakeClock


def result(status, *, critical=True):
    """A result of a check."""
    return health.CheckResult(check="a", type="b", critical=critical, status=status, message="", since=0.0)


@pytest.mark.parametrize(
    ("critical", "informative", "whole"),
    [
        ([S.HEALTHY], [], S.HEALTHY),
        ([S.HEALTHY, S.DEGRADED], [], S.DEGRADED),
        ([S.DEGRADED, S.UNKNOWN], [], S.UNKNOWN),
        ([S.UNKNOWN, S.CRITICAL, S.HEALTHY], [], S.CRITICAL),
        ([S.HEALTHY], [S.CRITICAL], S.DEGRADED),
        ([S.HEALTHY], [S.DEGRADED], S.DEGRADED),
        ([S.HEALTHY], [S.UNKNOWN], S.HEALTHY),
        ([S.UNKNOWN], [S.CRITICAL], S.UNKNOWN),
        ([], [S.UNKNOWN], S.HEALTHY),
        ([], [S.CRITICAL], S.DEGRADED),
    ],
)
def test_roll_up(critical, informative, whole):
    """The documented rule; and which of them is ready."""
    results = [result(one) for one in critical] + [result(one, critical=False) for one in informative]
    for order in itertools.permutations(results):
        assert health.roll_up(order) is whole
    assert whole.is_ready == (whole in {S.HEALTHY, S.DEGRADED})


def test_one_round_from_code():
    """Before it nothing is known; after it everything is, with times."""
    clock = FakeClock(100.0)
    monitor = health.HealthMonitor([saying("a", S.HEALTHY), saying("b", S.DEGRADED)], clock=clock)
    assert [one.status for one in monitor.report().results] == [S.UNKNOWN, S.UNKNOWN]
    assert not monitor.report().is_ready
    clock.advance(5)
    report = monitor.check_now()
    assert report.status is S.DEGRADED
    assert monitor.statuses() == {"a": "healthy", "b": "degraded"}
    first = report.results[0]
    assert (first.check, first.time, first.since, first.critical) == ("a", 105.0, 105.0, True)
    assert first.seconds >= 0
    clock.advance(5)
    again = monitor.check_now().results[0]
    assert (again.time, again.since) == (110.0, 105.0)


def test_transitions_and_nothing_else_are_events():
    """Being well from the start is none."""
    checks = [
        saying("a", S.HEALTHY, S.HEALTHY, S.CRITICAL, S.CRITICAL, S.HEALTHY),
        saying("b", S.DEGRADED, S.DEGRADED, S.DEGRADED, S.HEALTHY, S.HEALTHY),
        saying("c", S.HEALTHY),
    ]
    monitor = health.HealthMonitor(checks, max_concurrent=1)
    seen = []
    for _ in range(5):
        with capture_events(HealthChanged) as captured:
            monitor.check_now()
        seen.append([(one.check, one.before, one.after) for one in captured])
    assert seen == [
        [("b", "unknown", "degraded"), (None, "unknown", "degraded")],
        [],
        [("a", "healthy", "critical"), (None, "degraded", "critical")],
        [("b", "degraded", "healthy")],
        [("a", "critical", "healthy"), (None, "critical", "healthy")],
    ]


def test_being_well_from_the_start_is_no_event():
    """Nor is it for all together."""
    with capture_events(HealthChanged) as captured:
        health.HealthMonitor([saying("a", S.HEALTHY), saying("b", S.HEALTHY)]).check_now()
    assert captured == []


def test_a_check_that_hangs_delays_no_other(release):
    """It is UNKNOWN, is not started again, CRITICAL in the next round, and well when it has come back."""
    stuck, started = hanging("stuck", release)
    ran = []
    other = health.FunctionCheck("other", lambda: ran.append(1) or True)
    monitor = health.HealthMonitor([stuck, other])
    statuses = []
    for _ in range(3):
        report = monitor.check_now()
        statuses.append(report.results[0].status)
        assert report.results[1].status is S.HEALTHY
    assert (statuses, len(ran)) == ([S.UNKNOWN, S.CRITICAL, S.CRITICAL], 3)
    hung = monitor.report().results[0]
    assert "hangs since" in hung.message
    assert hung.figures["hanging_seconds"] > 0
    release.set()
    join_checks()
    assert monitor.report().results[0].status is S.HEALTHY
    assert len(started) == 1
    assert monitor.check_now().results[0].status is S.HEALTHY
    assert len(started) == 2


def test_more_that_hang_than_may_run_at_once(release):
    """Each gives its place back at its timeout, so the last one gets its turn."""
    stuck = [hanging(f"stuck{i}", release) for i in range(5)]
    monitor = health.HealthMonitor([*(check for check, _ in stuck), saying("last", S.HEALTHY)], max_concurrent=2)
    report = monitor.check_now()
    assert [one.status for one in report.results] == [S.UNKNOWN] * 5 + [S.HEALTHY]
    release.set()
    join_checks()  # a thread may begin after its time is up
    assert [len(started) for _, started in stuck] == [1] * 5


def test_no_more_run_at_once_than_may():
    """Counted inside of them; those that may do run at once."""
    lock, now, most = threading.Lock(), [0], [0]
    both = threading.Barrier(2, timeout=WAIT)

    def run():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        both.wait()
        with lock:
            now[0] -= 1
        return True

    checks = [health.FunctionCheck(f"c{i}", run) for i in range(8)]
    report = health.HealthMonitor(checks, max_concurrent=2).check_now()
    assert report.status is S.HEALTHY
    assert most == [2]


@pytest.mark.parametrize("error", [ValueError("token=hunter2hunter2 in /home/me"), SystemExit(3), KeyboardInterrupt()])
def test_a_check_that_raises(error):
    """It is CRITICAL; others see the type alone, those on the machine the text without secrets."""

    def fail():
        raise error

    first, second = health.HealthMonitor([health.FunctionCheck("a", fail), saying("b", S.HEALTHY)]).check_now().results
    assert (first.status, first.message) == (S.CRITICAL, f"the check raised {type(error).__name__}")
    assert second.status is S.HEALTHY
    assert "hunter2" not in first.detail
    assert ("/home/me" in first.detail) == isinstance(error, ValueError)
    assert "detail" not in first.to_dict()
    assert first.to_dict(detail=True)["detail"] == first.detail


def test_a_function_that_returns_something_else():
    """None is neither."""
    (one,) = health.HealthMonitor([health.FunctionCheck("a", lambda: None)]).check_now().results
    assert (one.status, one.message) == (S.CRITICAL, "the check raised TypeError")
    (one,) = health.HealthMonitor([health.FunctionCheck("a", lambda: False)]).check_now().results
    assert (one.status, one.message) == (S.CRITICAL, "not ok")


def test_in_the_background(release):
    """Round after round, from when the block begins; its end waits for nothing, not even for what hangs."""
    rounds = threading.Semaphore(0)
    counting = health.FunctionCheck("counting", lambda: rounds.release() or True)
    stuck, started = hanging("stuck", release, timeout_seconds=WAIT)
    with health.HealthMonitor([counting, stuck], interval_seconds=1e-3) as monitor:
        assert rounds.acquire(timeout=WAIT)
        with monitor._changed:  # its answer comes a moment later
            assert monitor._changed.wait_for(lambda: monitor.report().results[0].status is not S.UNKNOWN, WAIT)
        with pytest.raises(errors.ParameterValidationError, match="already running"):
            monitor.__enter__()
    names = {thread.name for thread in threading.enumerate()}
    assert "health of stuck" in names
    assert "gaudi3_rt health" not in names
    release.set()
    join_checks()
    assert [one.status for one in monitor.report().results] == [S.HEALTHY] * 2
    assert len(started) == 1
    with monitor:  # and again
        for _ in range(3):
            assert rounds.acquire(timeout=WAIT)


def test_a_hook_may_ask_for_a_report():
    """Events are emitted without the lock."""
    monitor = health.HealthMonitor([saying("a", S.CRITICAL)])
    seen = []
    with events.subscribe(lambda _: seen.append(monitor.report().status), HealthChanged, inline=True):
        monitor.check_now()
    assert seen == [S.CRITICAL, S.CRITICAL]


def test_labels_that_are_equal_get_a_number(tmp_path):
    """In the order that they were given in."""
    checks = [health.FileSystemCheck(path=tmp_path), health.FileSystemCheck(path=tmp_path), saying("x", S.HEALTHY)]
    assert list(health.HealthMonitor(checks).statuses()) == ["file_system", "file_system-2", "x"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([],), "there is no check"),
        ((["disk"],), "'disk' is no check"),
        (([saying("a", S.HEALTHY)], 0), "interval_seconds: 0 has to be"),
        (([health.FunctionCheck("a", bool, timeout_seconds=-1)],), "a: -1 has to be"),
    ],
)
def test_arguments_that_make_no_sense(arguments, words):
    """One error, which says what was seen."""
    with pytest.raises(errors.ParameterValidationError, match=words):
        health.HealthMonitor(*arguments)
    with pytest.raises(errors.ParameterValidationError, match="max_concurrent=0"):
        health.HealthMonitor([saying("a", S.HEALTHY)], max_concurrent=0)


def test_monitors_are_forgotten():
    """The table of those that a fork concerns keeps none alive."""
    monitor = health.HealthMonitor([saying("a", S.HEALTHY)])
    monitor.check_now()
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None
