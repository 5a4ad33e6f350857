"""Signal handlers, forked children, and the end of the process."""

import os
import signal
import subprocess
import sys

import pytest
from _rounds import WAIT, hanging, saying

from gaudi3_rt import health
from gaudi3_rt.health import HealthStatus as S


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
