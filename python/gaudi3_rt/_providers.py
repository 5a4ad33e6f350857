"""Which providers of devices are open beside the machine's own: the seam between ``testing`` and ``device``."""

from __future__ import annotations

from gaudi3_rt._protocols import Provider

_open: dict[str, Provider] = {}


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
