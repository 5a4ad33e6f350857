"""Devices: which there are, which one this process gets, what they say of themselves, and whether versions fit.

``import gaudi3_rt.device`` imports nothing of Habana's, opens no device and starts nothing.
"""

from gaudi3_rt._protocols import Device, DeviceProperties, MemoryStats, Telemetry
from gaudi3_rt.device._acquire import acquire
from gaudi3_rt.device._environment import VARIABLES, Variable, check_environment
from gaudi3_rt.device._findings import Finding
from gaudi3_rt.device._sampler import DeviceSampler
from gaudi3_rt.device._select import devices
from gaudi3_rt.device._spec import DeviceSpec, parse_spec
from gaudi3_rt.device._versions import Versions, mismatches, versions

__all__ = [
    "VARIABLES",
    "Device",
    "DeviceProperties",
    "DeviceSampler",
    "DeviceSpec",
    "Finding",
    "MemoryStats",
    "Telemetry",
    "Variable",
    "Versions",
    "acquire",
    "check_environment",
    "devices",
    "mismatches",
    "parse_spec",
    "versions",
]
