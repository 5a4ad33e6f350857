"""What has to be made anew in a forked child: locks may be held by threads that it does not have."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Whatever has such a lock."""

    def _after_fork(self) -> None:
        """In the child, before anything else."""


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def reset_in_children(one: Forked) -> None:
    """Has ``_after_fork`` called in each child, as long as there is anybody else who needs it."""
    _all.add(one)


def _after_fork() -> None:
    for one in list(_all):
        one._after_fork()


os.register_at_fork(after_in_child=_after_fork)
