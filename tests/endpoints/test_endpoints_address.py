"""Where the server listens: argument, variable, default; ports that are taken; addresses that others can reach."""

import os
import socket

import psutil
import pytest
from _client import bound, get, held_port

from gaudi3_rt import endpoints, errors
from gaudi3_rt.endpoints._address import choose_port, listen

TOKEN = "s3cret-token-of-a-test"  # noqa: S105 (of a test)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    """Of the one who runs the tests."""
    for name in ("GAUDI3_RT_METRICS_PORT", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("argument", "variable", "rank", "port"),
    [
        (None, None, None, 9200),
        (None, None, "3", 9203),
        (None, "", "3", 9203),
        (None, "9300", None, 9300),
        (None, "9300", "3", 9303),
        (None, "0", "3", 0),
        (9400, "9300", "3", 9400),
        (0, "9300", "3", 0),
        (None, "65535", "0", 65535),
    ],
)
def test_which_port(argument, variable, rank, port, monkeypatch):
    """Argument, then variable, then default; the number of the process is added to what all processes share."""
    if variable is not None:
        monkeypatch.setenv("GAUDI3_RT_METRICS_PORT", variable)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_port(argument)[0] == port


@pytest.mark.parametrize("wrong", [-1, 65536, True, "9200", 9200.0])
def test_arguments_that_are_no_port(wrong):
    """They are refused, with what is allowed."""
    with pytest.raises(errors.ParameterValidationError, match=r"1 to 65535, or 0 for no endpoints"):
        endpoints.serve(port=wrong)


@pytest.mark.parametrize(("variable", "rank"), [("x", "0"), ("65536", "0"), ("-1", "0"), ("65535", "1"), ("9200", "x")])
def test_variables_that_are_no_port(variable, rank, monkeypatch):
    """Nor is there a port beyond the last one."""
    monkeypatch.setenv("GAUDI3_RT_METRICS_PORT", variable)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(errors.InvalidConfigurationError, match=r"GAUDI3_RT_METRICS_PORT|LOCAL_RANK"):
        endpoints.serve()


def test_a_port_that_is_taken():
    """Who has it, and how to choose another; nothing falls back, nothing is left open."""
    with held_port() as port:
        with socket.create_server(("127.0.0.1", port)):
            before = psutil.Process().num_fds()
            server = endpoints.serve(False, False, port)
            with pytest.raises(errors.ResourceError) as caught, server:
                pass
            message = str(caught.value)
            assert f"port {port} of localhost (port=) is taken: pid {os.getpid()} (" in message
            assert "which is this process" in message
            assert any("GAUDI3_RT_METRICS_PORT=0" in one for one in caught.value.suggestions)
            assert psutil.Process().num_fds() == before
        with server:
            assert get(server.urls[0], "/livez").status == 200


def test_localhost_is_both_loopback_addresses():
    """And nothing else."""
    with held_port() as port:
        with endpoints.serve(False, False, port) as server:
            expected = [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
            assert list(server.urls) == expected[: len(server.urls)]
            assert [get(url, "/livez").status for url in server.urls] == [200] * len(server.urls)
            assert len(server.urls) == (2 if _has_ipv6() else 1)
        with endpoints.serve(False, False, port):  # at once again
            pass


def _has_ipv6():
    try:
        bound("::1").close()
    except OSError:
        return False
    return True


def test_without_ipv6_there_is_ipv4(monkeypatch):
    """But an address that was asked for does not fall back."""
    real = socket.socket

    def made(family=socket.AF_INET, *rest):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", made)
    (only,) = listen("localhost", 0, "a test")
    assert only.getsockname()[0] == "127.0.0.1"
    only.close()
    with pytest.raises(errors.ResourceError, match="Address family not supported"):
        listen("::1", 0, "a test")


def test_other_machines_see_nothing_by_accident(caplog):
    """With a token they may; without one only if somebody says so, and the log says what is shown."""

    def everywhere():
        return socket.create_server(("0.0.0.0", 0))  # noqa: S104 (what is tested)

    with (
        pytest.raises(errors.ParameterValidationError, match=r"all metrics of this run.*allow_unauthenticated=True"),
        endpoints.serve(False, False, listener=everywhere()),
    ):
        pass
    with endpoints.serve(False, False, listener=everywhere(), token=TOKEN) as server:
        assert server.url.startswith("http://0.0.0.0:")
    assert not caplog.records
    with endpoints.serve(False, False, listener=everywhere(), allow_unauthenticated=True):
        pass
    assert "to every machine that can reach this one" in caplog.text


@pytest.mark.parametrize("host", ["no such host", "300.1.1.1", ""])
def test_hosts_that_are_none(host, monkeypatch):
    """They are refused before anything is started."""

    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with (
        pytest.raises(errors.ParameterValidationError, match="neither an address nor a name"),
        endpoints.serve(False, False, 9, host),
    ):
        pass


def test_a_listener_that_does_not_listen_yet():
    """Bound is enough, and a socket that listens already is as good."""
    for listens in (False, True):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen(1)
        with endpoints.serve(False, False, listener=listener) as server:
            assert get(server.url, "/livez").status == 200


@pytest.mark.parametrize("kind", ["unbound", "closed", "udp", "unix", "connected"])
def test_listeners_that_are_none(kind, tmp_path):
    """One error, and the socket is closed."""
    made = {"udp": (socket.AF_INET, socket.SOCK_DGRAM), "unix": (socket.AF_UNIX, socket.SOCK_STREAM)}
    listener = socket.socket(*made.get(kind, (socket.AF_INET, socket.SOCK_STREAM)))
    with bound() as other:
        if kind == "udp":
            listener.bind(("127.0.0.1", 0))
        if kind == "unix":
            listener.bind(str(tmp_path / "socket"))
        if kind == "connected":
            listener.connect(other.getsockname())
        if kind == "closed":
            listener.close()
        server = endpoints.serve(False, False, listener=listener)
        with pytest.raises(errors.ParameterValidationError, match="TCP socket that is bound"), server:
            pass
    assert listener.fileno() == -1


def test_port_and_listener_exclude_each_other():
    """Two ports would be one too many."""
    with bound() as listener, pytest.raises(errors.ParameterValidationError, match="exclude each other"):
        endpoints.serve(port=9200, listener=listener)


def test_entered_twice():
    """The second time is an error; after the end it may be entered again if it has a port of its own."""
    with (
        endpoints.serve(False, False, listener=bound()) as server,
        pytest.raises(errors.ParameterValidationError, match="open already"),
    ):
        server.__enter__()
