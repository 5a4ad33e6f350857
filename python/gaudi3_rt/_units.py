"""How numbers, bytes and durations look in text, wherever they are shown."""

from __future__ import annotations

import math

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def bytes_text(count: float) -> str:
    """``1536`` is ``1.50 KiB``; whole below a KiB."""
    value, unit = float(count), 0
    while abs(value) >= _STEP - 0.005 and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.2f} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """``5400`` is ``1.5 h``."""
    if seconds == float("inf"):
        return "never"
    for length, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def seconds_text(seconds: float) -> str:
    """``0.0123`` is ``12.3 ms``; for what takes seconds at most."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def number_text(value: float) -> str:
    """``0.123456`` is ``0.1235``, ``1234567.8`` is ``1,234,568``: four digits at least, no exponent of large ones."""
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004
