"""One record of an audit log, and how it is linked to the one before.

A line is the canonical JSON of a record (sorted keys, no spaces, ASCII) and a newline. ``hash`` is the SHA-256 of the
canonical JSON of everything else in it, and ``prev_hash`` the hash of the record before. A text that a reader takes for
the same record, but that is other bytes, is not the record.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from gaudi3_rt._json import canonical_json, json_line

GENESIS = "0" * 64
"""``prev_hash`` of the first record, and head of an empty file."""
LONGEST_LINE = 16 << 20
"""Bytes; redaction keeps records far below it."""
TORN = "audit.torn_line"
"""Event of the record that ends a line whose writing was cut off, and vouches for the bytes before it."""

_BEGINNING = b'{"actor":'  # of every record, as its keys are sorted
_FIELDS = {"seq": int, "time": str, "actor": str, "event": str, "fields": dict, "prev_hash": str, "hash": str}


@dataclass(frozen=True)
class Link:
    """Where a chain has got to: the next record's number and the last one's hash."""

    seq: int = 0
    head: str = GENESIS


class BrokenChainError(ValueError):
    """A line is not the record that has to stand there."""


def digest(data: bytes) -> str:
    """SHA-256 as in a record."""
    return hashlib.sha256(data).hexdigest()


def encode(link: Link, time: str, actor: str, event: str, fields: dict[str, Any]) -> tuple[bytes, Link]:
    """The next line of a chain, and where the chain has got to with it. ``fields`` have to be redacted already."""
    record = {
        "seq": link.seq,
        "time": time,
        "actor": actor,
        "event": event,
        "fields": json.loads(json_line(fields)),
        "prev_hash": link.head,
    }
    record["hash"] = digest(canonical_json(record).encode())
    return canonical_json(record).encode() + b"\n", Link(link.seq + 1, record["hash"])


def decode(line: bytes) -> tuple[dict[str, Any], bool]:
    """The record that a line holds, without its newline, and whether the line was torn before it.

    Raises:
        BrokenChainError: it holds none, or the hash is not that of the content.
    """
    try:
        return _record(line), False
    except BrokenChainError:
        start = line.rfind(_BEGINNING)  # inside of a text the quotes would be escaped
        if start <= 0:
            raise
        record, rest = _record(line[start:]), line[:start]
        if record["event"] != TORN or record["fields"] != torn_fields(rest):
            raise
        return record, True


def _record(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
        is_canonical = canonical_json(record).encode() == data
    except (ValueError, TypeError, RecursionError):
        msg = "it is not a record"
        raise BrokenChainError(msg) from None
    if not isinstance(record, dict) or record.keys() != _FIELDS.keys() or not is_canonical:
        msg = "it is not a record as it was written"
        raise BrokenChainError(msg)
    if any(type(record[name]) is not kind for name, kind in _FIELDS.items()):
        msg = "a field of the record has another type"
        raise BrokenChainError(msg)
    content = {name: value for name, value in record.items() if name != "hash"}
    if digest(canonical_json(content).encode()) != record["hash"]:
        msg = "its content is not what its hash was made of"
        raise BrokenChainError(msg)
    return record


def follow(link: Link, record: dict[str, Any]) -> Link:
    """Where the chain has got to with a record.

    Raises:
        BrokenChainError: the record does not follow there.
    """
    if record["seq"] != link.seq:
        msg = f"it has number {record['seq']}, where {link.seq} has to follow"
        raise BrokenChainError(msg)
    if record["prev_hash"] != link.head:
        msg = "it does not follow the record before it"
        raise BrokenChainError(msg)
    return Link(link.seq + 1, record["hash"])


def torn_fields(rest: bytes) -> dict[str, Any]:
    """What a record says of the rest of a torn line before it."""
    return {"bytes": len(rest), "sha256": digest(rest)}
