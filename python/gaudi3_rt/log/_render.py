"""How an entry is written: as a line of JSON, or for people at a console. The only module that needs structlog."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import structlog
from structlog.stdlib import BoundLogger

from gaudi3_rt._json import json_line
from gaudi3_rt.log._entry import FIELDS, Entry, EntryMaker

_OPTIONS = frozenset({"exc_info", "stack_info", "stacklevel"})  # of a call of logging
_MILLISECONDS = len("2026-01-01T00:00:00.000")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in {9, 10}}


class EntryFormatter(logging.Formatter):
    """Records as entries. What is in an entry does not make it fail.

    structlog's own formatter makes two more records of each and formats the text once more, which took a third of the
    time of an entry; its renderers are used.

    Args:
        maker: makes the entry.
        render: its text.
    """

    def __init__(self, maker: EntryMaker, render: Callable[[Entry], str]) -> None:
        super().__init__()
        self._make = maker
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """The text of an entry."""
        try:
            return self._render(self._make(record))
        except Exception as error:  # noqa: BLE001 (whatever a field raises)
            return json_line(self._make.without_content(record, error))


def json_formatter(maker: EntryMaker) -> logging.Formatter:
    """One line of JSON for each entry."""
    return EntryFormatter(maker, json_line)


def console_formatter(maker: EntryMaker, *, colors: bool, show_rank: bool) -> logging.Formatter:
    """Aligned text; tracebacks and advice below."""
    console = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, pad_event_to=32, exception_formatter=structlog.dev.plain_traceback
    )
    return EntryFormatter(maker, lambda entry: str(console(None, "", _for_console(entry, show_rank=show_rank))))


def _for_console(entry: Entry, *, show_rank: bool) -> Entry:
    """What is the same in every line is left out, and no text can move the cursor or pass for another entry."""
    entry["timestamp"] = f"{entry['timestamp'][:_MILLISECONDS]}Z"
    del entry["run_id"]
    for name in ("rank",) * (not show_rank) + ("step",) * (entry["step"] is None):
        del entry[name]
    error = entry.get("error")
    if isinstance(error, dict) and "type" in error:
        entry["error"] = f"{error['type']}: {error.get('message', '')}"
        advice = [f"  try: {suggestion}" for suggestion in error.get("suggestions", ())]
        below = "\n".join([error.get("traceback", ""), *advice]).strip("\n")
        if below:
            entry["exception"] = f"    {below}"
    return {key: _harmless(value) if isinstance(value, str) else value for key, value in entry.items()}


def _harmless(text: str) -> str:
    return text.translate(_CONTROLS).replace("\n", "\n    ")


class Logger(BoundLogger):
    """A logger of structlog whose entries go to :mod:`logging` as they are, whatever structlog is configured to do.

    Its fields are one attribute of a record, so that their names do not clash with the record's own. What there is to
    process is done for all records alike, by :class:`EntryFormatter`.
    """

    def _proxy_to_logger(self, method_name: str, event: Any = None, *args: Any, **fields: Any) -> None:
        if self._context:
            fields = {**self._context, **fields}
        options = {} if _OPTIONS.isdisjoint(fields) else {name: fields.pop(name) for name in _OPTIONS & fields.keys()}
        message = "" if event is None else event
        getattr(self._logger, method_name)(message, *args, extra={FIELDS: fields}, **options)


def bound_logger(name: str, fields: dict[str, Any]) -> BoundLogger:
    """A logger of structlog in front of one of :mod:`logging`."""
    return Logger(logging.getLogger(name), [], fields)
