"""Events and hooks of tests of delivery."""

import threading
from dataclasses import dataclass

from gaudi3_rt.events import Event
from gaudi3_rt.events._delivery import WORKER_NAME

LONG = 30.0  # seconds until a test gives up; none waits for it


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """A step was made."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Saved(Stepped):
    """A special step."""


@dataclass(frozen=True, kw_only=True)
class Other(Event):
    """Something else."""


class Gate:
    """A hook that says when it is called and waits to be let on."""

    def __init__(self):
        self.seen = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, event):
        """Is the hook."""
        self.entered.set()
        assert self.go_on.wait(LONG)
        self.seen.append(event.step)


def workers():
    """How many threads deliver events."""
    return sum(thread.name == WORKER_NAME for thread in threading.enumerate())
