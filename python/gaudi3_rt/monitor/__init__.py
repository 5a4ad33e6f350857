"""How is training going? Steps and their parts, anomalies, and the history of a run, as events and in a file.

The adapters ``monitor.huggingface`` and ``monitor.lightning`` are imported when they are first used, because they
import those.
"""

import importlib
from types import ModuleType

from gaudi3_rt.monitor._divergence import Divergence
from gaudi3_rt.monitor._monitor import TrainingMonitor
from gaudi3_rt.monitor._read import History, iterate_history, read_history
from gaudi3_rt.monitor._step import Checkpoint, Step

__all__ = ["Checkpoint", "Divergence", "History", "Step", "TrainingMonitor", "iterate_history", "read_history"]

_ADAPTERS = ("huggingface", "lightning")


def __getattr__(name: str) -> ModuleType:
    """The adapters, by name (PEP 562)."""
    if name not in _ADAPTERS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return importlib.import_module(f"{__name__}.{name}")
