"""A client for tests of the server: whole requests, and any bytes."""

import contextlib
import json
import socket
from dataclasses import dataclass

WAIT = 30  # seconds until a test gives up


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        """Its content."""
        return json.loads(self.body)


def bound(host="127.0.0.1"):
    """A socket at a port that nobody has."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@contextlib.contextmanager
def held_port():
    """A port at which nobody listens and that the system gives to nobody else; the server may listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def connect(url):
    """A connection to a server."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=WAIT)


def read_answer(stream, method="GET"):
    """The next answer of a connection; None at its end."""
    first = stream.readline()
    if not first:
        return None
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(": ")
        headers[name] = value
    body = b"" if method == "HEAD" else stream.read(int(headers["Content-Length"]))
    return Answer(int(first.split()[1]), headers, body)


def talk(url, data):
    """Everything that comes back for some bytes, until the server closes."""
    found = b""
    with connect(url) as client, contextlib.suppress(ConnectionError):
        client.sendall(data)
        while part := client.recv(1 << 16):
            found += part
    return found


def get(url, path, method="GET", **headers):
    """One request on a connection of its own."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with connect(url) as client, client.makefile("rb") as stream:
        client.sendall(
            "\r\n".join([f"{method} {path} HTTP/1.1", "Connection: close", *lines, "", ""]).encode("latin-1")
        )
        return read_answer(stream, method)
