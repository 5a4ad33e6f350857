"""Room for checkpoints, and memory of the host as far as this process may have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaudi3_rt._process_memory import memory_limit
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section

SCARCE = 0.05
"""The part of a disk or of memory below which what is free is called scarce."""

SMALL_SHM = 64 << 20
"""Bytes of /dev/shm that Docker gives a container unless told otherwise."""


def probe_disk(host: Host) -> Section:
    """The section ``disk``, of the folder for checkpoints."""
    names = ("path", "exists", "writable", "total_bytes", "free_bytes", "free_inodes", "total_inodes")
    facts: dict[str, Any] = dict.fromkeys(names)
    folder = host.checkpoint_dir
    if folder is None:
        return Section(name="disk", facts=facts)
    facts.update(path=str(folder), exists=folder.is_dir())
    if not folder.is_dir():
        return Section(name="disk", facts=facts, findings=(_no_folder(folder),))
    status = os.statvfs(folder)
    facts.update(
        writable=os.access(folder, os.W_OK | os.X_OK),
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        total_inodes=status.f_files,
        free_inodes=status.f_favail,
    )
    return Section(name="disk", facts=facts, findings=tuple(_disk(folder, facts)))


def _no_folder(folder: Path) -> Finding:
    """Nothing there, or something else."""
    kind = "not a folder" if folder.exists() else "not there"
    return Finding(
        severity="error",
        what=f"the folder for checkpoints, {folder}, is {kind}",
        todo=f"mkdir -p {folder}, mount its file system, or give another --checkpoint-dir",
        source="mkdir(1)",
        configuration=True,
    )


def _disk(folder: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """A folder that cannot be written to, or hardly."""
    if not facts["writable"]:
        yield Finding(
            severity="error",
            what=f"this process may not write to {folder}",
            todo=f"ls -ld {folder}; findmnt -T {folder} (is it mounted read-only?)",
            source="access(2)",
            configuration=True,
        )
    for what, unit in (("bytes", "bytes"), ("inodes", "inodes")):
        free, total = facts[f"free_{what}"], facts[f"total_{what}"]
        if total and free < SCARCE * total:  # some file systems have no fixed number of inodes and say 0
            yield Finding(
                severity="error" if free == 0 else "warning",
                what=f"the file system of {folder} is {'full' if free == 0 else 'nearly full'}",
                seen=f"{free} of {total} {unit} free",
                allowed=f"at least {SCARCE:.0%}",
                todo=f"df -h {folder}; df -i {folder}; keep fewer checkpoints, or write to another file system",
                source="statvfs(3)",
            )


def probe_memory(host: Host) -> Section:
    """The section ``memory``."""
    meminfo = host.meminfo()
    total, available = meminfo.get("MemTotal"), meminfo.get("MemAvailable")
    limit = memory_limit(proc=host.root / "proc", cgroup=host.root / "sys/fs/cgroup")
    limit = limit if total is None else min(limit, total)
    shm_total, shm_free = _shm(host.root / "dev/shm")
    facts = {
        "total_bytes": total,
        "available_bytes": available,
        "limit_bytes": limit,
        "shm_total_bytes": shm_total,
        "shm_free_bytes": shm_free,
    }
    return Section(name="memory", facts=facts, findings=tuple(_memory(facts)))


def _shm(folder: Path) -> tuple[int | None, int | None]:
    """Size of shared memory, and how much of it is free."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None, None
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def _memory(facts: dict[str, Any]) -> Iterator[Finding]:
    """Little memory, or little of it shared."""
    total, available, shm = facts["total_bytes"], facts["available_bytes"], facts["shm_total_bytes"]
    if total and available is not None and available < SCARCE * total:
        yield Finding(
            severity="warning",
            what="the machine's memory is nearly all in use",
            seen=f"{available} of {total} bytes available",
            allowed=f"at least {SCARCE:.0%}",
            todo="free -h; ps aux --sort=-rss | head; end what is not needed",
            source="/proc/meminfo, MemAvailable",
        )
    if shm is not None and shm <= SMALL_SHM:
        yield Finding(
            severity="warning",
            what="/dev/shm is small; workers of a DataLoader pass batches through it, and crash when it is full",  # noqa: S108 (nothing is written)
            seen=f"{shm} bytes",
            todo="docker run --ipc=host, or --shm-size=8g; in a pod, mount an emptyDir of medium Memory at /dev/shm",
            source="PyTorch, README: Docker image; docker run --shm-size",
            configuration=True,
        )
