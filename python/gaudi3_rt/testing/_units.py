"""Amounts as people write them: ``96 GiB``, ``1.5 MB``, ``30 s``, ``2 min``."""

from __future__ import annotations

import re
from decimal import Decimal

from gaudi3_rt.errors import ParameterValidationError

BYTES: dict[str, Decimal | int] = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
SECONDS: dict[str, Decimal | int] = {
    "ms": Decimal("0.001"),
    "s": 1,
    "seconds": 1,
    "second": 1,
    "min": 60,
    "minutes": 60,
    "minute": 60,
    "h": 3600,
    "hours": 3600,
    "hour": 3600,
}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_LARGEST = 2**63


def parse_bytes(value: str | int, what: str = "size") -> int:
    """Bytes of ``"1 MB"`` (10^6), ``"1 MiB"`` (2^20) or a number.

    Raises:
        ParameterValidationError: anything else, or a size that is not whole, not positive or absurd.
    """
    if isinstance(value, str):
        size = _parse(value, BYTES, what, "a size such as '96 GiB', '1 MB' or '512 B'")
    elif isinstance(value, int) and not isinstance(value, bool):
        size = Decimal(value)
    else:
        msg = f"{what} is {value!r}; it has to be a number of bytes or a text such as '96 GiB'"
        raise ParameterValidationError(msg)
    if size != int(size) or not 0 < size < _LARGEST:
        msg = f"{what} is {value!r}; it has to be a whole number of bytes, at least 1 and less than 2^63"
        raise ParameterValidationError(msg)
    return int(size)


def parse_seconds(text: str, what: str = "duration") -> float:
    """Seconds of ``"30 s"``, ``"250 ms"``, ``"2 min"`` or ``"1 h"``.

    Raises:
        ParameterValidationError: anything else.
    """
    return float(_parse(text, SECONDS, what, "a duration such as '30 s', '250 ms' or '2 min'"))


def _parse(text: str, units: dict[str, Decimal | int], what: str, example: str) -> Decimal:
    """The number times its unit."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        msg = f"{what} is {text!r}; it has to be {example}; units: {', '.join(units)}"
        raise ParameterValidationError(msg)
    return Decimal(match[1]) * units[match[2].lower()]
