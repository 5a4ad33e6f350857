"""How much memory a process holds, and how much it may have: for the ``cpu`` device and for a monitor without one."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from gaudi3_rt._protocols import MemoryStats

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_CGROUP_LINE = re.compile(r"\d+:([^:]*):(.*)")
_V1_UNLIMITED = 1 << 60
"""Version 1 writes the largest multiple of a page below 2**63 for no limit."""


def process_memory_stats(pid: int | None = None) -> MemoryStats:
    """Memory of a process, by default of this one: its resident set, the peak of that, and its limit. In bytes.

    The peak is the kernel's own (``VmHWM``; elsewhere ``ru_maxrss``, of this process only), so nothing between two
    readings is missed. What the allocator keeps in reserve is not known.

    Raises:
        psutil.NoSuchProcess: there is no such process, or no longer.
        psutil.AccessDenied: it belongs to somebody else, and the system does not let us look.
    """
    process = psutil.Process(pid)
    resident = process.memory_info().rss
    highest = _high_water_mark(process.pid)
    own = process.pid == os.getpid()
    peak = _OWN_PEAK.since_reset(resident, highest) if own else highest
    return MemoryStats(
        allocated=resident, reserved=None, peak=max(resident, peak or 0), limit=memory_limit(process.pid)
    )


def reset_peak() -> None:
    """The peak of this process is from now on counted anew.

    Where the kernel does not let its counter be reset, the peak afterwards is exact once it exceeds that of before;
    until then it is the largest reading since.
    """
    try:
        (PROC / "self" / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        _OWN_PEAK.reset(_high_water_mark(os.getpid()) or 0)
    else:
        _OWN_PEAK.reset(0)


def memory_limit(pid: int | None = None, *, proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """The most that a process can hold, in bytes: the least of its cgroups' limits, its own, and the machine's memory.

    Other processes share the machine and the cgroup, so there may be less.

    Args:
        pid: which process; by default this one.
        proc: where ``/proc`` is.
        cgroup: where the cgroups are mounted.
    """
    pid = os.getpid() if pid is None else pid
    groups = (limit for limit, _ in _limited_groups(pid, proc, cgroup))
    return min([psutil.virtual_memory().total, *groups, *_address_space(pid)])


def group_memory(pid: int | None = None, *, proc: Path = PROC, cgroup: Path = CGROUP) -> tuple[int, int] | None:
    """What the cgroup with the least limit around a process uses, and that limit; None if no group has one. In bytes.

    What it uses is its working set, as Kubernetes counts it: without cached files that nobody has touched lately.

    Args:
        pid: which process; by default this one.
        proc: where ``/proc`` is.
        cgroup: where the cgroups are mounted.
    """
    limited = sorted(_limited_groups(os.getpid() if pid is None else pid, proc, cgroup), key=lambda one: one[0])
    for limit, folder in limited:
        for current, inactive in (
            ("memory.current", "inactive_file"),
            ("memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                used = int((folder / current).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):
                continue
            idle = next((int(line.split()[1]) for line in lines if line.startswith(f"{inactive} ")), 0)
            return max(used - idle, 0), limit
    return None


class _Peak:
    """The peak since a reset that the kernel may have refused."""

    def __init__(self) -> None:
        self._before = 0
        self._seen = 0
        self._lock = threading.Lock()

    def reset(self, before: int) -> None:
        with self._lock:
            self._before, self._seen = before, 0

    def since_reset(self, resident: int, highest: int | None) -> int:
        with self._lock:
            self._seen = max(self._seen, resident)
            if highest is None or highest <= self._before:
                return self._seen
            return max(self._seen, highest)  # the kernel counts in batches per CPU and may lag behind


_OWN_PEAK = _Peak()
if hasattr(os, "register_at_fork"):  # a child has its own peak, and nobody in it would release a lock that was held
    os.register_at_fork(after_in_child=_OWN_PEAK.__init__)  # type: ignore[misc]  # made anew, in place


def _high_water_mark(pid: int) -> int | None:
    """The largest resident set that the kernel has counted; None if it does not tell."""
    try:
        found = _PEAK.search((PROC / str(pid) / "status").read_bytes())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    if pid != os.getpid():
        return None
    import resource  # noqa: PLC0415 (only where /proc is missing)

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024  # getrusage(2): kilobytes; bytes on macOS


def _limited_groups(pid: int, proc: Path, cgroup: Path) -> Iterator[tuple[int, Path]]:
    """Limits and folders of the groups that a process is in, of version 1 and 2, and of all groups around them."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        found = _CGROUP_LINE.fullmatch(line)
        if found is None:
            continue
        controllers, path = found[1], found[2]
        if controllers == "":
            yield from _limits_upwards(cgroup, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_upwards(cgroup / "memory", path, "memory.limit_in_bytes")


def _limits_upwards(root: Path, path: str, name: str) -> Iterator[tuple[int, Path]]:
    """Those with a limit, from a group up to the root.

    In a container the path may be the host's; then only the root is there.
    """
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            text = "max"
        if text.isdigit() and int(text) < _V1_UNLIMITED:
            yield int(text), folder
        if folder == root:
            return


def _address_space(pid: int) -> Iterator[int]:
    """``ulimit -v``: what is resident is never more than what is mapped."""
    if not hasattr(psutil, "RLIMIT_AS"):
        return
    try:
        soft, _ = psutil.Process(pid).rlimit(psutil.RLIMIT_AS)
    except psutil.Error:
        return
    if soft != psutil.RLIM_INFINITY:
        yield soft
