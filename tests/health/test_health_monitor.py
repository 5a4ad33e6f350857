"""The monitor: rounds, limits, checks that hang or raise, transitions, forks, the end of the process."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from _threads import refuse
from pydantic import PrivateAttr

from gaudi3_rt import errors, events, health
from gaudi3_rt.events import HealthChanged, capture_events
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import FakeClock, SoftwareHPU

WAIT = 30  # seconds until a test gives up


def outcome(status, message="so"):
    """What a check says."""
    return health.Outcome(status=status, message=message)


def saying(name, *statuses, critical=True):
    """A check that says one after the other, and then the last for ever."""
    said = itertools.chain(statuses, itertools.repeat(statuses[-1]))
    return health.FunctionCheck(name, lambda: outcome(next(said)), critical=critical)


def hanging(name, release, timeout_seconds=0.02, **settings):
    """A check that does not come back until it is told to; and the threads in which it was started."""
    started = []

    def hang():
        started.append(threading.current_thread())
        release.wait(WAIT)
        return True

    return health.FunctionCheck(name, hang, timeout_seconds=timeout_seconds, **settings), started


@pytest.fixture
def release():
    """Lets what hangs go, at the end at the latest, and waits for its threads."""
    event = threading.Event()
    yield event
    event.set()
    join_checks()


def join_checks():
    """Waits for the threads of all runs."""
    for thread in threading.enumerate():
        if thread.name.startswith("health of"):
            thread.join(WAIT)


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


class Opened(health.Check):
    """A check that counts what it has open, and comes back when it is told to."""

    type: str = "opened"
    _open: list = PrivateAttr(default_factory=list)
    _gates: tuple = PrivateAttr(default_factory=lambda: (threading.Event(), threading.Event()))

    def open(self):
        """One more."""
        self._open.append(1)

    def close(self):
        """One less."""
        self._open.pop()

    def run(self, _):
        """Says that it has begun, and waits."""
        began, go_on = self._gates
        began.set()
        assert go_on.wait(WAIT)
        return outcome(S.HEALTHY)


@pytest.mark.parametrize("timeout_seconds", [WAIT, 0.01])
def test_what_a_check_has_opened_is_closed_though_it_runs_at_the_end(timeout_seconds):
    """By its run when that comes back, whether it hangs or not; not before, since it may use it."""
    check = Opened(timeout_seconds=timeout_seconds)
    began, go_on = check._gates
    with health.HealthMonitor([check]):
        assert began.wait(WAIT)
    assert check._open == [1]
    go_on.set()
    join_checks()
    assert check._open == []


def test_a_check_is_open_once_and_as_long_as_somebody_uses_it():
    """A round that is asked for closes nothing that the block still needs."""
    check = Opened()
    check._gates[1].set()
    with health.HealthMonitor([check]) as monitor:
        monitor.check_now()
        assert check._open == [1]
    join_checks()
    monitor.check_now()
    join_checks()
    assert check._open == []


class Prepared(health.Check):
    """A check that has to start something first, which takes a while and may fail."""

    type: str = "prepared"
    _calls: list = PrivateAttr(default_factory=list)
    _errors: list = PrivateAttr(default_factory=list)

    def prepare(self):
        """Starts it."""
        self._calls.append(("prepare", threading.current_thread().name))
        began = time.monotonic()
        while time.monotonic() < began + 0.05:
            pass
        self._calls.append(time.monotonic())
        if self._errors:
            raise self._errors.pop()

    def run(self, _):
        """Looks."""
        self._calls.append(("run", threading.current_thread().name))
        return outcome(S.HEALTHY)


def test_what_a_check_starts_first_is_not_its_time():
    """It is done in the check's own thread before the first run, once as long as somebody watches."""
    check = Prepared()
    monitor = health.HealthMonitor([check])
    with monitor:
        report = monitor.check_now()
        monitor.check_now()
        join_checks()
    first, ended, second, *more = check._calls
    after = time.monotonic()
    assert (first[0], second[0], first[1]) == ("prepare", "run", second[1])
    assert {call[0] for call in more} <= {"run"}
    assert report.results[0].seconds <= after - ended
    join_checks()
    check._calls.clear()
    monitor.check_now()
    assert [call[0] for call in check._calls[::2]] == ["prepare", "run"]  # it was closed meanwhile
    (watched,) = monitor._watched
    assert watched.deadline >= check._calls[1] + check.timeout_seconds


def test_what_cannot_be_started_is_tried_again():
    """It is critical until then."""
    check = Prepared()
    check._errors.append(OSError("no driver"))
    with health.HealthMonitor([check], 1000.0) as monitor:
        monitor.check_now()
        assert monitor.report().results[0].message in {"the check raised OSError", "so"}
        monitor.check_now()
        assert monitor.report().status is S.HEALTHY
    assert [call[0] for call in check._calls if isinstance(call, tuple)][:3] == ["prepare", "prepare", "run"]


def test_the_first_look_at_a_device_does_not_start_its_library(monkeypatch):
    """Which takes seconds; it has been started before, by a reading that nobody waits for."""
    calls = []
    with SoftwareHPU() as hpu:
        there = hpu.device(0)
        telemetry = type(there).telemetry
        monkeypatch.setattr(type(there), "telemetry", lambda self: (calls.append("reading"), telemetry(self))[1])
        run = health.HpuDeviceCheck.run
        monkeypatch.setattr(
            health.HpuDeviceCheck, "run", lambda self, clock: (calls.append("run"), run(self, clock))[1]
        )
        health.HealthMonitor([health.HpuDeviceCheck(device=there.name)]).check_now()
    assert calls == ["reading", "run", "reading"]


