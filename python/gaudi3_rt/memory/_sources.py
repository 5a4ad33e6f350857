"""What a monitor can watch: a device, or a process by its number."""

from __future__ import annotations

import os
from typing import Protocol

from gaudi3_rt import _process_memory
from gaudi3_rt._protocols import MemoryStats


class MemorySource(Protocol):
    """The part of a ``Device`` that a monitor uses."""

    @property
    def name(self) -> str: ...
    @property
    def simulated(self) -> bool: ...
    def memory_stats(self) -> MemoryStats: ...


class ProcessMemory:
    """Memory of a process of this machine: its resident set, against the tightest limit around it.

    Args:
        pid: which process; by default this one.
    """

    simulated = False

    def __init__(self, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else pid
        self.name = f"process {self.pid}"

    def memory_stats(self) -> MemoryStats:
        """Read now; see ``gaudi3_rt._process_memory.process_memory_stats``.

        Raises:
            psutil.NoSuchProcess: it has ended.
            psutil.AccessDenied: it belongs to somebody else, and the system does not let us look.
        """
        return _process_memory.process_memory_stats(self.pid)
