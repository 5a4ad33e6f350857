"""What goes wrong with a software HPU, and at which step: as objects and as text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing._messages import STATUS
from gaudi3_rt.testing._units import parse_bytes, parse_seconds

MOMENTARY = ("synstatus", "busy", "oom", "hang", "ecc", "ecc corrected")
"""Kinds that happen ``times`` times; the others last until their last step."""
LASTING = ("device lost", "leak", "telemetry unavailable", "temperature", "power", "slow")
KINDS = (*MOMENTARY, *LASTING)
_MOST = 10**9


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Args:
        kind: one of ``KINDS``.
        step: from which step on; 0 is before the first.
        value: the status code of ``synstatus``, seconds of ``hang`` and ``slow``, bytes a step of ``leak``, degrees
            Celsius of ``temperature``, watts of ``power``; 0 for the others.
        times: how often a momentary kind happens.
        last_step: when a lasting kind ends; None for never.
        ranks: whom it happens to; None for everybody.

    Raises:
        ParameterValidationError: a field is outside its range.
    """

    kind: str
    step: int = 0
    value: float = 0
    times: int = 1
    last_step: int | None = None
    ranks: frozenset[int] | None = None

    def __post_init__(self) -> None:
        numbers = {"step": self.step, "times": self.times}
        numbers |= {} if self.last_step is None else {"last_step": self.last_step}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int):
                message = f"{name} is {number!r}; it has to be a whole number"
                raise ParameterValidationError(message)
        lasting = self.kind in LASTING
        needs_value = self.kind in {"synstatus", "hang", "slow", "leak", "temperature", "power"}
        problems = (
            (self.kind not in KINDS, f"kind is {self.kind!r}; it has to be one of {', '.join(KINDS)}"),
            (not 0 <= self.step <= _MOST, f"step is {self.step}; it has to be 0 to {_MOST}"),
            (not 1 <= self.times <= _MOST, f"times is {self.times}; it has to be 1 to {_MOST}"),
            (lasting and self.times != 1, f"'{self.kind}' lasts; it cannot happen {self.times} times"),
            (not lasting and self.last_step is not None, f"'{self.kind}' is over at once; it has no last step"),
            (
                self.last_step is not None and self.last_step < self.step,
                f"the last step, {self.last_step}, is before step {self.step}",
            ),
            (self.ranks is not None and not self.ranks, "ranks is empty; None means all"),
            (self.ranks is not None and any(r < 0 for r in self.ranks), "a rank is negative"),
            (self.kind == "synstatus" and self.value not in STATUS, f"synStatus {self.value:g} is none of {[*STATUS]}"),
            (needs_value and not 0 < self.value < float("inf"), f"'{self.kind}' needs a positive value"),
            (not needs_value and self.value != 0, f"'{self.kind}' has no value"),
        )
        for is_wrong, message in problems:
            if is_wrong:
                raise ParameterValidationError(message)

    def concerns(self, rank: int) -> bool:
        """Whether it happens to a rank."""
        return self.ranks is None or rank in self.ranks

    def __str__(self) -> str:
        """As :func:`parse_script` reads it."""
        texts = {
            "synstatus": f"synStatus {self.value:g}",
            "hang": f"hang {_number(self.value)} s",
            "slow": f"slow {_number(self.value)} s",
            "leak": f"leak {_number(self.value)} B a step",
            "temperature": f"temperature {_number(self.value)} C",
            "power": f"power {_number(self.value)} W",
        }
        text = f"step {self.step}: {texts.get(self.kind, self.kind)}"
        if self.times != 1:
            text += f" {self.times} times"
        if self.ranks is not None:
            text += f" on rank {','.join(str(rank) for rank in sorted(self.ranks))}"
        if self.last_step is not None:
            text += f" to step {self.last_step}"
        return text


