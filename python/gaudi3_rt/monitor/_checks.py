"""Which options of a monitor are possible."""

from __future__ import annotations

import math

from gaudi3_rt.errors import ParameterValidationError

LEAST_HISTORY = 1 << 16
"""Bytes, which is some two hundred steps."""


def check_options(
    start_step: int,
    stall_factor: float,
    stall_seconds: float | None,
    first_step_seconds: float,
    straggler_share: float | None,
    exchange_seconds: float,
    read_seconds: float,
    history_bytes: int | None,
) -> None:
    """Raises a ParameterValidationError if an option of ``TrainingMonitor`` is out of range."""
    for wrong, msg in (
        (start_step < 0, f"start_step={start_step!r}: must be a number of steps, 0 or more"),
        (not stall_factor >= 1, f"stall_factor={stall_factor!r}: must be 1 or more"),
        (
            stall_seconds is not None and not 0 < stall_seconds < math.inf,
            f"stall_seconds={stall_seconds!r}: must be a number of seconds above 0, or None",
        ),
        (
            not first_step_seconds > 0,
            f"first_step_seconds={first_step_seconds!r}: must be a number of seconds above 0",
        ),
        (
            straggler_share is not None and not straggler_share > 0,
            f"straggler_share={straggler_share!r}: must be a share of a step above 0, or None",
        ),
        (
            not 0 < exchange_seconds < math.inf,
            f"exchange_seconds={exchange_seconds!r}: must be a number of seconds above 0",
        ),
        (not read_seconds >= 0, f"read_seconds={read_seconds!r}: must be a number of seconds, 0 or more"),
        (
            history_bytes is not None and not (isinstance(history_bytes, int) and history_bytes >= LEAST_HISTORY),
            f"history_bytes={history_bytes!r}: must be a number of bytes, {LEAST_HISTORY} or more, or None",
        ),
    ):
        if wrong:
            raise ParameterValidationError(msg)
