"""The server under clients that send nonsense, nothing, too much, or go; and under many at a time."""

import asyncio
import contextlib
import gc
import random
import socket
import struct
import threading

import pytest
from _client import WAIT, bound, connect, get, read_answer, talk
from _fuzz import examples
from _threads import begun_since, refuse
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import endpoints
from gaudi3_rt.endpoints import Limits
from gaudi3_rt.endpoints._http import BadRequestError, parse
from gaudi3_rt.endpoints._routes import Routes
from gaudi3_rt.endpoints._server import Server, _Collector

prometheus_client = pytest.importorskip("prometheus_client")
pytest.importorskip("prometheus_client.core")


class Collector:
    """One metric; how often it was collected, and something to wait for while it is."""

    def __init__(self):
        self.count, self.help = 0, "Of it."
        self.began, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()

    def collect(self):
        """Once for each scrape."""
        self.count += 1
        self.began.release()
        assert self.go_on.wait(WAIT)
        yield prometheus_client.core.GaugeMetricFamily("size", self.help, value=self.count)


@pytest.fixture
def collector():
    """Lets go at the end."""
    made = Collector()
    yield made
    made.go_on.set()


@pytest.fixture
def serve(collector):
    """Starts a server with limits; the last look is whether it still answers."""
    opened = []

    def start(**limits):
        registry = prometheus_client.CollectorRegistry()
        registry._collector_to_names[collector] = ["size"]
        server = endpoints.serve(registry, False, listener=bound(), limits=Limits(**limits))
        server.__enter__()
        opened.append(server)
        return server

    yield start
    for server in opened:
        assert get(server.url, "/livez").status == 200
        server.__exit__(None, None, None)


GARBAGE = (
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"GET\r\n\r\n",
    b"GET /livez\r\n\r\n",
    b"GET  /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/2.0\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n: no name\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nContent-Length : 26\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nX: a\rContent-Length: 26\r\n\r\n",
    b"GET /livez HTTP/1.1\nContent-Length: 26\n\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage(serve, data):
    """Is answered with 400, and the connection is closed."""
    assert talk(serve().url, data).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("data", [b"GET /" + b"a" * 100_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"])
def test_huge_heads(serve, data):
    """Are not kept: what fits is read, and the answer says so."""
    assert talk(serve().url, data).startswith(b"HTTP/1.1 431 ")


@examples(200)
@given(st.binary(max_size=200) | st.builds(lambda a, b: a + b" / HTTP/1.1\r\n" + b, st.binary(max_size=9), st.binary()))
def test_any_bytes_are_a_request_or_none(data):
    """Nothing else is raised."""
    try:
        request = parse(data)
    except BadRequestError:
        return
    assert request.method.isascii()


def test_bodies_are_not_read(serve):
    """The request is answered, and the connection closed, so that no body is taken for a request."""
    url = serve().url
    smuggled = b"GET /metrics HTTP/1.1\r\n\r\n"
    for header in (b"Content-Length: 26", b"Transfer-Encoding: chunked"):
        found = talk(url, b"GET /livez HTTP/1.1\r\n" + header + b"\r\n\r\n" + smuggled)
        assert found.count(b"HTTP/1.1") == 1
        assert b"Connection: close" in found


def test_pipelining_and_connections_that_stay(serve):
    """All answers, in order; also in single bytes."""
    url = serve().url
    data = b"".join(
        f"{method} {path} HTTP/1.1\r\n\r\n".encode()
        for method, path in (("GET", "/livez"), ("HEAD", "/x"), ("GET", "/metrics"))
    )
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))], [data * 20]):
        with connect(url) as client, client.makefile("rb") as stream:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            for _ in range(len(b"".join(pieces)) // len(data)):
                answers = [read_answer(stream, method) for method in ("GET", "HEAD", "GET")]
                assert [one.status for one in answers] == [200, 404, 200]
                assert answers[2].body.startswith(b"# HELP size")


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_whether_a_connection_stays(serve, version, header, stays):
    """As the versions of HTTP have it."""
    with connect(serve().url) as client, client.makefile("rb") as stream:
        client.sendall(f"GET /livez HTTP/{version}\r\n{header}\r\n".encode())
        assert read_answer(stream).headers["Connection"] == ("keep-alive" if stays else "close")
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (read_answer(stream) is not None) == stays


def test_slow_heads_end_at_their_time():
    """Whether nothing comes or a little; others are answered meanwhile, without one more thread."""
    listener = bound()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    slow, before = [connect(url) for _ in range(50)], threading.enumerate()
    try:
        for number, client in enumerate(slow):  # before the server begins, so that none is slower than it should be
            client.sendall(b"GET /livez HTTP/1.1\r\nX: "[: number % 20])
        with connect(url) as quick, quick.makefile("rb") as stream:
            quick.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            with endpoints.serve(False, False, listener=listener, limits=Limits(head_seconds=0.3)):
                assert read_answer(stream).status == 200
                assert len(begun_since(before)) == 2
                ends = [client.recv(100)[:12] for client in slow]
        assert ends == [b"HTTP/1.1 408" if number % 20 else b"" for number in range(50)]
    finally:
        for client in slow:
            client.close()


def test_more_connections_than_there_may_be(serve):
    """Those go that have waited longest; whoever asks is answered."""
    url = serve(connections=8).url
    slow = [connect(url) for _ in range(40)]
    try:
        for client in slow:
            with contextlib.suppress(ConnectionError):  # it has gone already
                client.sendall(b"G")
        assert [get(url, "/metrics").status for _ in range(10)] == [200] * 10
        with contextlib.suppress(ConnectionError):
            assert slow[0].recv(1) == b""
    finally:
        for client in slow:
            client.close()


def test_answers_that_nobody_takes(serve, collector):
    """Are dropped after a while, and others are answered meanwhile."""
    collector.help = "x" * (1 << 20)
    url = serve(write_seconds=0.2).url
    with connect(url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.settimeout(WAIT)
        with pytest.raises(ConnectionError):
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 1_000_000)
        assert get(url, "/livez").status == 200


def test_clients_that_go_in_the_middle(serve):
    """At any byte, with and without a reset."""
    url, numbers = serve().url, random.Random(0)
    data = b"GET /metrics HTTP/1.1\r\nAccept: */*\r\n\r\n"
    for _ in range(100):
        with connect(url) as client:
            client.sendall(data[: numbers.randrange(len(data) + 1)])
            if numbers.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_two_hundred_scrapes_at_once(serve, collector):
    """Those that wait together are collected once; all get the whole."""
    url = serve(collect_seconds=WAIT).url
    collector.go_on.clear()
    before = threading.enumerate()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(200)]
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert collector.began.acquire(timeout=WAIT)
        assert get(url, "/livez").status == 200  # which came last, so all others wait by now
        assert begun_since(before) == []
        collector.go_on.set()
        found = [read_answer(stack.enter_context(client.makefile("rb"))) for client in clients]
    assert {one.status for one in found} == {200}
    assert all(one.body.startswith(b"# HELP size Of it.") for one in found)
    assert collector.count <= 2  # the first, and those that came while it was answered


