"""What an error of other software means: one of ours, its likely cause, whether to try again, what to do next."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, replace
from typing import Any

from gaudi3_rt.errors import _rows_host, _rows_network, _rows_status, _rows_synapse, _types
from gaudi3_rt.errors._base import Gaudi3RTError
from gaudi3_rt.errors._describe import chain, text_of
from gaudi3_rt.errors._rows import Row

# Causes come before what follows from them: where one rank fails, the others lose their connections to it.
ROWS: tuple[Row, ...] = (
    *_rows_host.IMPORTS,
    *_rows_network.SETUP,
    *_rows_synapse.OPERATIONS,
    *_rows_status.STATUSES,
    *_rows_synapse.ACQUIRE,
    *_rows_host.MEMORY,
    *_rows_host.FILES,
    *_rows_host.CHECKPOINTS,
    *_rows_host.TRAINING,
    *_rows_network.HCCL,
    *_rows_network.PROCESS_GROUPS,
    *_rows_network.CONNECTIONS,
)
NOT_RECOGNIZED = "Not recognised."
_OURS = "gaudi3_rt"
_OWN_CODE = re.compile(r"\[error (\d{4})\]")
_MAX_END = 100_000
_MAX_LINE = 300
_MAX_GROUPS = 50
_MAX_MEMBERS = 100
_GROUPS = frozenset({"BaseExceptionGroup", "exceptiongroup.BaseExceptionGroup"})


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What an error means.

    Attributes:
        error: the class of ours; :class:`~gaudi3_rt.errors.UnrecognizedError` if nothing matched.
        cause: the likely cause, a sentence.
        retryable: whether the same call may succeed later without a change.
        next_command: what to run or do next.
        source: where the message and its meaning were seen.
        row: id of the row of the table that matched; empty for errors of ours and for unknown ones.
        matched: the line or the class that was recognised, with secrets redacted.
    """

    error: type[Gaudi3RTError]
    cause: str
    retryable: bool
    next_command: str
    source: str
    row: str = ""
    matched: str = ""

    @property
    def code(self) -> int:
        """Code of the class."""
        return self.error.code

    @property
    def recognized(self) -> bool:
        """Whether anything matched."""
        return self.error is not _types.UnrecognizedError

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON."""
        return {
            "recognized": self.recognized,
            "type": self.error.__name__,
            "code": self.code,
            "category": self.error.category,
            "cause": self.cause,
            "retryable": self.retryable,
            "next_command": self.next_command,
            "source": self.source,
            "row": self.row,
            "matched": self.matched,
        }


def codes() -> dict[int, type[Gaudi3RTError]]:
    """Every error class of gaudi3_rt by its code, in order."""
    kinds = [kind for kind in vars(_types).values() if isinstance(kind, type) and issubclass(kind, Gaudi3RTError)]
    return {kind.code: kind for kind in sorted(kinds, key=lambda kind: kind.code)}


def classify(error: BaseException | str) -> Classification:
    """Looks an exception, or the text of one, up in the table.

    An exception is recognised by its class or ``errno``, else by its text; if it is not, what led to it is asked, the
    nearest first. An exception group means what its most telling member means: what does not pass before what does,
    then the order of the table; it is retryable if all its members are. A text may be a whole log. Nothing is guessed:
    what no row knows is an ``UnrecognizedError``, 9001, which is not retryable.
    """
    found = _by_text(error) if isinstance(error, str) else _by_chain(error, set())
    return found or _unknown(error)


def from_exception(error: BaseException) -> Gaudi3RTError:
    """The error of ours that ``error`` means, with ``error`` as its cause; one of ours is returned as it is."""
    if isinstance(error, Gaudi3RTError):
        return error
    found = classify(error)
    facts = {"row": found.row, "source": found.source} if found.row else {}
    if _is_group(error):  # whose own text does not say what is in it
        facts["member"] = found.matched
    ours = found.error(
        found.cause if found.recognized else f"{found.cause} {found.matched}",
        context=facts,
        suggestions=(found.next_command,) if found.row else None,
        retryable=found.retryable,
    )
    ours.__cause__ = error
    return ours


def _by_chain(error: BaseException, groups: set[int]) -> Classification | None:
    """What an exception means, or else what led to it; ``groups`` are those that were looked into already."""
    for one in (error, *chain(error)):
        if found := _by_members(one, groups) if _is_group(one) else _by_exception(one):
            return found
    return None


def _is_group(error: BaseException) -> bool:
    """Also one of the package that brings groups to Python 3.10."""
    return any(_name(kind) in _GROUPS for kind in type(error).__mro__)


def _by_members(group: Any, groups: set[int]) -> Classification | None:
    # A member that is raised again while its group is handled follows from the group that it is in.
    if id(group) in groups or len(groups) == _MAX_GROUPS:
        return None
    groups.add(id(group))
    found = [_by_chain(member, groups) for member in group.exceptions[:_MAX_MEMBERS]]
    known = [one for one in found if one is not None]
    if not known:
        return None
    order = {row.id: place for place, row in enumerate(ROWS)}
    best = min(known, key=lambda one: (one.retryable, order.get(one.row, -1)))  # -1: those of ours, which know best
    return replace(best, retryable=best.retryable and len(known) == len(found))


def _by_exception(error: BaseException) -> Classification | None:
    if isinstance(error, Gaudi3RTError):
        return None if isinstance(error, _types.UnrecognizedError) else _of_ours(error)
    names = {_name(kind) for kind in type(error).__mro__}
    number = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    for row in ROWS:
        if number in row.errnos or not names.isdisjoint(row.types):
            return _of_row(row, f"{type(error).__name__}: {text_of(error, _MAX_LINE)}")
    try:
        return _by_text(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 (an exception whose text cannot be had; its class was not known either)
        return None


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _by_text(text: str) -> Classification | None:
    if len(text) > 2 * _MAX_END:
        text = f"{text[:_MAX_END]}\n{text[-_MAX_END:]}"
    own = _OWN_CODE.search(text)
    if own and (kind := codes().get(int(own[1]))) and kind is not _types.UnrecognizedError:
        return _of_class(kind, _line(text, own))
    for row in ROWS:
        if found := row.compiled.search(text):
            return _of_row(row, _line(text, found))
    return None


def _line(text: str, found: re.Match[str]) -> str:
    """The line in which a row was found, or as much around it as can be shown."""
    start = max(text.rfind("\n", 0, found.start()) + 1, found.start() - _MAX_LINE // 2)
    end = text.find("\n", found.end())
    return text_of(text[start : None if end < 0 else end].strip(), _MAX_LINE)


def _of_row(row: Row, matched: str) -> Classification:
    return Classification(
        error=row.error,
        cause=row.cause,
        retryable=row.retryable,
        next_command=row.next_command,
        source=row.source,
        row=row.id,
        matched=matched,
    )


def _of_class(kind: type[Gaudi3RTError], matched: str) -> Classification:
    return Classification(
        error=kind,
        cause=summary(kind),
        retryable=kind.default_retryable,
        next_command="; ".join(kind.default_suggestions[:1]),
        source=_OURS,
        matched=matched,
    )


def _of_ours(error: Gaudi3RTError) -> Classification:
    return Classification(
        error=type(error),
        cause=text_of(error.message),
        retryable=error.retryable,
        next_command="; ".join(text_of(suggestion) for suggestion in error.suggestions[:1]),
        source=_OURS,
        matched=text_of(error, _MAX_LINE),
    )


def _unknown(error: BaseException | str) -> Classification:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error, _MAX_LINE)}"
    return Classification(
        error=_types.UnrecognizedError,
        cause=NOT_RECOGNIZED,
        retryable=False,
        next_command=_types.UnrecognizedError.default_suggestions[0],
        source="",
        matched="" if isinstance(error, str) else text,
    )


def summary(kind: type[Gaudi3RTError]) -> str:
    """First sentence of what a class of ours is for."""
    return (kind.__doc__ or "").split("\n", 1)[0].replace("`", "")
