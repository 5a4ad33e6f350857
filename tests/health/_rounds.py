"""Checks that say what they are told to, hang until they are let go, and the threads in which they run."""

import itertools
import threading

from gaudi3_rt import health

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


def join_checks():
    """Waits for the threads of all runs."""
    for thread in threading.enumerate():
        if thread.name.startswith("health of"):
            thread.join(WAIT)
