"""The CPU as a device: this process's memory, and queues that are always empty."""

from __future__ import annotations

import platform

import psutil

from gaudi3_rt._cpu_times import CpuUtilization
from gaudi3_rt._process_memory import process_memory_stats, reset_peak
from gaudi3_rt._protocols import DeviceProperties, MemoryStats, Telemetry

_MODEL = "model name"


class CpuDevice:
    """The processors of this machine. Its memory is that of this process; see ``process_memory_stats``."""

    name = "cpu"
    simulated = False
    torch_device = "cpu"
    acquired = True

    def __init__(self) -> None:
        self._utilization = CpuUtilization()

    def __repr__(self) -> str:
        return "<CpuDevice cpu>"

    def open(self) -> None:
        """Nothing has to be acquired."""

    def close(self) -> None:
        """Nothing has to be released."""

    def properties(self) -> DeviceProperties:
        """The processor's name and the machine's memory."""
        return DeviceProperties(name=_processor(), kind="cpu", index=0, total_memory=psutil.virtual_memory().total)

    def memory_stats(self) -> MemoryStats:
        """Resident set of this process, its peak, and its limit: the least of cgroup, ``ulimit -v`` and machine."""
        return process_memory_stats()

    def reset_peak_memory(self) -> None:
        """The peak is counted anew; where the kernel does not let its counter be reset, from readings."""
        reset_peak()

    def telemetry(self) -> Telemetry:
        """Memory of the machine and utilization of all its processors since the last call; never raises.

        The utilization is None as long as hardly any time has passed.
        """
        memory = psutil.virtual_memory()
        return Telemetry(
            utilization_ratio=self._utilization.read(),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
        )

    def synchronize(self) -> None:
        """Operations on a CPU have ended when they return."""

    def mark_step(self) -> None:
        """There is no queue."""


def _processor() -> str:
    """As /proc/cpuinfo has it; where there is none, as Python knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 (read up to the first match)
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == _MODEL:
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
