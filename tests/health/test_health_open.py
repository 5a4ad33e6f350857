"""What checks open, start first and close: once, as long as somebody uses them, whatever fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from _rounds import WAIT, join_checks, outcome
from _threads import refuse
from pydantic import PrivateAttr

from gaudi3_rt import health
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import SoftwareHPU


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
