"""HPUs made of software, a clock that a test moves, and events as a list: for tests of your own code on a laptop.

``import gaudi3_rt.testing`` changes nothing; a :class:`SoftwareHPU` exists while its block runs, is never chosen
automatically, and says ``simulated`` wherever its numbers appear.
"""

from gaudi3_rt.events import capture_events
from gaudi3_rt.testing._clock import FakeClock
from gaudi3_rt.testing._device import Allocation, SoftwareDevice
from gaudi3_rt.testing._faults import KINDS, Fault, parse_script
from gaudi3_rt.testing._messages import SimulatedError
from gaudi3_rt.testing._queue import Graph, Queue
from gaudi3_rt.testing._software_hpu import SoftwareHPU
from gaudi3_rt.testing._torch_hpu import SoftwareTorchHpu

__all__ = [
    "KINDS",
    "Allocation",
    "FakeClock",
    "Fault",
    "Graph",
    "Queue",
    "SimulatedError",
    "SoftwareDevice",
    "SoftwareHPU",
    "SoftwareTorchHpu",
    "capture_events",
    "parse_script",
]
