"""Whether the variables that are set mean something to their readers."""

from __future__ import annotations

from gaudi3_rt import device
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section


def probe(host: Host) -> Section:
    """The section ``environment``. Values are shown of known variables only, so what others hold is never seen."""
    environment = host.environment
    known = {name: environment[name] for name in sorted(environment) if name in device.VARIABLES}
    own = sorted(name for name in environment if name.startswith("GAUDI3_RT_"))
    findings = tuple(
        _finding(finding, environment.get(finding.subject, "")) for finding in device.check_environment(environment)
    )
    return Section(name="environment", facts={"variables": known, "own_variables": own}, findings=findings)


def _finding(found: device.Finding, value: str) -> Finding:
    """A variable's."""
    known = device.VARIABLES.get(found.subject)
    return Finding(
        severity=found.severity,
        what=found.message,
        seen=value[:60] if known else "",
        allowed=known.allowed if known else "",
        todo=found.advice,
        source=found.source,
        configuration=True,
    )
