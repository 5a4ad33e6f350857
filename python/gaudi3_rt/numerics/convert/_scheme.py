"""How a layout names and places what all of them have; ``_reading`` and ``_writing`` go by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert._records import ALGORITHMS, MOMENTS, NEUTRAL, OPTIONAL_MOMENT, Algorithm, Request

Entry = Mapping[str, Any]
"""What a ``state_dict`` has of one parameter."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Names and places of one layout.

    Attributes:
        library: as messages call it.
        moments: by algorithm, its name of each moment.
        options: by algorithm, the keys of its groups, with their defaults.
        step: where the count is: in the parameter's state as a 0-d float32 tensor or a number, or in the group.
        uncounted: algorithms for which it keeps no count.
        decoupled: whether decay is decoupled: an option of a group, a choice of the constructor, or always.
        beside: keys of a parameter's state that are neither moments nor its count, and are understood.
        ignored: keys of groups that say nothing about the state.
    """

    library: str
    moments: Mapping[Algorithm, Mapping[str, str]]
    options: Mapping[Algorithm, Mapping[str, Any]]
    step: Literal["tensor", "number", "group"]
    uncounted: frozenset[Algorithm] = frozenset()
    decoupled: Literal["option", "constructor", "always"] = "constructor"
    beside: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()


def same_names(*algorithms: Algorithm) -> dict[Algorithm, dict[str, str]]:
    """The names of ``torch.optim`` for these algorithms."""
    return {algorithm: {name: name for name in MOMENTS[algorithm]} for algorithm in algorithms}


def entries(state_dict: Mapping[str, Any]) -> Iterable[Entry]:
    """What a ``state_dict`` has of each parameter that has been updated."""
    return [entry for entry in state_dict["state"].values() if entry]


def keys_of(state_dict: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Keys that all groups have, and keys that any parameter's state has."""
    groups = [frozenset(map(str, group)) for group in state_dict["param_groups"]]
    common = frozenset.intersection(*groups) if groups else frozenset()
    return common, frozenset(str(key) for entry in entries(state_dict) for key in entry)


def count(value: Any, where: str) -> int:
    """A step count as an integer.

    Raises:
        DataValidationError: it is none.
    """
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    whole = isinstance(plain, int | float) and not isinstance(plain, bool) and math.isfinite(plain)
    if not whole or plain < 0 or plain != int(plain):
        message = f"the step count of {where} is {plain!r}; needed is a whole number, 0 or more"
        raise DataValidationError(message, suggestions=("Give step=, if you know how many updates were made",))
    return int(plain)


def algorithm_of(scheme: Scheme, state_keys: frozenset[str], group_keys: frozenset[str], request: Request) -> Algorithm:
    """Whose state it is: by its moments, or by the options of its groups before the first update.

    Raises:
        DataValidationError: more than one algorithm keeps that, or none that is known, or another than the named one.
    """
    named = ALGORITHMS[request.optimizer][0] if request.optimizer is not None else None
    fits = _by_moments(scheme, state_keys) if state_keys else _by_options(scheme, group_keys)
    if named is not None and named in fits:
        return named
    if len(fits) == 1 and named is None:
        return fits[0]
    seen = f"a state with the keys {sorted(state_keys)}" if state_keys else f"groups with the keys {sorted(group_keys)}"
    if len(fits) > 1 and named is None:
        message = f"{scheme.library}: {seen} may be that of {' or '.join(map(class_name, fits))}"
        raise DataValidationError(message, suggestions=(f"Give optimizer=, one of {', '.join(map(class_name, fits))}",))
    message = f"{scheme.library}: {seen} is not that of {request.optimizer or 'an optimizer that is converted'}"
    raise DataValidationError(message, suggestions=(f"Converted are the states of {', '.join(ALGORITHMS)}",))


def _by_moments(scheme: Scheme, state_keys: frozenset[str]) -> list[Algorithm]:
    every = {theirs for names in scheme.moments.values() for theirs in names.values()}
    return [
        algorithm
        for algorithm, names in scheme.moments.items()
        if {theirs for ours, theirs in names.items() if ours != OPTIONAL_MOMENT} <= state_keys
        and not (every - set(names.values())) & state_keys
    ]


def _by_options(scheme: Scheme, group_keys: frozenset[str]) -> list[Algorithm]:
    """Before the first update: those with the most options of which none is missing."""
    later = {"maximize", "decoupled_weight_decay"}  # not in the groups of older releases
    needed = {
        algorithm: len(options.keys() - later)
        for algorithm, options in scheme.options.items()
        if (options.keys() & NEUTRAL[algorithm].keys()) - later <= group_keys
    }
    return [algorithm for algorithm, size in needed.items() if size == max(needed.values())]


def class_name(algorithm: Algorithm) -> str:
    """A class that has this algorithm."""
    return next(name for name, (of, _) in ALGORITHMS.items() if of == algorithm)


class Losses:
    """What a layout has no place for, told once for all parameters that it happens to."""

    def __init__(self) -> None:
        self._who: dict[str, list[str]] = {}

    def add(self, what: str, who: object = "") -> None:
        """One loss; ``{}`` in ``what`` stands for the parameters."""
        self._who.setdefault(what, []).append(str(who))

    def texts(self) -> tuple[str, ...]:
        """One sentence for each kind of loss."""
        return tuple(what.format(several(who)) for what, who in self._who.items())


def several(who: Sequence[str]) -> str:
    """A few words for one or more."""
    return who[0] if len(who) == 1 else f"{who[0]} and {len(who) - 1} more"
