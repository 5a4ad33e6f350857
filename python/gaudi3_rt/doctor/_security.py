"""Whether this torch has holes that a checkpoint of somebody else can use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section, Severity

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:(a|b|rc|\.dev)\d*)?", re.ASCII)


@dataclass(frozen=True)
class Advisory:
    """A hole, and the release that closed it."""

    name: str
    fixed: tuple[int, int, int]
    severity: Severity
    what: str
    source: str


ADVISORIES = (
    Advisory(
        "CVE-2025-32434",
        (2, 6, 0),
        "error",
        "torch.load runs code from a checkpoint even with weights_only=True",
        "GHSA-53q9-r3pm-6pq6",
    ),
    Advisory(
        "CVE-2026-24747",
        (2, 10, 0),
        "warning",
        "a checkpoint can corrupt memory in torch.load with weights_only=True",
        "GHSA-63cw-57p8-fm3p",
    ),
)


def probe(_: Host) -> Section:
    """The section ``security``."""
    try:
        torch: str | None = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = None
    found = tuple(advisory for advisory in ADVISORIES if torch is not None and _is_open(torch, advisory) is True)
    facts = {"torch": torch, "checked": [a.name for a in ADVISORIES], "open": [a.name for a in found]}
    findings = [_finding(str(torch), advisory) for advisory in found]
    if torch is None or _VERSION.match(torch) is None:
        findings.append(
            Finding(
                severity="warning",
                what="whether torch has known holes cannot be told from its version",
                seen=repr(torch)[:100],
                allowed="a release such as 2.10.0",
                todo="compare its source with that of 2.10.0; until then load checkpoints of your own only",
                source=", ".join(advisory.name for advisory in ADVISORIES),
            )
        )
    return Section(name="security", facts=facts, findings=tuple(findings))


def _is_open(torch: str, advisory: Advisory) -> bool | None:
    """Whether a version is older than the repair; None if it cannot be read. A pre-release may lack it."""
    match = _VERSION.match(torch)
    if match is None:
        return None
    release = (int(match[1]), int(match[2]), int(match[3] or 0))
    return release < advisory.fixed or (release == advisory.fixed and match[4] is not None)


def _finding(torch: str, advisory: Advisory) -> Finding:
    """About one hole."""
    fixed = ".".join(map(str, advisory.fixed))
    return Finding(
        severity=advisory.severity,
        what=f"{advisory.name}: {advisory.what}",
        seen=f"torch {torch}",
        allowed=f"torch {fixed} or later",
        todo="load checkpoints of sources that you trust only, or as safetensors; install a newer torch, on a "
        "Gaudi only with the release of Habana's that it belongs to",
        source=advisory.source,
        configuration=True,
    )
