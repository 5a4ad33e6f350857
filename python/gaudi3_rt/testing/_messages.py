"""What Gaudi's software says when something fails, word for word where it is public: what retry code has to recognise.

Sources: the descriptions of status codes and the forms of messages are in HabanaAI/Intel_Gaudi3_Software
(``syn_singleton.cpp``) and HabanaAI/gaudi-pytorch-bridge (``logging.h``, ``graph.cpp``, ``device*.cpp``); as
users saw them: tgi-gaudi#93, optimum-habana#1426 and #1611, Model-References#10.
"""

from __future__ import annotations


class SimulatedError(RuntimeError):
    """What a software HPU raises: a ``RuntimeError`` with the bridge's words, whose traceback says that nothing failed.

    Attributes:
        simulated: True.
    """

    simulated = True


STATUS = {
    4: "Out of Device memory (OOM)",
    7: "Failed to submit Command-Submission",
    8: "Device not found",
    14: "Failed to allocate Device memory",
    16: "Not enough devices found",
    17: "Device in reset",
    20: "Device already acquired",
    22: "Device is busy - operation not yet completed",
    23: "All resources are taken",
    24: "Unavailable resource (was not found)",
    26: "Generic failure",
    27: "Out-Of-Resources",
    37: "Workload submission had failed",
    40: "Got failure from HCCL",
    42: "Got timeout notification from Driver",
}
"""Codes that a running program can meet, and their descriptions."""

ALREADY_ACQUIRED = 20
NOT_FOUND = 8
IN_RESET = 17
GENERIC = 26


def acquire_failed(status: int) -> str:
    """A device cannot be acquired."""
    where = " No devices found." if status == NOT_FOUND else ""
    return f"synStatus={status} [{STATUS[status]}] Device acquire failed.{where}"


def launch_failed(status: int, rank: int) -> str:
    """A graph cannot be compiled, which is what status 26 mostly is, or not be launched."""
    if status == ALREADY_ACQUIRED:
        return acquire_failed(status)
    what = "Graph compile failed" if status == GENERIC else "synLaunch failed"
    return (
        f"[Rank:{rank}] FATAL ERROR :: MODULE:PT_BRIDGE Exception in Launch thread...\n"
        f"Check $HABANA_LOGS/ for details{what}. synStatus=synStatus {status} [{STATUS[status]}]. "
    )


def allocation_failed(size: int, rank: int) -> str:
    """No room for a tensor of ``size`` bytes."""
    return f"[Rank:{rank}] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::{size} ({size / 2**20:g})MB"


def workspace_failed(size: int, rank: int) -> str:
    """No room for the workspace of a graph."""
    return f"[Rank:{rank}] FATAL ERROR :: MODULE:PT_SYNHELPER workspace Allocation of size ::{size} failed!"
