"""What a log entry consists of, made from a record of :mod:`logging`."""

from __future__ import annotations

import logging
import traceback
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from gaudi3_rt._redact import redact, redact_fields, redact_short, redact_text
from gaudi3_rt.errors import Gaudi3RTError
from gaudi3_rt.log._context import context

FIELDS = "gaudi3_rt_fields"
"""Attribute of a record that holds an entry's own fields, whatever their names are."""

_FRAMES = 30  # of a traceback, the last ones
_SHORT = 64
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", FIELDS})
Entry = dict[str, Any]


class EntryMaker:
    """Makes entries of records, with their fields in order, secrets masked and sizes bounded.

    Args:
        rank: of this process.
        run_id: of the run.
    """

    def __init__(self, rank: int, run_id: str) -> None:
        self.rank = rank
        self.run_id = redact_text(run_id)

    def __call__(self, record: logging.LogRecord) -> Entry:
        """The entry; its own fields do not replace those that every entry has."""
        fields = context()
        given = vars(record)
        if not _STANDARD.issuperset(given):  # rarely: one look at all names is faster than one at each
            fields.update((name, value) for name, value in given.items() if name not in _STANDARD)
        fields.update(getattr(record, FIELDS, ()))
        error = record.exc_info[1] if record.exc_info else fields.get("error")
        if isinstance(error, BaseException):
            fields.update(describe_error(error))
        if record.stack_info:
            fields["stack"] = record.stack_info
        entry = self._always(record)
        message = _message(record)
        # Texts that recur, as those of entries with fields do, are looked at once.
        entry["event"] = redact_short(message) if len(message) <= _SHORT else redact_text(message)
        shown = redact_fields(fields)
        entry["step"] = shown.pop("step", None)
        for name, value in shown.items():
            entry[f"fields.{name}" if name in entry else name] = value
        return entry

    def _always(self, record: logging.LogRecord) -> Entry:
        return {
            "timestamp": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": redact_short(record.name),
            "event": "",
            "rank": self.rank,
            "step": None,
            "run_id": self.run_id,
        }

    def without_content(self, record: logging.LogRecord, error: Exception) -> Entry:
        """What is left of an entry whose content raised."""
        return {**self._always(record), "event": redact(record.msg), "log_error": redact(error)}


def _timestamp(seconds: float) -> str:
    """In UTC, of seconds since 1970, to the nearest microsecond."""
    second = int(seconds)
    more, microseconds = divmod(round((seconds - second) * 1_000_000), 1_000_000)
    return f"{_second(second + more)}.{microseconds:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None).isoformat()


def describe_error(error: BaseException) -> Entry:
    """The fields of an entry that say what was raised: ``error``, and ``error.code`` where there is one."""
    if isinstance(error, Gaudi3RTError):
        fields: Entry = {"error.code": error.code, "error": error.to_dict()}
    else:
        fields = {"error": {"type": type(error).__name__, "message": _text(error)}}
    if error.__traceback__ is not None:
        fields["error"]["traceback"] = "".join(traceback.format_exception(error, limit=-_FRAMES)).rstrip()
    return fields


def _message(record: logging.LogRecord) -> str:
    """As :mod:`logging` would write it; arguments that do not fit follow it, because an entry is never lost."""
    text = _text(record.msg)
    if not record.args:
        return text
    try:
        return text % record.args
    except Exception:  # noqa: BLE001 (whatever an argument raises when it is written)
        return f"{text} {redact(record.args)}"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (same)
        return f"<unreadable {type(value).__name__}>"
