"""Which devices there are and which this process has: the seam between services that open devices and those that look.

A service that only looks knows names; the service ``device`` is imported when somebody asks for the machine's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from gaudi3_rt._protocols import Device, Provider

_open: dict[str, Provider] = {}
_acquired: dict[str, Device] = {}


def register(provider: Provider) -> None:
    """Offer a provider's devices until :func:`unregister`.

    Raises:
        RuntimeError: one of this kind is open already.
    """
    if _open.setdefault(provider.kind, provider) is not provider:
        msg = f"a provider of {provider.kind!r} devices is open already; close it first, names would be ambiguous"
        raise RuntimeError(msg)


def unregister(provider: Provider) -> None:
    """Offer them no more; does nothing if they are not offered."""
    if _open.get(provider.kind) is provider:
        del _open[provider.kind]


def find(kind: str) -> Provider | None:
    """The open provider of a kind."""
    return _open.get(kind)


def all_devices() -> Sequence[Device]:
    """All that this process may use, not acquired. The first time this imports the service ``device``."""
    found: Sequence[Device] = importlib.import_module("gaudi3_rt.device").devices()
    return found


def note_acquired(device: Device) -> None:
    """This process has it from now on."""
    _acquired[device.name] = device


def note_released(device: Device) -> None:
    """This process has it no longer."""
    _acquired.pop(device.name, None)


def acquired(name: str) -> Device | None:
    """A device that this process has; None if it has not."""
    return _acquired.get(name)


def all_acquired() -> list[Device]:
    """The devices that this process has."""
    return list(_acquired.values())
