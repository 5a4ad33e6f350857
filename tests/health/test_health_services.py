"""Checks of services: real servers on loopback that answer, refuse, redirect, hang and talk nonsense."""

import contextlib
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
from types import SimpleNamespace

import psutil
import pytest
from _names import resolve_here

from gaudi3_rt import health
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import FakeClock

CLOCK = FakeClock()
SECRET = "hunter2hunter2"  # noqa: S105 (of a test)


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    """Are looked up nowhere else."""
    resolve_here(monkeypatch)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self):
        """Also for HEAD."""
        self.server.seen.append((self.command, self.path))
        self.send_response(int(self.path.split("?")[0].strip("/") or 200))
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def served(context=None):
    """A server; its address and what it was asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def talking(*answers):
    """A server that sends bytes to each client, whatever it wants, and then waits for it to go; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk():
            for answer in answers:
                with contextlib.suppress(OSError), listener.accept()[0] as client:
                    client.sendall(answer)
                    while client.recv(1 << 12):
                        pass

        thread = threading.Thread(target=talk)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("path", "settings", "status"),
    [
        ("/200", {}, S.HEALTHY),
        ("/204", {"method": "HEAD"}, S.HEALTHY),
        ("/302", {}, S.CRITICAL),
        ("/302", {"expected_statuses": [302]}, S.HEALTHY),
        ("/200", {"expected_statuses": [302]}, S.CRITICAL),
        ("/404", {}, S.CRITICAL),
        ("/503", {}, S.CRITICAL),
        ("/200", {"slow_seconds": 1e-9}, S.DEGRADED),
    ],
)
def test_http_statuses(path, settings, status):
    """A redirect is not followed: the port that it names is asked for nothing."""
    with served() as server:
        url = f"http://127.0.0.1:{server.server_port}{path}?token={SECRET}"
        outcome = health.HttpServiceCheck(url=url, **settings).run(CLOCK)
    assert outcome.status is status, outcome
    assert outcome.figures["http_status"] == int(path[1:])
    assert f"HTTP {path[1:]}" in outcome.message
    assert server.seen == [(settings.get("method", "GET"), f"{path}?token={SECRET}")]
    assert outcome.detail == f"http://127.0.0.1:{server.server_port}{path}"
    assert "127.0.0.1" not in outcome.message


def test_proxies_are_not_asked_for_this_machine(monkeypatch):
    """A proxy that nobody has told of loopback would refuse; for other hosts it is asked."""
    with served() as server, served() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for host in ("127.0.0.1", "localhost"):
            check = health.HttpServiceCheck(url=f"http://{host}:{server.server_port}/200")
            assert check.run(CLOCK).status is S.HEALTHY
        assert (len(server.seen), proxy.seen) == (2, [])
        health.HttpServiceCheck(url="http://training.invalid/200").run(CLOCK)
        assert proxy.seen == [("GET", "http://training.invalid/200")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no answer in time"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "the answer is not HTTP"),
    ],
)
def test_nonsense_and_silence(answer, words):
    """Neither raises nor waits for longer than the timeout."""
    with talking(answer) as port:
        url = f"http://127.0.0.1:{port}/?token={SECRET}"
        outcome = health.HttpServiceCheck(url=url, timeout_seconds=0.05 if not answer else 5).run(CLOCK)
    assert (outcome.status, outcome.message) == (S.CRITICAL, words)
    assert SECRET not in outcome.detail


def test_a_silent_service_is_no_check_that_hangs(monkeypatch):
    """What is found is there before the monitor's time is up; at the same moment it would be either, by chance."""
    given = []

    def silent(_, timeout, *__):
        given.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    for check in (
        health.HttpServiceCheck(url="http://127.0.0.1:9/", timeout_seconds=2),
        health.TcpServiceCheck(host="127.0.0.1", port=9, timeout_seconds=2),
    ):
        (found,) = health.HealthMonitor([check]).check_now().results
        assert (found.status, found.message) == (S.CRITICAL, "no answer in time")
    assert [1 < timeout <= 1.8 for timeout in given] == [True, True]


