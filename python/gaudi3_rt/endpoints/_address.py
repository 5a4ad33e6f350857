"""Where the server listens: which port, on which addresses, and who may be there already."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

import psutil

from gaudi3_rt import _config
from gaudi3_rt._forms import is_loopback
from gaudi3_rt._show import show
from gaudi3_rt.errors import InvalidConfigurationError, ParameterValidationError, ResourceError

LOOPBACK = ("127.0.0.1", "::1")
BACKLOG = 1024
_LARGEST_PORT = 65535
_NO_IPV6 = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def choose_port(port: int | None) -> tuple[int, str]:
    """The port, 0 for none, and who chose it. Argument, else ``GAUDI3_RT_METRICS_PORT``, else 9200.

    An argument is the port itself. The variable and the default are the port of local rank 0, and each further process
    of the machine has the next one.

    Raises:
        ParameterValidationError: the argument is no port.
        InvalidConfigurationError: a variable is none, or leads beyond the last port.
    """
    if port is not None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _LARGEST_PORT:
            msg = f"port={show(port)}: has to be a whole number, 1 to {_LARGEST_PORT}, or 0 for no endpoints"
            raise ParameterValidationError(msg)
        return port, "port="
    try:
        base, local_rank = _config.metrics_port(), _config.local_rank()
    except ValueError as error:
        raise InvalidConfigurationError(str(error)) from None
    if base == 0:
        return 0, f"{_config.METRICS_PORT_VARIABLE}=0"
    name = "the default" if base is None else _config.METRICS_PORT_VARIABLE
    first = _config.DEFAULT_METRICS_PORT if base is None else base
    if first + local_rank > _LARGEST_PORT:
        msg = f"{name}: port {first} + local rank {local_rank} is beyond {_LARGEST_PORT}"
        raise InvalidConfigurationError(msg)
    return first + local_rank, f"{name} {first} + local rank {local_rank}"


def listen(host: str, port: int, chosen: str) -> list[socket.socket]:
    """Sockets that are bound; ``localhost`` is both loopback addresses, without IPv6 the one that there is.

    Raises:
        ResourceError: the port is taken, or the address is none of this machine's.
    """
    bound: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            try:
                bound.append(_bind(family, address))
            except OSError as error:  # noqa: PERF203 (two at most)
                if host == "localhost" and family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                raise _cannot_bind(error, host, port, chosen) from error
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def require_bound(listener: socket.socket) -> None:
    """Looks whether a socket of the caller's can be listened on; it may do so already.

    Raises:
        ParameterValidationError: it is no TCP socket that is bound to a port.
    """
    is_tcp = listener.family in {socket.AF_INET, socket.AF_INET6} and listener.type == socket.SOCK_STREAM
    try:
        is_fit = is_tcp and listener.getsockname()[1] > 0
    except OSError:  # closed
        is_fit = False
    with contextlib.suppress(OSError):
        listener.getpeername()
        is_fit = False
    if not is_fit:
        msg = "listener has to be a TCP socket that is bound to a port, and not closed or connected"
        raise ParameterValidationError(msg)


def is_exposed(listeners: Sequence[socket.socket]) -> bool:
    """Whether other machines can reach one of them."""
    return any(not is_loopback(one.getsockname()[0]) for one in listeners)


def urls(listeners: Sequence[socket.socket]) -> tuple[str, ...]:
    """``http://127.0.0.1:9200`` for each."""
    found = []
    for one in listeners:
        host, port = one.getsockname()[:2]
        found.append(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    return tuple(found)


def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    if host == "localhost":
        return [(socket.AF_INET, (LOOPBACK[0], port)), (socket.AF_INET6, (LOOPBACK[1], port))]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        msg = f"host={show(host)} is neither an address nor a name that has one; give 'localhost', '0.0.0.0' or '::'"
        raise ParameterValidationError(msg) from error
    family, _, _, _, address = found[0]
    return [(family, (str(address[0]), port))]


def _bind(family: int, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a run that has just ended
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_bind(error: OSError, host: str, port: int, chosen: str) -> ResourceError:
    where = f"port {port} of {host} ({chosen})"
    variable = _config.METRICS_PORT_VARIABLE
    other = port + 100 if port + 100 <= _LARGEST_PORT else _config.DEFAULT_METRICS_PORT
    advice = [
        f"choose another: serve(port={other}), or {variable}={other}, which is the port of local rank 0",
        f"do without: serve(port=0), or {variable}=0",
    ]
    if error.errno == errno.EADDRINUSE:
        return ResourceError(f"{where} is taken: {_holder(port)}", suggestions=advice)
    if error.errno == errno.EACCES:
        return ResourceError(f"{where} needs rights that this process does not have", suggestions=advice)
    return ResourceError(f"{where} cannot be listened on: {error.strerror}", suggestions=advice)


def _holder(port: int) -> str:
    """Who listens there, if that can be seen."""
    try:
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                process = psutil.Process(one.pid)
                own = ", which is this process" if one.pid == psutil.Process().pid else ""
                return f"pid {one.pid} ({process.name()}) listens there{own}"
    except psutil.Error:
        pass
    return "who listens there cannot be seen from here (try: ss -ltnp)"
