"""Whether the variables that are set mean something to their readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gaudi3_rt import config, device
from gaudi3_rt._redact import redact_text
from gaudi3_rt.config._sources import environment_settings
from gaudi3_rt.doctor._host import Host
from gaudi3_rt.doctor._report import Finding, Section


def probe(host: Host) -> Section:
    """The section ``environment``. Values are shown of known variables only, so what others hold is never seen."""
    environment = host.environment
    known = {name: environment[name] for name in sorted(environment) if name in device.VARIABLES}
    own = sorted(name for name in environment if name.startswith("GAUDI3_RT_"))
    found = device.check_environment(environment)
    findings = (*(_finding(one, environment.get(one.subject, "")) for one in found), *_own(environment))
    return Section(name="environment", facts={"variables": known, "own_variables": own}, findings=findings)


def _own(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables of this package's that it does not read: a configuration with them would be refused."""
    for one in environment_settings(environment):
        if isinstance(one, config.Finding):
            yield Finding(
                severity="warning",
                what=one.message,
                todo="correct its name, or unset it; gaudi3-rt config schema says what there is",
                source="gaudi3_rt: docs/config.md",
                configuration=True,
            )


def _finding(found: device.Finding, value: str) -> Finding:
    """A variable's."""
    known = device.VARIABLES.get(found.subject)
    return Finding(
        severity=found.severity,
        what=found.message,
        seen=redact_text(value)[:60] if known else "",
        allowed=known.allowed if known else "",
        todo=found.advice,
        source=found.source,
        configuration=True,
    )
