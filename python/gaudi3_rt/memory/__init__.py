"""Memory of devices and processes: monitor, leaks, reports on allocation failures, and plans of what will fit."""

from gaudi3_rt._protocols import MemoryStats
from gaudi3_rt.memory._explain import explain_oom, is_allocation_failure
from gaudi3_rt.memory._findings import Mark
from gaudi3_rt.memory._leak import Leak
from gaudi3_rt.memory._monitor import MemoryMonitor
from gaudi3_rt.memory._owners import report
from gaudi3_rt.memory._plan import GAUDI_MEMORY, Plan, PlanItem, Verdict
from gaudi3_rt.memory._planning import plan
from gaudi3_rt.memory._report import Holding, MemoryReport
from gaudi3_rt.memory._sources import MemorySource, ProcessMemory
from gaudi3_rt.memory._timeline import Point

__all__ = [
    "GAUDI_MEMORY",
    "Holding",
    "Leak",
    "Mark",
    "MemoryMonitor",
    "MemoryReport",
    "MemorySource",
    "MemoryStats",
    "Plan",
    "PlanItem",
    "Point",
    "ProcessMemory",
    "Verdict",
    "explain_oom",
    "is_allocation_failure",
    "plan",
    "report",
]
