"""Which settings are in force: the only reader of environment variables."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from gaudi3_rt import _core

ISA_VARIABLE = "GAUDI3_RT_ISA"
DEBUG_VARIABLE = "GAUDI3_RT_DEBUG"
KERNEL_PATH_VARIABLE = "GC_KERNEL_PATH"
LOG_LEVEL_VARIABLE = "GAUDI3_RT_LOG_LEVEL"
LOG_FORMAT_VARIABLE = "GAUDI3_RT_LOG_FORMAT"
METRICS_PORT_VARIABLE = "GAUDI3_RT_METRICS_PORT"
DEFAULT_METRICS_PORT = 9200
"""Of local rank 0."""
_LONGEST_COUNT = 9  # digits
_LARGEST_PORT = 65535
_NO_PORT = 10**_LONGEST_COUNT


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


def log_level() -> str | None:
    """``GAUDI3_RT_LOG_LEVEL``; None if it is not set or empty."""
    return os.environ.get(LOG_LEVEL_VARIABLE) or None


def log_format() -> str | None:
    """``GAUDI3_RT_LOG_FORMAT``; None if it is not set or empty."""
    return os.environ.get(LOG_FORMAT_VARIABLE) or None


def metrics_port() -> int | None:
    """``GAUDI3_RT_METRICS_PORT``: port of local rank 0, 0 for none; None if it is not set or empty.

    Raises:
        ValueError: the variable is no number from 0 to 65535.
    """
    port = _count((METRICS_PORT_VARIABLE,), _NO_PORT)
    if port > _LARGEST_PORT and port != _NO_PORT:
        msg = f"{METRICS_PORT_VARIABLE}={port} has to be a port, 1 to {_LARGEST_PORT}, or 0 for none (or unset)"
        raise ValueError(msg)
    return None if port == _NO_PORT else port


def no_color() -> bool:
    """Whether ``NO_COLOR`` asks for text without colours."""
    return bool(os.environ.get("NO_COLOR"))


def rank() -> int:
    """Number of this process among all of the run: torchrun's ``RANK``, else Slurm's ``SLURM_PROCID``, else 0.

    Raises:
        ValueError: the variable is no number from 0 on.
    """
    return _count(("RANK", "SLURM_PROCID"), 0)


def local_rank() -> int:
    """Number of this process on its machine: torchrun's ``LOCAL_RANK``, else Slurm's ``SLURM_LOCALID``, else 0.

    Raises:
        ValueError: the variable is no number from 0 on.
    """
    return _count(("LOCAL_RANK", "SLURM_LOCALID"), 0)


def world_size() -> int:
    """How many processes the run has: torchrun's ``WORLD_SIZE``, else Slurm's ``SLURM_NTASKS``, else 1.

    Raises:
        ValueError: the variable is no number from 0 on.
    """
    return _count(("WORLD_SIZE", "SLURM_NTASKS"), 1)


def local_world_size() -> int | None:
    """How many processes of the run this machine has: torchrun's ``LOCAL_WORLD_SIZE``; None outside of torchrun.

    Raises:
        ValueError: the variable is no number from 0 on.
    """
    return _count(("LOCAL_WORLD_SIZE",), 0) or None


def run_id() -> str | None:
    """Name of the run: torchrun's ``TORCHELASTIC_RUN_ID`` (``none`` if it was given none), else ``SLURM_JOB_ID``."""
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return named if named not in {"", "none"} else os.environ.get("SLURM_JOB_ID") or None


def error_file() -> str | None:
    """Where torchrun looks for the error of this process: ``TORCHELASTIC_ERROR_FILE``; None outside of torchrun."""
    return os.environ.get("TORCHELASTIC_ERROR_FILE") or None


def compiler() -> str | None:
    """The C++ compiler that ``CXX`` names; None if it is not set or empty."""
    return os.environ.get("CXX") or None


def cache_home() -> Path:
    """Where caches of a user are: ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else Path.home() / ".cache"


def _count(variables: tuple[str, ...], default: int) -> int:
    for variable in variables:
        text = os.environ.get(variable)
        if text:
            if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT):
                msg = f"{variable}={text[:40]!r} has to be a number, 0 or more (or unset)"
                raise ValueError(msg)
            return int(text)
    return default


def variables() -> tuple[str, ...]:
    """The names of all variables that this module reads, from its constants ``..._VARIABLE``."""
    return tuple(value for name, value in globals().items() if name.endswith("_VARIABLE"))


def environment() -> dict[str, str]:
    """All variables of this process, as they are now."""
    return dict(os.environ)