def test_a_round_after_the_block():
    """And one that is under way at its end: both are whole."""
    check = Opened()
    began, go_on = check._gates
    with ThreadPoolExecutor(1) as pool:
        with health.HealthMonitor([check], interval_seconds=WAIT) as monitor:
            assert began.wait(WAIT)
            under_way = pool.submit(monitor.check_now)
            while monitor._users < 2:
                pass
        go_on.set()
        assert under_way.result(WAIT).status is S.HEALTHY
    check._gates = (threading.Event(), go_on)
    monitor.check_now()
    assert check._gates[0].is_set()


def test_a_check_that_cannot_be_closed(caplog):
    """Is told of in the log; others are closed, and what ended the block is not hidden."""
    bad, good = Opened(), Opened()
    good._gates[1].set()
    bad._gates[1].set()

    def fail():
        with health.HealthMonitor([bad, good]):
            bad._open.clear()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    join_checks()
    assert good._open == []
    assert "the check opened cannot be closed" in caplog.text


def test_without_a_thread_it_has_not_begun(monkeypatch):
    """Nothing stays open, and it can begin later."""
    check = Opened()
    check._gates[1].set()
    monitor = health.HealthMonitor([check])
    with monkeypatch.context() as patch:
        refuse(patch, "gaudi3_rt health")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            monitor.__enter__()
    assert check._open == []
    with monitor:
        assert check._open == [1]
    join_checks()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_signal_handler_may_ask_for_a_round():
    """Also where it interrupts the thread that opens checks for another."""
    monitor = health.HealthMonitor([saying("a", S.HEALTHY)])
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # it would wait for ever
        signal.signal(signal.SIGUSR1, lambda *_: monitor.check_now())
        with monitor._opening:
            signal.raise_signal(signal.SIGUSR1)
        os._exit(0 if monitor.report().status is S.HEALTHY else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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


def test_a_child_says_that_it_does_not_watch(release):
    """Even if the fork came in the middle of a round; and it can watch for itself."""
    stuck, started = hanging("stuck", release, timeout_seconds=WAIT)
    with health.HealthMonitor([stuck, saying("a", S.HEALTHY)], interval_seconds=WAIT) as monitor:
        while not started:
            pass
        child = os.fork()
        if child == 0:
            words = {one.message[:11] for one in monitor.report().results}
            release.set()
            again = monitor.check_now().status
            os._exit(0 if (words, again) == ({"not watched"}, S.HEALTHY) else 1)
        _, code = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(code) == 0


def test_what_hangs_keeps_no_process_from_ending():
    """Neither at the end of the block nor at the end of the program."""
    program = """
import threading
from gaudi3_rt import health
stuck = health.FunctionCheck("stuck", threading.Event().wait, timeout_seconds=60)
with health.HealthMonitor([stuck]) as monitor:
    while not [one for one in threading.enumerate() if one.name == "health of stuck"]:
        pass
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)  # noqa: S603, PLW1510 (our own)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# The checks that a run has by itself


def test_defaults_for_the_devices_that_are_there():
    """A lost device is CRITICAL for the whole, and the event says that it was simulated."""
    with SoftwareHPU(count=3, script="step 1: device lost on rank 1") as hpu:
        monitor = health.HealthMonitor(health.create_default_hpu_health_checks())
        assert monitor.check_now().status is S.HEALTHY
        hpu.device(1).advance()
        with capture_events(HealthChanged) as captured:
            assert monitor.check_now().status is S.CRITICAL
    assert list(monitor.statuses())[:3] == ["simulated:0", "simulated:1", "simulated:2"]
    assert [(one.check, one.simulated) for one in captured] == [("simulated:1", True), (None, True)]


def test_defaults_for_devices_that_should_be_there():
    """So many, whether or not they are there; or by name."""
    checks = health.create_default_hpu_health_checks(2, step_timeout_seconds=60, temperature_warning_celsius=None)
    assert [one.label for one in checks] == [
        "hpu:0",
        "hpu:1",
        "system_resources",
        "working_directory",
        "training_steps",
    ]
    assert checks[0].temperature_warning_celsius is None
    assert health.create_default_hpu_health_checks(["simulated:4"])[0].device == "simulated:4"


@pytest.mark.parametrize(
    ("arguments", "limits", "words"),
    [
        ((0,), {}, "a number of HPUs is 1 to 1024"),
        ((True,), {}, "a number of HPUs"),
        (("hpu:0",), {}, r"give a list of names, such as \['hpu:0'\]"),
        ((["gpu"],), {}, "a device such as hpu:0"),
        ((1,), {"temperature": 3}, "there is no limit temperature; there are memory_warning_ratio"),
        ((1,), {"memory_warning_ratio": 0.99}, "must be below memory_critical_ratio=0.95"),
    ],
)
def test_defaults_that_make_no_sense(arguments, limits, words):
    """One error of ours."""
    with pytest.raises(errors.ParameterValidationError, match=words):
        health.create_default_hpu_health_checks(*arguments, **limits)
