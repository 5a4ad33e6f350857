"""Delivery in forked children and at the end of a process; importing starts nothing."""

import subprocess
import sys


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
