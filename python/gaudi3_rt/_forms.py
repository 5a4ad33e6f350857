"""What is wrong with the form of a text that should be a URL or a path: one sentence, or None. Nothing is rewritten."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

_CONTROL_OR_SPACE = frozenset(map(chr, range(0x21))) | {"\x7f", "\\"}
_LONGEST_HOST = 253
_HOLD_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Compatible and mapped (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052): IPv4 is in the last 32 bits."""
_LONGEST_LABEL = 63
_UNREADABLE = "is no URL: its host or port cannot be read"


def url_fault(text: str, schemes: Collection[str], *, block_private: bool = False) -> str | None:
    """What is wrong with a URL.

    Args:
        text: the URL.
        schemes: those that are allowed, in lower case.
        block_private: refuse hosts that are addresses of this machine or of private networks, in any notation that a
            resolver takes (``127.1``, ``0x7f000001``, ``::ffff:10.0.0.1``), and the name localhost. Other names are not
            looked up: what they resolve to is for the one who connects to check.
    """
    return next(_url_faults(text, schemes, block_private=block_private), None)


def _url_faults(text: str, schemes: Collection[str], *, block_private: bool) -> Iterator[str]:
    if any(c in _CONTROL_OR_SPACE for c in text):
        yield "holds a space, a control character or a backslash"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        yield _UNREADABLE
        return
    if not _has_fitting_brackets(parts.netloc):
        yield _UNREADABLE
    if parts.scheme not in schemes:
        yield f"has the scheme {parts.scheme[:20]!r}; allowed: {', '.join(sorted(schemes))}"
    if "@" in parts.netloc:
        yield "holds a user name or password; give them by a variable or a file of the tool that connects"
    if not parts.hostname:
        yield "has no host"
        return
    if port == 0 or parts.netloc.endswith(":"):
        yield "has no usable port"
    if not _is_host(parts.hostname):
        yield "has a host that is neither a name nor an address"
    if block_private and is_private(parts.hostname):
        yield "leads to this machine or to a private network"


def has_credentials(text: str) -> bool:
    """Whether a text is a URL with a user name or password before its host."""
    _, separator, rest = text.partition("://")
    return bool(separator) and "@" in rest.replace("\\", "/").split("/")[0].split("?")[0].split("#")[0]


def split_url(text: str) -> SplitResult | None:
    """The parts of a text that has ``://`` in it; None if it has not, or if they cannot be told."""
    try:
        return urlsplit(text) if "://" in text else None
    except ValueError:
        return None


def is_private(host: str) -> bool:
    """Whether a host is written as an address that is not public, or as localhost."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (
        not address.is_global or address.is_multicast or (address.version == 6 and address.is_site_local)  # noqa: PLR2004
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    name = host.rstrip(".").lower()
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host)) if host.isascii() else None
        except (OSError, ValueError):
            return None
    return found if isinstance(found, ipaddress.IPv4Address) else _embedded(found) or found


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, where it holds one."""
    if any(address in network for network in _HOLD_IPV4) and int(address) > 1:  # :: and ::1 are IPv6's own
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _has_fitting_brackets(netloc: str) -> bool:
    """Whether brackets, if any, hold an IPv6 address and have only a port beside them.

    What ``urlsplit()`` takes there depends on the version of Python, and so does the host that it sees.
    """
    if "[" not in netloc:
        return True
    inside, _, after = netloc.rpartition("@")[2].removeprefix("[").partition("]")
    try:
        ipaddress.IPv6Address(inside)
    except ValueError:
        return False
    return not after or after.startswith(":")


def _is_host(host: str) -> bool:
    if ":" in host:
        return _address(host) is not None
    labels = host.removesuffix(".").split(".")
    return len(host) <= _LONGEST_HOST and all(
        0 < len(label) <= _LONGEST_LABEL
        and label.isascii()
        and label.replace("-", "a").replace("_", "a").isalnum()
        and not label.startswith("-")
        and not label.endswith("-")
        for label in labels
    )


def path_fault(text: str, root: Path | None, *, absolute: bool = False) -> str | None:
    """What is wrong with a path.

    Args:
        text: the path.
        root: the folder that it has to lie in, also after symbolic links are followed; None for anywhere.
        absolute: whether it may be absolute (and then lie in ``root``).
    """
    return next(_path_faults(text, root, absolute=absolute), None)


def _path_faults(text: str, root: Path | None, *, absolute: bool) -> Iterator[str]:
    if not text:
        yield "is empty"
    if "\0" in text:
        yield "holds a NUL character"
    path = Path(text)
    if path.is_absolute() and not absolute:
        yield "is absolute; give it relative to its root"
    if ".." in path.parts:
        yield "goes up by '..'"
    if root is None:
        return
    try:
        inside = Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        yield "cannot be resolved"
    else:
        if not inside:
            yield "leads out of its root"