def test_names_and_ports_that_lead_nowhere():
    """In words that name no host."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        port = unused.getsockname()[1]
        for check in (
            health.HttpServiceCheck(url=f"http://127.0.0.1:{port}/"),
            health.TcpServiceCheck(host="127.0.0.1", port=port),
        ):
            outcome = check.run(CLOCK)
            assert (outcome.status, outcome.message) == (S.CRITICAL, "connection refused")
    outcome = health.TcpServiceCheck(host="nowhere.invalid", port=80).run(CLOCK)
    assert (outcome.status, outcome.message) == (S.CRITICAL, "the name of its host cannot be resolved")
    assert "nowhere.invalid" in outcome.detail


def test_tcp():
    """A connection is enough."""
    with talking(b"") as port:
        outcome = health.TcpServiceCheck(host="127.0.0.1", port=port).run(CLOCK)
    assert outcome.status is S.HEALTHY
    assert outcome.figures["response_seconds"] > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_certificates_are_verified(tmp_path):
    """Not accepted without, accepted with the file that vouches for it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)  # noqa: S603
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with served(context) as server:
        url = f"https://127.0.0.1:{server.server_port}/200"
        assert health.HttpServiceCheck(url=url, ca_file=certificate).run(CLOCK).status is S.HEALTHY
        outcome = health.HttpServiceCheck(url=url).run(CLOCK)
        assert (outcome.status, outcome.message) == (S.CRITICAL, "its certificate is not accepted")
    missing = health.HttpServiceCheck(url=url, ca_file=tmp_path / "none").run(CLOCK)
    assert missing.message == "the file with certificates is not there"


def interfaces(**up):
    """What psutil says of interfaces."""
    return {name: SimpleNamespace(isup=is_up) for name, is_up in up.items()}


def counters(**errors):
    """What psutil counts of them."""
    return {name: SimpleNamespace(errin=count, errout=0) for name, count in errors.items()}


@pytest.mark.parametrize(
    ("there", "settings", "status", "words"),
    [
        ({"lo": True, "eth0": True}, {}, S.HEALTHY, "eth0 up"),
        ({"lo": True, "eth0": False}, {}, S.CRITICAL, "no interface but loopback is up"),
        ({"lo": True}, {}, S.CRITICAL, "no interface but loopback is up"),
        (
            {"eth0": True, "ib0": False},
            {"interfaces": ["eth0", "ib0", "ib1"]},
            S.CRITICAL,
            "ib0 is down, ib1 is not there",
        ),
        ({"eth0": True}, {"resolve": "localhost"}, S.HEALTHY, "names are resolved"),
        ({"eth0": True}, {"resolve": "nowhere.invalid"}, S.CRITICAL, "the name of a host cannot be resolved"),
    ],
)
def test_network(there, settings, status, words, monkeypatch):
    """Interfaces that are up, and names."""
    monkeypatch.setattr(psutil, "net_if_stats", lambda: interfaces(**there))
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: counters())
    outcome = health.NetworkCheck(**settings).run(CLOCK)
    assert outcome.status is status
    assert words in outcome.message
    assert "invalid" not in outcome.message


def test_errors_of_interfaces(monkeypatch):
    """Since the last look; an interface that goes takes its count with it."""
    monkeypatch.setattr(psutil, "net_if_stats", lambda: interfaces(eth0=True))
    check, seen = health.NetworkCheck(max_new_errors=3), []
    for count in (100, 103, 107, 2, 2):
        monkeypatch.setattr(psutil, "net_io_counters", lambda count=count, **_: counters(eth0=count))
        outcome = check.run(CLOCK)
        seen.append((outcome.status, outcome.figures.get("new_errors")))
    assert seen == [(S.HEALTHY, None), (S.HEALTHY, 3), (S.DEGRADED, 4), (S.HEALTHY, None), (S.HEALTHY, 0)]
