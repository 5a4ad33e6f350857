"""What a monitor knows of one check."""

from __future__ import annotations

from gaudi3_rt.health._check import HealthCheck
from gaudi3_rt.health._status import CheckResult, HealthStatus


class Watched:
    """One check, its last result, and the run that is under way.

    Args:
        check: it.
        label: what it is called.
        now: seconds since the epoch.

    Attributes:
        result: the last that is known.
        is_open: whether it was opened, and not closed since.
        is_prepared: whether it was prepared, and not closed since.
        run: stands for the run that is under way; None if there is none.
        hangs: whether that has exceeded its timeout.
        began: when it was started or prepared, on the monotonic clock of the system.
        began_at: the same in seconds since the epoch.
        deadline: when it exceeds its timeout, on the monotonic clock of the system.
    """

    def __init__(self, check: HealthCheck, label: str, now: float) -> None:
        self.check, self.label = check, label
        self.result = CheckResult(
            check=label,
            type=check.type,
            critical=check.critical,
            status=HealthStatus.UNKNOWN,
            message="not looked at yet",
            since=now,
        )
        self.is_open = self.is_prepared = False
        self.run: object | None = None
        self.hangs = False
        self.began = self.began_at = self.deadline = 0.0
