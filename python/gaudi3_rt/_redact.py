"""Any value as a copy for people and files to see: plain, bounded, and with its secrets masked."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from collections import deque
from collections.abc import Mapping, ValuesView
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

from gaudi3_rt._secrets import MASK, is_secret_name, look_at_name, mask_text

__all__ = ["MASK", "is_secret_name", "redact", "redact_fields", "redact_short", "redact_text"]

# Bounds of one call. What is beyond them is left out, and the copy says so.
MAX_DEPTH = 16
MAX_ITEMS = 1000  # of one container
MAX_VALUES = 10_000
MAX_TEXT = 32_768  # characters of one text
MAX_CHARACTERS = 262_144
MAX_INTEGER_BITS = 4096
_HUGE = f"<integer of more than {MAX_INTEGER_BITS} bits>"

_PLAIN = (int, float, bool, type(None))
_ATOMS = (dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal, pathlib.PurePath, enum.Enum, complex)
_PARTIAL_WORD = 4096  # a word that is cut could be the beginning of a secret
_LONGEST_KEY = 256
_VALUE_FIELD = "value"


def redact(value: Any, name: str = "") -> Any:
    """A copy of ``value`` with secrets masked: by the name of a field, and by the form of a text, at any depth.

    Args:
        value: anything; it is not changed.
        name: the field that it is the value of, if any.

    Returns:
        Numbers, dates, paths and the like as they are; texts with secrets masked; mappings, dataclasses, pydantic
        models and named tuples as dicts; sequences and sets as lists; exceptions as ``Type: message``; tensors by their
        shape, without reading a device; other objects as their text. Cycles end in ``[cycle]``, and what exceeds the
        bounds of this module is left out and said to be. What an object raises when it is looked at goes no further.
    """
    return redact_text(value) if type(value) is str and not name else _Walk().copy(value, name, 0)


def redact_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`redact` makes of fields that were put together for it, so that none leads back to them."""
    return _Walk().mapping(fields, 1)


def redact_text(text: str) -> str:
    """A text with secrets masked, and cut at ``MAX_TEXT`` characters."""
    return _bounded(text, MAX_TEXT)


def redact_short(text: str) -> str:
    """A text that recurs, as names do, with secrets masked; remembered."""
    return look_at_name(text)[0]


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return mask_text(text)
    head = mask_text(text[:limit])
    end = max(head.rfind(space) for space in " \n\t")
    head = head[: end if end > len(head) - _PARTIAL_WORD else max(len(head) - _PARTIAL_WORD, 0)]
    return f"{head}... [cut: {len(text)} characters]"


def _is_kept(value: Any, name: str) -> bool:
    """Whether a value under a secret's name tells nothing: it is empty, a switch, or the number of a model's token."""
    if value is None or isinstance(value, bool) or (isinstance(value, str | bytes) and not value):
        return True
    return isinstance(value, int | float) and name.lower().endswith("token")