def _number(value: float) -> str:
    """Shortest decimal text of a number, without an exponent."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _value(unit: str) -> Callable[[str], float]:
    """Reads ``95 C`` or ``900 W``."""

    def read(text: str) -> float:
        match = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?) ?{unit}", text, re.IGNORECASE)
        if match is None:
            msg = f"{text!r} is not a number with the unit {unit}"
            raise ParameterValidationError(msg)
        return float(match[1])

    return read


_FORMS: tuple[tuple[str, str, Callable[[str], float]], ...] = (
    ("synstatus", r"synstatus[ =]+([0-9]{1,3})", float),
    ("busy", r"busy", float),
    ("oom", r"oom|out of memory", float),
    ("hang", r"hang (?:for )?(.+)", parse_seconds),
    ("slow", r"slow (?:by )?(.+)", parse_seconds),
    ("ecc corrected", r"ecc corrected", float),
    ("ecc", r"ecc(?: uncorrected)?", float),
    ("device lost", r"(?:device )?lost", float),
    ("leak", r"(?:free memory )?leaks? (.+?) (?:a|per) step", parse_bytes),
    ("telemetry unavailable", r"telemetry unavailable", float),
    ("temperature", r"temperature (.+)", _value("C")),
    ("power", r"power (.+)", _value("W")),
)
_PREFIX = re.compile(r"step ([0-9]{1,10})\s*:\s*", re.IGNORECASE)
_SUFFIXES = {
    "times": re.compile(r"\s+([0-9]{1,10}) times?$|\s+(once)$|\s+(twice)$", re.IGNORECASE),
    "ranks": re.compile(r"\s+on ranks? ([0-9]{1,9}(?:\s*,\s*[0-9]{1,9})*)$", re.IGNORECASE),
    "step": re.compile(r"\s+from step ([0-9]{1,10})$", re.IGNORECASE),
    "last_step": re.compile(r"\s+to step ([0-9]{1,10})$", re.IGNORECASE),
}
_EXAMPLE = "'step 12: synStatus 20 on rank 3', 'step 40: hang 30 s', 'leak 1 MB a step from step 5 to step 9'"


def parse_script(text: str) -> tuple[Fault, ...]:
    """Faults from text: entries with semicolons or line ends between them, ``#`` before remarks.

    An entry is ``[step N:] FAULT`` with any of ``N times``, ``on rank R[,R]``, ``from step N``, ``to step N`` after it.

    Raises:
        ParameterValidationError: an entry cannot be read; the message has its number and what is allowed.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = [entry.strip() for line in lines for entry in line.split(";")]
    return tuple(_numbered(number, entry) for number, entry in enumerate((one for one in entries if one), 1))


def _numbered(number: int, entry: str) -> Fault:
    """One fault; errors name the entry."""
    try:
        return _parse_entry(" ".join(entry.split()))
    except ParameterValidationError as error:
        msg = f"entry {number} of the script, {entry!r}: {error.message}"
        raise ParameterValidationError(msg) from None


def _parse_entry(entry: str) -> Fault:
    """One fault."""
    fields: dict[str, int | frozenset[int]] = {}
    prefix = _PREFIX.match(entry)
    if prefix:
        fields["step"] = int(prefix[1])
        entry = entry[prefix.end() :]
    while found := next(((name, m) for name, form in _SUFFIXES.items() if (m := form.search(entry))), None):
        name, match = found
        if name in fields:
            msg = f"it says {'the step' if name == 'step' else name.replace('_', ' ')} twice"
            raise ParameterValidationError(msg)
        words = [word for word in match.groups() if word]
        if name == "ranks":
            fields[name] = frozenset(int(rank) for rank in words[0].split(","))
        else:
            fields[name] = {"once": 1, "twice": 2}.get(words[0].lower()) or int(words[0])
        entry = entry[: match.start()]
    for kind, form, read in _FORMS:
        if written := re.fullmatch(form, entry, re.IGNORECASE):
            return Fault(kind, value=read(written[1]) if written.groups() else 0, **fields)  # type: ignore[arg-type]
    first = entry.split(":")[-1].strip().lower()
    close = difflib.get_close_matches(first, KINDS, 1)
    guess = f"; did you mean {close[0]!r}" if close else ""
    msg = f"{entry!r} is no fault{guess}; faults are {', '.join(KINDS)}; for example {_EXAMPLE}"
    raise ParameterValidationError(msg)


class Timeline:
    """The faults of one rank: what lasts at a step, and what is still to happen."""

    def __init__(self, faults: Iterable[Fault], rank: int) -> None:
        self._faults = [fault for fault in faults if fault.concerns(rank)]
        self._left = {id(fault): fault.times for fault in self._faults if fault.kind in MOMENTARY}

    def take(self, step: int, *kinds: str) -> Fault | None:
        """The first fault of these kinds that is due at a step and has not happened; it has happened from now on."""
        for fault in self._faults:
            if fault.kind in kinds and fault.step <= step and self._left[id(fault)]:
                self._left[id(fault)] -= 1
                return fault
        return None

    def lasting(self, step: int, kind: str) -> list[Fault]:
        """Faults of this kind that are there at a step."""
        return [
            fault
            for fault in self._faults
            if fault.kind == kind and fault.step <= step and (fault.last_step is None or step <= fault.last_step)
        ]

    def count(self, step: int, kind: str) -> int:
        """How often a momentary kind has happened by a step, whether or not somebody noticed."""
        return sum(fault.times for fault in self._faults if fault.kind == kind and fault.step <= step)