def test_a_collector_that_hangs(serve, collector):
    """Scrapes are told so; liveness and the end wait for nothing."""
    server = serve(collect_seconds=0.1)
    collector.go_on.clear()
    for _ in range(3):
        answer = get(server.url, "/metrics")
        assert (answer.status, answer.json) == (503, {"error": "the metrics are not there in time"})
    assert collector.count == 1
    collector.go_on.set()
    assert any(get(server.url, "/metrics").status == 200 for _ in range(1000))


def test_who_comes_as_a_collection_begins_gets_the_next(collector):
    """Though the loop is busy at that moment: what was emitted before a scrape is in it."""
    registry = prometheus_client.CollectorRegistry()
    registry._collector_to_names[collector] = ["size"]
    request = parse(b"GET /metrics HTTP/1.1\r\n\r\n")

    async def main():
        metrics = _Collector(asyncio.get_running_loop(), Routes(registry, None, None), WAIT)
        metrics.start()
        first = asyncio.ensure_future(metrics.collect(request))
        await asyncio.sleep(0)
        assert collector.began.acquire(timeout=WAIT)
        second = await metrics.collect(request)
        metrics.close()
        return [b"size 1.0" in (await first).body, b"size 2.0" in second.body]

    assert asyncio.run(main()) == [True, True]


@pytest.mark.parametrize("thread", ["endpoints", "metrics"])
def test_without_threads_it_does_not_begin(monkeypatch, thread):
    """Nothing is left: neither the other thread, nor the port, nor the loop, which would warn."""
    listener, before = bound(), threading.enumerate()
    with monkeypatch.context() as patch:
        refuse(patch, f"gaudi3_rt {thread}")
        with pytest.raises(RuntimeError, match="can't start"), endpoints.serve(False, False, listener=listener):
            pass
    assert listener.fileno() == -1
    assert begun_since(before) == []
    gc.collect()


def test_the_end_ends_all_connections():
    """Also those that are in the middle of a request; the threads are joined."""
    before = threading.enumerate()
    with endpoints.serve(False, False, listener=bound()) as server:
        clients = [connect(server.url) for _ in range(20)]
        for client in clients[::2]:
            client.sendall(b"GET /liv")
        assert get(server.url, "/livez").status == 200
    assert begun_since(before) == []
    for client in clients:
        assert client.recv(1) == b""
        client.close()


def test_the_end_closes_what_was_just_accepted(monkeypatch):
    """A client that comes in the same turn of the loop as the end is not left open."""
    listener, late = bound(), []
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    class Health:
        """Answers in the loop: both are there in its next turn."""

        def report(self):
            """A client, and the end."""
            late.append(connect(url))
            server._loop.call_soon(server._stop.set)
            raise KeyError

    server = Server([listener], Routes(None, Health(), None))
    server.start()
    get(url, "/health")
    monkeypatch.setattr(server._loop, "call_soon_threadsafe", lambda _: None)  # the end was said, and may have come
    server.close()
    gc.collect()  # a socket that nobody has closed warns here
    with late.pop() as client:
        assert client.recv(1) == b""
