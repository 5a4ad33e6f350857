"""The levels of a log, by number and by name."""

from __future__ import annotations

import logging

from gaudi3_rt.errors import InvalidConfigurationError

LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error", "critical")}


def level_number(level: int | str, source: str = "level") -> int:
    """``"info"``, ``"INFO"``, ``20`` and ``"20"`` as 20.

    Raises:
        InvalidConfigurationError: it is neither a number nor a level's name; ``source`` says whose value it is.
    """
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    text = str(level).strip().lower()
    if text.isdecimal():
        return int(text)
    if text not in LEVELS:
        msg = f"{source} {level!r} is no log level; use {', '.join(LEVELS)}, or a number"
        raise InvalidConfigurationError(msg, context={"value": level, "allowed": list(LEVELS)})
    number: int = LEVELS[text]
    return number
