"""Any record as one line of JSON, whatever is in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

# ASCII: the line is one line and valid in every encoding of a stream, also with lone surrogates and line separators.
_encode = json.JSONEncoder(default=str, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_encode_sorted = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":")).encode


def json_line(record: Mapping[str, Any]) -> str:
    """One line without its end. Numbers that JSON does not have are texts: ``NaN``, ``Infinity``, ``-Infinity``."""
    try:
        return _encode(record)
    except (TypeError, ValueError):
        return _encode(_plain(record))


def canonical_json(record: Mapping[str, Any]) -> str:
    """The one text of a record that came from JSON: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: it has a number that JSON does not have.
    """
    return _encode_sorted(record)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
