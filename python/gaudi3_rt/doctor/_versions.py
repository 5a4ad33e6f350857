"""Which versions are installed, and whether they fit; package metadata is read, nothing is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from gaudi3_rt import _providers, device
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section

INSTALLER = "https://vault.habana.ai/artifactory/gaudi-installer"
"""Where Habana's installer is, by release (docs.habana.ai, Driver and Software Installation)."""

_RELEASE = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_REPLACED = "huggingface/optimum-habana#2366"
_ALLOWED = {
    "torch": "Gaudi's own build, such as 2.10.0a0+git979b46c or 2.7.1+hpu.1.22.0",
    "plugin": "the release of the driver",
    "driver": "the driver habanalabs, of the plugin's release",
}


def probe(host: Host) -> Section:
    """The section ``versions``."""
    found = device.versions(root=host.root, environment=host.environment)
    facts = _facts(found)
    findings = [_finding(finding, facts) for finding in found.findings]
    if _providers.find("simulated") is not None:
        claimed = device.versions(simulated=True, root=host.root, environment=host.environment)
        simulated = {name: getattr(claimed, name) for name in ("torch", "plugin", "driver", "firmware")}
        facts["simulated"] = simulated
        findings += [_finding(finding, simulated, simulated=True) for finding in claimed.findings]
    return Section(name="versions", facts=facts, findings=tuple(findings))


def _facts(found: device.Versions) -> dict[str, Any]:
    """By name; None for what is not there."""
    return {
        "python": found.python,
        "torch": found.torch,
        "gaudi3_rt": found.gaudi3_rt,
        "numpy": _installed("numpy"),
        "plugin": found.plugin,
        "pyhlml": found.pyhlml,
        "driver": found.driver,
        "firmware": found.firmware,
    }


def _installed(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _finding(found: device.Finding, versions: Mapping[str, Any], *, simulated: bool = False) -> Finding:
    """One of the version matrix, with the command that mends it."""
    is_torch = found.subject == "torch"
    mend = (
        f"{installer(versions)}; install other packages with --no-deps, or with a constraints file that has this torch"
    )
    return Finding(
        severity=found.severity,
        what=f"simulated: {found.message}" if simulated else found.message,
        seen=str(versions.get(found.subject) or "none"),
        allowed=_ALLOWED.get(found.subject, ""),
        todo=mend if is_torch and not simulated else found.advice,
        source=f"{_REPLACED}; {found.source}" if is_torch else found.source,
        configuration=True,
    )


def installer(versions: Mapping[str, Any], *, in_venv: bool | None = None) -> str:
    """The command that installs Gaudi's torch and plugin again.

    Args:
        versions: of ``driver`` and ``plugin``, whose release the installer has to have.
        in_venv: whether Python runs in a virtual environment; found out if it is not said.
    """
    match = next((m for name in ("driver", "plugin") if (m := _RELEASE.match(str(versions.get(name))))), None)
    in_venv = sys.prefix != sys.base_prefix if in_venv is None else in_venv
    return (
        f"wget -nv {INSTALLER}/{match[0] if match else 'latest'}/habanalabs-installer.sh && "
        f"bash habanalabs-installer.sh install --type pytorch{' --venv' if in_venv else ''}"
    )
