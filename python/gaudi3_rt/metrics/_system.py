"""How is the machine doing? Read by psutil at the time of a scrape."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from gaudi3_rt._cpu_times import CpuUtilization
from gaudi3_rt.metrics._catalogue import BOUNDS
from gaudi3_rt.metrics._store import LONGEST_LABEL, Labels, clean

PATIENCE = 0.2
"""Seconds that a scrape waits for a file system; one that hangs is waited for once, not at every scrape."""
LOOPBACK = "lo"

_log = logging.getLogger(__name__)


class System:
    """Readings of CPU, memory, disks and network; what the machine does not say, or not in time, is left out.

    Args:
        mountpoints: file systems whose space is read; None for those of this machine's disks.
    """

    def __init__(self, mountpoints: Iterable[str | os.PathLike[str]] | None = None) -> None:
        self._mountpoints = None if mountpoints is None else [os.fspath(path) for path in mountpoints]
        self._cpu = CpuUtilization()
        self._disks, self._interfaces = _Growth(), _Growth()
        self._spaces: dict[str, _Space] = {}
        self._lock = threading.Lock()

    def __call__(self) -> dict[str, Mapping[Labels, float]]:
        """Figures by names of the catalogue, then by labels."""
        with self._lock:  # scrapes come side by side
            memory = _try(psutil.virtual_memory)
            disks = _try(psutil.disk_io_counters)
            interfaces = _try(psutil.net_io_counters, pernic=True) or {}
            read, written = self._disks.add({} if disks is None else {"": (disks.read_bytes, disks.write_bytes)})
            received, sent = self._interfaces.add(
                {name: (one.bytes_recv, one.bytes_sent) for name, one in interfaces.items() if name != LOOPBACK}
            )
            figures = {
                "cpu_utilization_ratio": _try(self._cpu.read),
                "memory_used_bytes": None if memory is None else memory.total - memory.available,
                "memory_total_bytes": None if memory is None else memory.total,
                "disk_read_bytes_total": read,
                "disk_written_bytes_total": written,
                "network_received_bytes_total": received,
                "network_transmitted_bytes_total": sent,
            }
            spaces = self._read_spaces()
        found: dict[str, Mapping[Labels, float]] = {
            f"system_{name}": {(): value} for name, value in figures.items() if value is not None
        }
        found["system_disk_used_bytes"] = {labels: used for labels, (used, _) in spaces.items()}
        found["system_disk_total_bytes"] = {labels: total for labels, (_, total) in spaces.items()}
        return found

    def _read_spaces(self) -> dict[Labels, tuple[int, int]]:
        """Used and total bytes by mountpoint, as many as the catalogue has room for."""
        paths = _mountpoints_of_disks() if self._mountpoints is None else self._mountpoints
        found: dict[Labels, tuple[int, int]] = {}
        for path in paths[: BOUNDS["mountpoint"]]:
            reading = self._spaces.setdefault(path, _Space(path)).read()
            if reading is not None and len(path) <= LONGEST_LABEL:
                found[clean(path),] = reading
        self._spaces = {path: space for path, space in self._spaces.items() if path in paths}
        return found


def _try(read: Callable[..., Any], **options: Any) -> Any:
    """A reading; None where the system does not have it, or keeps it from us, as some containers do."""
    try:
        return read(**options)
    except (OSError, RuntimeError, ValueError, psutil.Error) as error:
        _log.debug("%s cannot be read: %s", read, error)
        return None


class _Growth:
    """Sums that only grow, of counters that can vanish with what they count.

    A sum of what is there would fall when an interface goes, and Prometheus would take it for a counter that began
    anew, and all of it for growth.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int]] = {}
        self._sums: tuple[int, int] | None = None

    def add(self, readings: dict[str, tuple[int, int]]) -> tuple[int | None, int | None]:
        """Both sums after these readings; None as long as there was none."""
        if not readings and self._sums is None:
            return None, None
        first, second = self._sums or (0, 0)
        for name, (one, other) in readings.items():
            old = self._before.get(name, (0, 0))
            first += one - old[0] if one >= old[0] else one
            second += other - old[1] if other >= old[1] else other
        self._before, self._sums = readings, (first, second)
        return self._sums


class _Space:
    """The space of one file system, read in a thread, as the kernel may wait for a server that is gone."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread: threading.Thread | None = None
        self._reading: tuple[int, int] | None = None

    def read(self) -> tuple[int, int] | None:
        """Used and total bytes; None if it hangs or is not there."""
        if self._thread is not None and self._thread.is_alive():
            return None
        self._reading = None
        thread = threading.Thread(target=self._read, name=f"space of {self._path}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads; the other figures are scraped
            _log.debug("the space of %s cannot be read: %s", self._path, error)
            return None
        self._thread = thread
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            _log.warning("the file system at %s does not answer; its space is left out until it does", self._path)
            return None
        return self._reading

    def _read(self) -> None:
        try:
            usage = psutil.disk_usage(self._path)
        except OSError as error:
            _log.debug("the space of %s cannot be read: %s", self._path, error)
            return
        self._reading = usage.used, usage.used + usage.free  # without what is kept for the superuser, as df has it


def _mountpoints_of_disks() -> list[str]:
    """One for each disk, and the root, which in a container is on none."""
    shortest: dict[str, str] = {}
    for partition in _try(psutil.disk_partitions, all=False) or ():
        path = partition.mountpoint
        if len(path) < len(shortest.get(partition.device, path + " ")) and Path(path).is_dir():
            shortest[partition.device] = path  # a container has files of its host's disk mounted, too
    return sorted({"/", *shortest.values()})
