"""Several processes, threads and forked children write one chain; a signal may come at any time."""

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from gaudi3_rt.audit import AuditLog, _log, verify


def test_a_signal_handler_is_not_left_waiting(path, monkeypatch):
    """For what it interrupted; that goes on, and so does the log."""
    refused = []

    def handler(*_):
        for call in (lambda: log.append("preempted"), log.head):
            with pytest.raises(RuntimeError, match="signal handler interrupted; set a flag"):
                call()
            refused.append(call)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        log = AuditLog(path)
        with monkeypatch.context() as patch:
            patch.setattr(_log.os, "fsync", lambda _: signal.raise_signal(signal.SIGUSR1))
            log.append("step")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 2
    log.append("preempted")
    assert (verify(path).ok, verify(path).records) == (True, 2)


WRITER = """
import sys
from gaudi3_rt.audit import AuditLog
with AuditLog(sys.argv[1], actor=sys.argv[2]) as log:
    print(flush=True)
    sys.stdin.readline()
    for i in range(30):
        log.append("x", i=i)
"""


def test_processes_threads_and_forked_children(path):
    """All at once, in one chain."""
    others = [
        subprocess.Popen(  # noqa: S603 (our own code)
            [sys.executable, "-c", WRITER, str(path), f"process {n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(2)
    ]
    with AuditLog(path, actor="threads") as log:
        for other in others:
            other.stdout.readline()
        child = os.fork()
        if child == 0:
            for i in range(30):
                log.append("x", actor="child", i=i)
            os._exit(0)
        for other in others:
            other.stdin.write(b"\n")
            other.stdin.flush()
        threads = [threading.Thread(target=lambda: [log.append("x", i=i) for i in range(30)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.waitpid(child, 0)[1] == 0
        for other in others:
            other.communicate()
            assert other.returncode == 0
        assert verify(path, log.head()).records == 180


FORKED = """
import os, signal, sys, threading
from gaudi3_rt.audit import AuditLog, verify
log = AuditLog(sys.argv[1], actor="a")
entered, go_on, sync = threading.Event(), threading.Event(), os.fsync
def slow(descriptor):
    if threading.current_thread() is not threading.main_thread():
        entered.set()
        go_on.wait(60)
    sync(descriptor)
os.fsync = slow
thread = threading.Thread(target=log.append, args=("thread",))
thread.start()
entered.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    log.append("child")
    os._exit(0)
go_on.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0, "the child waited for a lock that nobody has"
log.append("parent")
print(verify(sys.argv[1]).records)
"""


def test_a_fork_while_a_thread_writes(path):
    """The child has neither the thread that would unlock, nor the lock of its file."""
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


def test_an_interrupt_as_a_record_ends(path, monkeypatch):
    """Ctrl-C comes where the file is closed: the record is there, and others can be written."""
    close = os.close

    def interrupted(descriptor):
        close(descriptor)
        raise KeyboardInterrupt

    with AuditLog(path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "close", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.append("a")
        log.append("b")
    assert verify(path).records == 2


def test_verifying_while_a_record_is_half_written(path, monkeypatch):
    """A run that goes on is no crash: the reader waits for the writer, and reads what was there then."""
    results, begun, written, flock = [], threading.Event(), os.write, fcntl.flock

    def look():
        results.append(verify(path))
        begun.set()

    reader = threading.Thread(target=look)

    def flock_seen(file, operation):
        if threading.current_thread() is reader:
            begun.set()
        return flock(file, operation)

    def write_half(descriptor, data):
        half = written(descriptor, data[:50])
        reader.start()
        assert begun.wait(60)
        monkeypatch.setattr(os, "write", written)
        return half

    with AuditLog(path) as log:
        log.append("a")
        monkeypatch.setattr(fcntl, "flock", flock_seen)
        monkeypatch.setattr(os, "write", write_half)
        log.append("b")
        reader.join(60)
    assert [(one.ok, one.records) for one in results] == [(True, 2)]
