"""How a process gets its device: bounded tries while somebody else has it, none where trying again cannot help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import random as _random

from gaudi3_rt import _providers, events
from gaudi3_rt._protocols import Clock, Device
from gaudi3_rt.device import _machine
from gaudi3_rt.device._hpu import HpuDevice
from gaudi3_rt.device._select import Machine
from gaudi3_rt.device._spec import parse_spec
from gaudi3_rt.errors import HPUNotAvailableError, ParameterValidationError, classify

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds between tries: doubled after each, up to the longest; between half and all of that, at random."""


@contextmanager
def acquire(
    spec: str | int = "auto",
    *,
    attempts: int = 5,
    timeout: float = 60.0,
    clock: Clock = time,
    random: Callable[[], float] = _random,
    root: str | Path = "/",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Device]:
    """The one device of this process, for as long as the block runs.

    An HPU that somebody else has, or that is being reset, is tried again, with waits that double and vary: whatever
    :func:`gaudi3_rt.errors.classify` calls retryable. Other failures are raised at once.
    An explicit specification never gives something else; of several HPUs it gives the first that is free.

    Args:
        spec: as for :func:`devices`; a number above 1 is refused, since a process has one device.
        attempts: tries for each device, at least 1.
        timeout: seconds after which no try begins.
        clock: time and sleep.
        random: numbers from 0 to 1, for the waits.
        root: as for :func:`devices`.
        environment: as for :func:`devices`.

    Raises:
        ParameterValidationError: an argument is outside its range.
        HPUNotAvailableError: there is no such device, or it cannot be had; ``retryable`` says whether it is only busy,
            and the context has ``holders``, ``attempts`` and the driver's words.
        HPUDriverError: Habana's bridge is missing or does not fit.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        msg = f"attempts is {attempts!r}; it has to be a whole number of at least 1"
        raise ParameterValidationError(msg)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < float("inf"):
        msg = f"timeout is {timeout!r}; it has to be a number of seconds, at least 0 and finite"
        raise ParameterValidationError(msg)
    candidates = Machine(root, environment).candidates(parse_spec(spec))
    device = _open_one(candidates, _Limits(attempts, timeout, clock, random, Path(root)), str(spec))
    _providers.note_acquired(device)
    try:
        yield device
    finally:
        _providers.note_released(device)
        device.close()
        events.emit(events.DeviceReleased, device=device.name, simulated=device.simulated)


class _Limits:
    """How long to try."""

    def __init__(self, attempts: int, timeout: float, clock: Clock, random: Callable[[], float], root: Path) -> None:
        self.attempts = attempts
        self.clock = clock
        self.root = root
        self._random = random
        self.began = clock.monotonic()
        self._end = self.began + timeout

    def wait_after(self, attempt: int) -> float | None:
        """Seconds until the next try; None if there is none."""
        wait: float = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 16)) * (0.5 + 0.5 * self._random())
        if attempt >= self.attempts or self.clock.monotonic() + wait > self._end:
            return None
        return wait


def _open_one(candidates: list[Device], limits: _Limits, spec: str) -> Device:
    """The first candidate that can be had."""
    attempt = 0
    while True:
        attempt += 1
        busy: list[tuple[Device, RuntimeError]] = []
        for device in candidates:
            error = _open(device)
            if error is None:
                seconds = limits.clock.monotonic() - limits.began
                events.emit(
                    events.DeviceAcquired,
                    device=device.name,
                    attempts=attempt,
                    seconds=seconds,
                    simulated=device.simulated,
                )
                return device
            if not classify(error).retryable:
                raise _cannot_be_had(spec, device, error, attempt) from error
            busy.append((device, error))
        wait = limits.wait_after(attempt)
        who = {device.name: _holders(device, limits.root) for device, _ in busy}
        states = [f"{device.name} is busy{_held_by(who[device.name], device, error)}" for device, error in busy]
        if wait is None:
            raise _all_busy(spec, who, states, attempt, limits) from busy[-1][1]
        for device, _ in busy:
            events.emit(
                events.DeviceBusy,
                device=device.name,
                attempt=attempt,
                wait_seconds=wait,
                holders=tuple(who[device.name]),
                simulated=device.simulated,
            )
        limits.clock.sleep(wait)


def _open(device: Device) -> RuntimeError | None:
    """What the driver said if it could not be acquired."""
    try:
        device.open()
    except RuntimeError as error:
        return error
    return None


def _holders(device: Device, root: Path) -> list[str]:
    """Who has a device; nobody real has a simulated one."""
    if not isinstance(device, HpuDevice):
        return []
    return [str(holder) for holder in _machine.holders(device.node, root)]


def _held_by(holders: list[str], device: Device, error: RuntimeError) -> str:
    """For messages: who has it, else the driver's words, of which a reset has others."""
    if not holders:
        words = f" ({str(error).splitlines()[0]})"
        return words if device.simulated else f"{words}, and who has it cannot be seen from here"
    return f": {', '.join(holders)} {'has' if len(holders) == 1 else 'have'} it"


def _all_busy(
    spec: str, who: dict[str, list[str]], states: list[str], attempts: int, limits: _Limits
) -> HPUNotAvailableError:
    """After the last try."""
    seconds = limits.clock.monotonic() - limits.began
    tries = "1 try" if attempts == 1 else f"{attempts} tries"
    msg = f"device {spec!r} cannot be acquired: {'; '.join(states)} ({tries} in {seconds:.1f} s)"
    return HPUNotAvailableError(
        msg,
        spec,
        context={"holders": who, "attempts": attempts, "seconds": seconds},
        suggestions=(
            "end the process that has it, or wait for it; look for processes that have ended but not gone",
            "ask for another device, or raise attempts and timeout",
        ),
        retryable=True,
    )


def _cannot_be_had(spec: str, device: Device, error: RuntimeError, attempts: int) -> HPUNotAvailableError:
    """Something that does not pass."""
    msg = f"device {spec!r} cannot be acquired, and trying again will not help: {error}"
    return HPUNotAvailableError(
        msg,
        spec,
        context={"device": device.name, "attempts": attempts},
        suggestions=(
            "compare the versions of driver, firmware and plugin: gaudi3_rt.device.versions()",
            "look into $HABANA_LOGS and the kernel's log (dmesg) for the driver's own message",
        ),
        retryable=False,
    )
