"""Where in a checkpoint the state of an optimizer is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import _zero

_DEPTH = 4
"""Dicts and lists in one another that are looked through."""


def find(document: Any, key: str | None, path: Path) -> tuple[Any, ...]:
    """Where in a document the state is.

    Raises:
        DataValidationError: nowhere, or in several places.
    """
    if key is not None:
        place = _place(document, key)
        if place is None:
            message = f"{path} has no {key!r}; it has {_shown(document)}"
            raise DataValidationError(message)
        return place
    found = list(_states(document, ()))
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(".".join(map(str, place)) for place in found)
        message = f"{path} has the states of {len(found)} optimizers, at {places}"
        raise DataValidationError(message, suggestions=("Give key= (--key), one of them",))
    message = f"{path} has no state of an optimizer (a dict with state and param_groups); it has {_shown(document)}"
    raise DataValidationError(message)


def _states(document: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(document, Mapping) and ({"state", "param_groups"} <= document.keys() or _zero.is_rank(document)):
        yield place
        return
    if len(place) < _DEPTH:
        inside = (
            document.items()
            if isinstance(document, Mapping)
            else enumerate(document)
            if isinstance(document, list)
            else ()
        )
        for key, value in inside:
            yield from _states(value, (*place, key))


def _place(document: Any, key: str) -> tuple[Any, ...] | None:
    place: list[Any] = []
    for part in key.split("."):
        if isinstance(document, list) and part.isdigit() and int(part) < len(document):
            step: Any = int(part)
        elif isinstance(document, Mapping) and part in document:
            step = part
        elif isinstance(document, Mapping) and part.isdigit() and int(part) in document:
            step = int(part)
        else:
            return None
        document = document[step]
        place.append(step)
    return tuple(place)


def get(document: Any, place: Sequence[Any]) -> Any:
    """What is at a place."""
    for step in place:
        document = document[step]
    return document


def put(document: Any, place: Sequence[Any], value: Any) -> Any:
    """A copy with something else at a place."""
    if not place:
        return value
    first, *rest = place
    inside = put(document[first], rest, value)
    if isinstance(document, list):
        return [inside if number == first else item for number, item in enumerate(document)]
    return {**document, first: inside}


def _shown(document: Any) -> str:
    if isinstance(document, Mapping):
        keys = [str(key) for key in document]
        return f"the keys {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"  # noqa: PLR2004 (a line)
    return f"a {type(document).__name__}"
