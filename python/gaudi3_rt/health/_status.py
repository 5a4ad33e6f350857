"""How well something is: statuses, what a check has found, and what many of them add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Figure = int | float | str | bool


class HealthStatus(str, Enum):
    """From best to worst. What cannot be told is worse than what is known to be impaired."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    CRITICAL = "critical"

    @property
    def severity(self) -> int:
        """0 to 3."""
        return list(HealthStatus).index(self)

    @property
    def is_ready(self) -> bool:
        """Whether work can go on: healthy or degraded."""
        return self in {HealthStatus.HEALTHY, HealthStatus.DEGRADED}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of a check has found.

    Attributes:
        status: how it is.
        message: a sentence that may be shown to everybody: no path, host, user or secret in it.
        figures: what was measured, with the unit in the name; what was not measured is not in it.
        detail: for those on the machine only: paths, addresses, texts of errors. It is never served.
        simulated: the figures come from the software HPU.
    """

    status: HealthStatus
    message: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    detail: str = ""
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The last that is known of one check.

    Attributes:
        check: its label.
        type: of the check, as in a configuration.
        critical: whether it counts for the whole; one that does not can lower it to DEGRADED only.
        status: how it is.
        message: a sentence that may be shown to everybody.
        figures: what was measured.
        detail: for those on the machine only.
        simulated: the figures come from the software HPU.
        time: when it ended, seconds since the epoch; None before the first run.
        seconds: how long it took; None before the first run.
        since: when the status became what it is, seconds since the epoch.
    """

    check: str
    type: str
    critical: bool
    status: HealthStatus
    message: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    detail: str = ""
    simulated: bool = False
    time: float | None = None
    seconds: float | None = None
    since: float

    def to_dict(self, *, detail: bool = False) -> dict[str, Any]:
        """For JSON; without ``detail`` there is nothing in it that others must not see."""
        fields = {**vars(self), "status": self.status.value, "figures": dict(self.figures)}
        return fields if detail else {name: value for name, value in fields.items() if name != "detail"}


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """All checks at one time.

    Attributes:
        status: what they add up to; see :func:`roll_up`.
        results: of every check, in the order that they were given in.
        time: when this was put together, seconds since the epoch.
    """

    status: HealthStatus
    results: tuple[CheckResult, ...]
    time: float

    @property
    def is_ready(self) -> bool:
        """Whether work can go on: healthy or degraded."""
        return self.status.is_ready

    def to_dict(self, *, detail: bool = False) -> dict[str, Any]:
        """For JSON; without ``detail`` there is nothing in it that others must not see."""
        checks = [result.to_dict(detail=detail) for result in self.results]
        return {"status": self.status.value, "time": self.time, "checks": checks}


def roll_up(results: Iterable[CheckResult]) -> HealthStatus:
    """What results add up to.

    The worst status of the critical checks, in the order HEALTHY, DEGRADED, UNKNOWN, CRITICAL. An informative check
    that is DEGRADED or CRITICAL makes HEALTHY into DEGRADED and nothing more; one that is UNKNOWN changes nothing.
    Without a critical check the whole is HEALTHY or DEGRADED.
    """
    worst = HealthStatus.HEALTHY
    for result in results:
        status = result.status
        if not result.critical:
            status = HealthStatus.HEALTHY if status in _CHANGES_NOTHING else HealthStatus.DEGRADED
        worst = max(worst, status, key=lambda one: one.severity)
    return worst


_CHANGES_NOTHING = {HealthStatus.HEALTHY, HealthStatus.UNKNOWN}


class Verdict:
    """Puts an outcome together: figures, each perhaps with limits, and what is wrong with them."""

    def __init__(self) -> None:
        self.status = HealthStatus.HEALTHY
        self.figures: dict[str, Figure] = {}
        self._wrong: list[tuple[HealthStatus, str]] = []
        self._fine: list[str] = []

    def note(self, text: str) -> None:
        """Something that is fine."""
        self._fine.append(text)

    def find(self, status: HealthStatus, text: str) -> None:
        """Something that is not."""
        self._wrong.append((status, text))
        self.status = max(self.status, status, key=lambda one: one.severity)

    def limit(
        self,
        text: str,
        value: float,
        *,
        warning: float | None,
        critical: float | None,
        form: Callable[[float], str],
        low: bool = False,
    ) -> None:
        """A value that is wrong from a limit on, or with ``low`` down to one; a limit of None is not watched."""
        sign = -1 if low else 1
        for status, bound in ((HealthStatus.CRITICAL, critical), (HealthStatus.DEGRADED, warning)):
            if bound is not None and sign * value >= sign * bound:
                word = "critical" if status is HealthStatus.CRITICAL else "warning"
                self.find(status, f"{text} ({word} {'down to' if low else 'from'} {form(bound)}{' on' * (not low)})")
                return
        self.note(text)

    def outcome(self, *, detail: str = "", simulated: bool = False) -> Outcome:
        """What is wrong, the worst first; what is fine, if nothing is wrong."""
        wrong = [text for _, text in sorted(self._wrong, key=lambda one: -one[0].severity)]
        message = "; ".join(wrong or self._fine) or "nothing is watched"
        return Outcome(status=self.status, message=message, figures=self.figures, detail=detail, simulated=simulated)


def percent(ratio: float) -> str:
    """``0.934`` is ``93 %``."""
    return f"{ratio:.0%}".replace("%", " %")
