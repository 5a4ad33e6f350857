"""Fused optimizers with torch.optim's numerics, for CPUs and Intel Gaudi, and the services around a long training run.

``import gaudi3_rt`` starts no thread, writes no environment variable and acquires no device. The services are imported
when they are first used, and what they need with them.
"""

import importlib
import logging
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

import torch  # noqa: F401  (first: the kernels run in the OpenMP runtime that torch loads)

from gaudi3_rt import amp, grads, hpu, optim, reduce
from gaudi3_rt._build import build_info

if TYPE_CHECKING:
    from gaudi3_rt import (
        audit,
        config,
        device,
        doctor,
        endpoints,
        errors,
        events,
        health,
        log,
        memory,
        metrics,
        monitor,
        numerics,
        report,
        retry,
        testing,
        tpc,
        validation,
    )

__all__ = [
    "amp",
    "audit",
    "build_info",
    "config",
    "device",
    "doctor",
    "endpoints",
    "errors",
    "events",
    "grads",
    "health",
    "hpu",
    "log",
    "memory",
    "metrics",
    "monitor",
    "numerics",
    "optim",
    "reduce",
    "report",
    "retry",
    "testing",
    "tpc",
    "validation",
]
__version__ = version("gaudi3_rt")

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what a library logs is written when it is asked for


def __getattr__(name: str) -> ModuleType:
    """The services, by name (PEP 562)."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return importlib.import_module(f"{__name__}.{name}")
