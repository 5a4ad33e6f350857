"""Which devices a text means: ``auto``, ``cpu``, ``8``, ``hpu``, ``hpu:0,2-3``, ``simulated:1``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from gaudi3_rt._show import show
from gaudi3_rt.errors import ParameterValidationError

ALLOWED = "'auto', 'cpu', a number of HPUs such as 8, 'hpu', 'hpu:0,2-3', 'simulated' or 'simulated:0'"
LARGEST_NUMBER = 1023
_NUMBERED = ("hpu", "simulated")
_PART = re.compile(r"([0-9]+)(?:-([0-9]+))?", re.ASCII)


@dataclass(frozen=True)
class DeviceSpec:
    """Devices that were asked for.

    Attributes:
        kind: ``auto``, ``cpu``, ``hpu`` or ``simulated``.
        numbers: which, in the order that was given; None for all.
        count: how many; None if not said.
    """

    kind: str
    numbers: tuple[int, ...] | None = None
    count: int | None = None

    def __str__(self) -> str:
        if self.count is not None:
            return str(self.count)
        return self.kind if self.numbers is None else f"{self.kind}:{','.join(map(str, self.numbers))}"


def parse_spec(spec: str | int) -> DeviceSpec:
    """What a specification means.

    Numbers of HPUs are those of their modules, as in ``HABANA_VISIBLE_MODULES``; in torch the one HPU of a process is
    always ``hpu:0``.

    Raises:
        ParameterValidationError: it means nothing; the message says what was seen and what is allowed.
    """
    if isinstance(spec, bool) or not isinstance(spec, int | str):
        raise _error(spec, f"it is a {type(spec).__name__}, not a text or a number")
    if isinstance(spec, int):
        return _count(spec, spec)
    if spec in {"auto", "cpu"}:
        return DeviceSpec(spec)
    if re.fullmatch(r"[0-9]+", spec, re.ASCII):
        return _count(spec, _number(spec, spec))
    kind, colon, numbers = spec.partition(":")
    if kind not in _NUMBERED:
        lower = spec.strip().lower()
        hint = f"did you mean {lower!r}" if lower != spec and _means_something(lower) else "it names no kind of device"
        raise _error(spec, "the CPU has no number" if kind == "cpu" and colon else hint)
    if not colon:
        return DeviceSpec(kind)
    return DeviceSpec(kind, numbers=_numbers(spec, numbers))


def _numbers(spec: str, text: str) -> tuple[int, ...]:
    """The numbers after the colon."""
    numbers: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise _error(spec, f"{show(part)} is neither a number nor a range such as 2-3")
        first = _number(spec, match[1])
        last = first if match[2] is None else _number(spec, match[2])
        if last < first:
            raise _error(spec, f"the range {show(part)} runs backwards")
        numbers += range(first, last + 1)
    duplicates = sorted(number for number, times in Counter(numbers).items() if times > 1)
    if duplicates:
        raise _error(spec, f"{duplicates[0]} is named more than once")
    return tuple(numbers)


def _number(spec: str, digits: str) -> int:
    """A number that can be one of a device."""
    if len(digits) > len(str(LARGEST_NUMBER)) or int(digits) > LARGEST_NUMBER:
        raise _error(spec, f"numbers go up to {LARGEST_NUMBER}")
    return int(digits)


def _count(spec: str | int, count: int) -> DeviceSpec:
    """So many HPUs."""
    if not 1 <= count <= LARGEST_NUMBER:
        raise _error(spec, f"a number of devices is 1 to {LARGEST_NUMBER}")
    return DeviceSpec("hpu", count=count)


def _means_something(spec: str) -> bool:
    """Whether it can be read."""
    try:
        parse_spec(spec)
    except ParameterValidationError:
        return False
    return True


def _error(spec: object, problem: str) -> ParameterValidationError:
    """One message for all of them; a long text is cut, secrets are masked."""
    return ParameterValidationError(f"device specification {show(spec)}: {problem}; allowed: {ALLOWED}")
