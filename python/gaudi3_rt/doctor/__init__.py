"""Whether this machine can train, and what to do where it cannot: versions, devices, drivers, environment, resources.

Stands above the services and below the command ``gaudi3-rt doctor``. It reads files, package metadata and sensors; it
imports nothing of Habana's, acquires no device and changes nothing.
"""

from gaudi3_rt.doctor._devices import DeviceStatus, status_of
from gaudi3_rt.doctor._examine import SECTIONS, examine
from gaudi3_rt.doctor._report import FORMAT_VERSION, Finding, Report, Section

__all__ = ["FORMAT_VERSION", "SECTIONS", "DeviceStatus", "Finding", "Report", "Section", "examine", "status_of"]
