"""Threads at the wrong moment: a fork while one holds a lock, and a machine that has no more of them."""

import os
import signal
import threading


def begun_since(before):
    """Threads that are there and were not; those of earlier tests may end at any time."""
    return [thread for thread in threading.enumerate() if thread not in before]


def refuse(monkeypatch, *names):
    """No thread whose name begins with one of these can be started, as where the limit of processes is reached."""
    start = threading.Thread.start

    def starts(thread):
        if thread.name.startswith(names):
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)


def child_succeeds(work, lock):
    """Whether some work comes to a true end in a child that was forked while another thread held a lock."""
    taken, forked = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(100)  # it would wait for ever
                os._exit(0 if work() else 1)
            finally:
                os._exit(2)
    finally:
        forked.set()
        holder.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
