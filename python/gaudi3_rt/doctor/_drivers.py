"""The driver of Gaudi and what a process needs to reach it: kernel module, device nodes, libraries, tools, limits."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from gaudi3_rt.device import _machine
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section

MODULE = "habanalabs"
LIBRARY = "usr/lib/habanalabs/libhlml.so"
"""Where pyhlml looks for HLML; it looks nowhere else."""

_INSTALLATION = "docs.habana.ai, Driver and Software Installation"
_CONTAINER = "docs.habana.ai, Docker Installation"


def probe(host: Host) -> Section:
    """The section ``drivers``."""
    meminfo = host.meminfo()
    nodes = [_node(host, module) for module in host.modules]
    facts = {
        "kernel_module": (host.root / "sys/module" / MODULE).is_dir(),
        "driver_version": _machine.read(host.root / "sys/module" / MODULE / "version"),
        "pci_devices": _boards(host.root),
        "nodes": nodes,
        "libhlml": _existing(host.root / LIBRARY, f"/{LIBRARY}"),
        "hl_smi": shutil.which("hl-smi", path=host.environment.get("PATH", os.defpath)),
        "hugepages_total": meminfo.get("HugePages_Total"),
        "hugepages_free": meminfo.get("HugePages_Free"),
        "hugepage_bytes": meminfo.get("Hugepagesize"),
        "memlock_bytes": _memlock(),
    }
    findings = [*_driver(facts), *_access(nodes)]
    if nodes:
        findings += [*_tools(facts), *_hugepages(facts)]
    return Section(name="drivers", facts=facts, findings=tuple(findings))


def _boards(root: Path) -> int:
    """Boards of Habana's on the PCI bus."""
    try:
        vendors = [_machine.read(folder / "vendor") for folder in (root / "sys/bus/pci/devices").iterdir()]
    except OSError:
        return 0
    return vendors.count(_machine._VENDOR)


def _node(host: Host, module: _machine.Module) -> dict[str, Any]:
    """A device node: who may use it, and whether this process may."""
    path = host.root / module.node.removeprefix("/")
    try:
        status = path.stat()
    except OSError:
        return {"path": module.node, "mode": None, "uid": None, "gid": None, "usable": False}
    usable = os.access(path, os.R_OK | os.W_OK)
    mode = stat.filemode(status.st_mode)
    return {"path": module.node, "mode": mode, "uid": status.st_uid, "gid": status.st_gid, "usable": usable}


def _existing(path: Path, shown: str) -> str | None:
    """A path if something is there."""
    return shown if path.exists() else None


def _memlock() -> int | str | None:
    """``ulimit -l``, or ``unlimited``; None if there is no way to ask for it."""
    if not hasattr(psutil, "RLIMIT_MEMLOCK"):
        return None
    soft, _ = psutil.Process().rlimit(psutil.RLIMIT_MEMLOCK)
    return "unlimited" if soft == psutil.RLIM_INFINITY else int(soft)


def _driver(facts: dict[str, Any]) -> Iterator[Finding]:
    """Boards without a driver, and a driver without nodes."""
    if facts["pci_devices"] and not facts["kernel_module"]:
        yield Finding(
            severity="error",
            what=f"{facts['pci_devices']} Gaudi boards are on the PCI bus, but the module {MODULE} is not loaded",
            todo=f"sudo modprobe {MODULE}; if there is none: habanalabs-installer.sh install --type base",
            source=_INSTALLATION,
        )
    elif facts["kernel_module"] and not facts["nodes"]:
        yield Finding(
            severity="error",
            what=f"the module {MODULE} is loaded, but there are no nodes in /dev/accel",
            todo="in a container: docker run --runtime=habana -e HABANA_VISIBLE_DEVICES=all ..., or ask for "
            f"habana.ai/gaudi in the pod; on a host: dmesg -T | grep -i {MODULE}",
            source=_CONTAINER,
        )
    elif facts["pci_devices"] > len(facts["nodes"]) > 0:
        yield Finding(
            severity="warning",
            what="fewer HPUs can be used than there are boards",
            seen=f"{len(facts['nodes'])} nodes, {facts['pci_devices']} boards",
            todo=f"in a container that has some of them this is right; on a host: dmesg -T | grep -i {MODULE}",
            source=_CONTAINER,
        )


def _access(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """Nodes that this process may not open."""
    closed = [node for node in nodes if not node["usable"]]
    if closed:
        first = closed[0]
        yield Finding(
            severity="error",
            what=f"this process may not read and write {', '.join(node['path'] for node in closed)}",
            seen=f"mode {first['mode']}, owner {first['uid']}, group {first['gid']}; this is user {os.geteuid()}",
            allowed="read and write for this user or one of its groups",
            todo=f"ls -l {first['path']}; join its group (sudo usermod -aG GROUP $USER, then log in again)",
            source="open(2)",
        )


def _tools(facts: dict[str, Any]) -> Iterator[Finding]:
    """No way to read sensors."""
    if facts["libhlml"] is None and facts["hl_smi"] is None:
        yield Finding(
            severity="warning",
            what=f"there is neither HLML (/{LIBRARY}) nor hl-smi, so temperature, power and errors cannot be read",
            todo="install habanalabs-firmware-tools of the driver's release",
            source="docs.habana.ai, Custom Driver and Software Installation",
        )


def _hugepages(facts: dict[str, Any]) -> Iterator[Finding]:
    """None free: the runtime goes on with small ones."""
    if facts["hugepages_free"] == 0:
        yield Finding(
            severity="warning",
            what="no huge pages are free; the runtime goes on with small ones, more slowly",
            seen=f"{facts['hugepages_free']} free of {facts['hugepages_total']}",
            todo="sudo sysctl -w vm.nr_hugepages=N; in Kubernetes, hugepages-2Mi among the resources of the pod",
            source="SynapseAI: buffer_allocator.cpp (HabanaAI/Intel_Gaudi3_Software)",
        )
