"""Which settings are in force: the only reader of environment variables."""

from __future__ import annotations

import functools
import os

from gaudi3_rt import _core

ISA_VARIABLE = "GAUDI3_RT_ISA"
KERNEL_PATH_VARIABLE = "GC_KERNEL_PATH"


@functools.cache
def isa() -> str:
    """Name of the kernel build to run: ``GAUDI3_RT_ISA`` if set, else the fastest that this CPU can run.

    Raises:
        ValueError: the variable names a build that does not exist or that this CPU cannot run.
    """
    possible = _core.isas()
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted is None:
        return possible[0]
    if wanted not in possible:
        msg = f"{ISA_VARIABLE}={wanted!r} cannot run here; possible: {', '.join(possible)} (or leave it unset)"
        raise ValueError(msg)
    return wanted


def kernel_path() -> str:
    """The kernel libraries of Gaudi's graph compiler, with colons between; empty if ``GC_KERNEL_PATH`` is not set."""
    return os.environ.get(KERNEL_PATH_VARIABLE, "")