class _Walk:
    """One call of :func:`redact`: what it may still copy, and what it is inside of."""

    def __init__(self) -> None:
        self.values = MAX_VALUES
        self.characters = MAX_CHARACTERS
        self.inside: set[int] = set()

    def is_spent(self) -> bool:
        """Whether nothing more is copied."""
        return self.values <= 0 or self.characters <= 0

    def copy(self, value: Any, name: str, depth: int) -> Any:
        kind = type(value)
        try:
            if name and is_secret_name(name) and not _is_kept(value, name):
                return MASK
            self.values -= 1
            if kind is str:
                return self._text(value)
            if kind in _PLAIN:
                return value if kind is not int or value.bit_length() <= MAX_INTEGER_BITS else _HUGE
            return self._copy(value, depth)
        except Exception:  # noqa: BLE001 (whatever a foreign object raises when it is looked at)
            return f"<unreadable {kind.__name__}>"

    def _copy(self, value: Any, depth: int) -> Any:
        if id(value) in self.inside:
            return "[cycle]"
        if depth >= MAX_DEPTH or self.is_spent():
            return f"<{type(value).__name__} left out>"
        self.inside.add(id(value))
        try:
            return self._copy_object(value, depth + 1)
        finally:
            self.inside.discard(id(value))

    def _copy_object(self, value: Any, depth: int) -> Any:
        fields = value if type(value) is dict else _fields(value)
        if fields is not None:
            return self.mapping(fields, depth)
        if isinstance(value, list | tuple | AbstractSet | deque | ValuesView):
            return self._items(value, depth)
        if isinstance(value, str | bytes | bytearray):
            return self._string(value)
        if hasattr(value, "get_secret_value"):  # pydantic's SecretStr and SecretBytes
            return MASK if value.get_secret_value() else ""
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return self._array(value, depth)
        return self._other(value)

    def _text(self, text: str) -> str:
        left = self.characters
        self.characters -= len(text)
        if len(text) <= left and len(text) <= MAX_TEXT:
            return mask_text(text)
        return _bounded(text, min(MAX_TEXT, max(left, 0)))

    def _string(self, value: Any) -> Any:
        """Bytes, and subclasses of str: what they are, unless something has to be masked or cut."""
        if isinstance(value, str):
            text = str.__str__(value.value if isinstance(value, enum.Enum) else value)
        else:
            text = bytes(value[: MAX_TEXT + 1]).decode("utf-8", "backslashreplace")
        masked = self._text(text)
        return value if masked == text else masked

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        copied: dict[Any, Any] = {}
        described = self._described(value) if _VALUE_FIELD in value else ""
        for key, item in islice(value.items(), MAX_ITEMS):
            if self.values <= 0 or self.characters <= 0:
                break
            shown, name = look_at_name(key) if type(key) is str and len(key) <= _LONGEST_KEY else self._key(key, depth)
            if described and key == _VALUE_FIELD:
                name = described
            if type(item) is float and not name:  # most of what training logs
                self.values -= 1
                copied[shown] = item
            else:
                copied[shown] = self.copy(item, name, depth)
        if len(value) > len(copied):
            copied["..."] = f"{len(value) - len(copied)} more"
        return copied

    def _key(self, key: Any, depth: int) -> tuple[Any, str]:
        """An unusual key as it is shown, and its name."""
        if type(key) in _PLAIN:
            return key, ""
        text = str(self.copy(key, "", depth))
        return text, text

    @staticmethod
    def _described(value: Mapping[Any, Any]) -> str:
        """What ``{"name": ..., "value": ...}`` is the value of, as in a pod's list of environment variables."""
        found = next((value[name] for name in ("name", "key") if name in value), "")
        return found if issubclass(type(found), str) else ""  # isinstance() asks an object, which may raise

    def _items(self, value: Any, depth: int) -> list[Any]:
        """Also ``("password", "x")`` of a list of headers, and ``["--password", "x"]`` of a command."""
        copied: list[Any] = []
        is_pair = isinstance(value, tuple) and len(value) == 2  # noqa: PLR2004 (two make a pair)
        name = ""
        for item in islice(value, MAX_ITEMS):
            if self.is_spent():
                break
            copied.append(self.copy(item, name, depth))
            is_name = isinstance(item, str) and not name and (item.startswith("--") or is_pair)
            name = item if is_name and "=" not in item else ""
        if isinstance(value, AbstractSet):
            copied.sort(key=str)
        if len(value) > len(copied):
            copied.append(f"... {len(value) - len(copied)} more")
        return copied

    def _array(self, value: Any, depth: int) -> Any:
        """A number on the CPU as a number, else what kind of array it is: to read it could wait for a device."""
        device = str(getattr(value, "device", "cpu"))
        shape = list(value.shape)
        if not shape and device == "cpu":
            return self.copy(value.item(), "", depth)
        return f"{type(value).__name__}(shape={shape}, dtype={value.dtype}, device={device})"

    def _other(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            text = f"{type(value).__name__}: {value}"
        elif callable(value):
            text = getattr(value, "__qualname__", None) or repr(value)
        else:
            text = str(value)
        masked = self._text(text)
        return value if masked == text and isinstance(value, _ATOMS) else masked


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """What a record of any sort holds, by name; None if it is no record."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "model_fields"):  # a pydantic model
        return {**vars(value), **(getattr(value, "model_extra", None) or {})}
    return None
