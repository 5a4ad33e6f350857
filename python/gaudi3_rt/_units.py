"""How bytes look in text, wherever they are shown."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def bytes_text(count: float) -> str:
    """``1536`` is ``1.50 KiB``; whole below a KiB."""
    value, unit = float(count), 0
    while abs(value) >= _STEP - 0.005 and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.2f} {_UNITS[unit]}"
