"""How any value is shown in a report: as values that JSON has, of bounded size, without secrets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from itertools import islice
from typing import Any

from gaudi3_rt._redact import MAX_TEXT as _MAX_SCANNED
from gaudi3_rt._redact import redact

MAX_TEXT = 2000
MAX_ITEMS = 50
MAX_DEPTH = 6
MAX_CHAIN = 20
_MAX_INT_BITS = 1024


def text_of(value: object, limit: int = MAX_TEXT) -> str:
    """``str(value)`` without secrets, cut at ``limit`` characters; never raises, whatever ``value`` does."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 (a value that cannot be shown must not hide the error that carries it)
        return f"<{type(value).__name__} whose text cannot be had: {type(error).__name__}>"
    # A secret is masked before the text is cut: half a secret would no longer look like one.
    shown = str(redact(text[:_MAX_SCANNED]))
    left_out = max(len(shown) - limit, 0) + max(len(text) - _MAX_SCANNED, 0)
    return f"{shown[:limit]}... ({left_out} more characters)" if left_out else shown


def jsonable(value: object) -> Any:
    """``value`` as JSON has it. What JSON does not have becomes text; size, depth and cycles are bounded."""
    try:
        return redact(_jsonable(value, ()))
    except Exception as error:  # noqa: BLE001 (a container of somebody's own that fails while it is read)
        return f"<{type(value).__name__} that cannot be read: {type(error).__name__}>"


def chain(error: BaseException) -> list[BaseException]:
    """What led to ``error``, the nearest first: ``from``, else what was being handled unless it was suppressed."""
    found: list[BaseException] = []
    seen = {id(error)}
    following = _before(error)
    while following is not None and id(following) not in seen and len(found) < MAX_CHAIN:
        found.append(following)
        seen.add(id(following))
        following = _before(following)
    return found


def _before(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _jsonable(value: object, outer: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return _plain(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of(bytes(value[:_MAX_SCANNED]).decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping | list | tuple | AbstractSet):
        return _container(value, outer)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    return f"{type(value).__name__}: {text_of(value)}" if isinstance(value, BaseException) else text_of(value)


def _plain(value: float | None) -> int | float | str | None:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _MAX_INT_BITS else f"<integer of {value.bit_length()} bits>"
    return float(value) if math.isfinite(value) else str(value)


def _array(value: Any) -> str:
    """Of a tensor only what it is: its numbers are many, and reading them waits for the device."""
    device = f", device={value.device}" if hasattr(value, "device") else ""
    return text_of(f"{type(value).__name__}(shape={tuple(value.shape)}, dtype={value.dtype}{device})")


def _container(value: Any, outer: tuple[int, ...]) -> Any:
    if id(value) in outer:
        return "<the same object again>"
    if len(outer) >= MAX_DEPTH:
        return f"<{type(value).__name__} of {len(value)}>"
    inside = (*outer, id(value))
    left_out = len(value) - MAX_ITEMS
    if isinstance(value, Mapping):
        shown = {text_of(key, 200): _jsonable(item, inside) for key, item in islice(value.items(), MAX_ITEMS)}
        return {**shown, "...": f"{left_out} more"} if left_out > 0 else shown
    items = [_jsonable(item, inside) for item in islice(value, MAX_ITEMS)]
    return [*items, f"... {left_out} more"] if left_out > 0 else items
