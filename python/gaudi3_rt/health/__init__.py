"""Is a run well? Checks of devices, machine, services, files and processes, at an interval, and what they add up to.

``import gaudi3_rt.health`` starts nothing. See docs/health.md.
"""

from gaudi3_rt.health._check import Check, FunctionCheck, HealthCheck
from gaudi3_rt.health._defaults import create_default_hpu_health_checks
from gaudi3_rt.health._files import FileSystemCheck
from gaudi3_rt.health._heartbeat import Heartbeat, heartbeat
from gaudi3_rt.health._hpu import HpuDeviceCheck
from gaudi3_rt.health._monitor import HealthMonitor
from gaudi3_rt.health._network import NetworkCheck
from gaudi3_rt.health._process import ProcessCheck
from gaudi3_rt.health._service import HttpServiceCheck, TcpServiceCheck
from gaudi3_rt.health._status import CheckResult, HealthReport, HealthStatus, Outcome, roll_up
from gaudi3_rt.health._system import SystemResourcesCheck

__all__ = [
    "Check",
    "CheckResult",
    "FileSystemCheck",
    "FunctionCheck",
    "HealthCheck",
    "HealthMonitor",
    "HealthReport",
    "HealthStatus",
    "Heartbeat",
    "HpuDeviceCheck",
    "HttpServiceCheck",
    "NetworkCheck",
    "Outcome",
    "ProcessCheck",
    "SystemResourcesCheck",
    "TcpServiceCheck",
    "create_default_hpu_health_checks",
    "heartbeat",
    "roll_up",
]
