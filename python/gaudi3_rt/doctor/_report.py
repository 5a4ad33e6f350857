"""What an examination found: facts by section, findings with advice, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gaudi3_rt._redact import redact

FORMAT_VERSION = 1
"""Of :meth:`Report.to_dict`; a higher one when a key goes or changes its meaning, not when one is added."""

WELL, PROBLEM, MISCONFIGURED = 0, 1, 78
"""Exit statuses; 78 is EX_CONFIG of ``sysexits.h``: to start again changes nothing."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        severity: ``error`` if it is known not to work, ``warning`` if it may not do what was meant.
        what: what is wrong, in a sentence.
        seen: the value that was seen; empty if there is none to show.
        allowed: what it should be; empty if ``what`` says all of it.
        todo: what to do next.
        source: where this is known from.
        configuration: it lies in settings or installed packages, so another machine, or a later start, changes nothing.
    """

    severity: Severity
    what: str
    seen: str = ""
    allowed: str = ""
    todo: str
    source: str
    configuration: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        name: of the section.
        facts: what was seen, by name, as values of JSON; sizes in bytes. Empty if the examination of this part failed.
        findings: what is wrong with it.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """All sections, in their order."""

    sections: tuple[Section, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all sections."""
        return tuple(finding for section in self.sections for finding in section.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What is known not to work."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What may not do what was meant."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def simulated(self) -> bool:
        """Whether some of the devices are those of a software HPU."""
        return any(device["simulated"] for device in self.section("devices").facts.get("devices", ()))

    def section(self, name: str) -> Section:
        """One section.

        Raises:
            KeyError: there is none of this name.
        """
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def exit_status(self, *, strict: bool = False) -> int:
        """0 if all is well, 1 for a problem of this machine, 78 if configuration is to blame.

        A scheduler may try another machine after 1; after 78 it would only fail again.

        Args:
            strict: warnings count as errors do.
        """
        counted = self.findings if strict else self.errors
        if not counted:
            return WELL
        return MISCONFIGURED if any(finding.configuration for finding in counted) else PROBLEM

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON, with secrets redacted. Sections and keys of findings are always all there."""
        fields = {
            "version": FORMAT_VERSION,
            "status": "error" if self.errors else "warning" if self.warnings else "ok",
            "simulated": self.simulated,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "sections": {
                section.name: {
                    "facts": dict(section.facts),
                    "findings": [asdict(finding) for finding in section.findings],
                }
                for section in self.sections
            },
        }
        redacted: dict[str, Any] = redact(fields)
        return redacted
