"""What each path answers: metrics in every format, liveness, readiness, health; who may see it; what is never in it."""

import contextlib
import getpass
import gzip
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from _client import WAIT, bound, connect, get, read_answer, talk
from _names import resolve_here
from _threads import begun_since

from gaudi3_rt import config, endpoints, errors, events, health
from gaudi3_rt.endpoints._server import Server
from gaudi3_rt.health import HealthStatus as S
from gaudi3_rt.testing import SoftwareHPU

prometheus_client = pytest.importorskip("prometheus_client")

TOKEN = "s3cret-token-of-a-test"  # noqa: S105 (of a test)
PAGES = ("/livez", "/readyz", "/ready", "/health/ready", "/health", "/health/detailed", "/metrics")


def monitor(*statuses, critical=True):
    """Looked at once: checks ``c0``, ``c1``, ... that say these."""
    checks = [
        health.FunctionCheck(f"c{i}", lambda one=one: health.Outcome(status=one, message=f"is {one.value}"), critical)
        for i, one in enumerate(statuses)
    ]
    made = health.HealthMonitor(checks)
    made.check_now()
    return made


def registry():
    """A registry with a counter."""
    made = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("apples", "Eaten.", ["kind"], registry=made).labels("red").inc(3)
    prometheus_client.Gauge("pears", "Left.", registry=made).set(1)
    return made


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    """Are looked up nowhere else."""
    resolve_here(monkeypatch)


@pytest.fixture
def serve():
    """Starts servers at ports of their own; all are closed at the end."""
    opened = []

    def start(metrics=False, health=False, **options):
        server = endpoints.serve(metrics, health, listener=bound(), **options)
        server.__enter__()
        opened.append(server)
        return server

    yield start
    for server in opened:
        server.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("statuses", "whole", "code"),
    [
        ([S.HEALTHY], "healthy", 200),
        ([S.HEALTHY, S.DEGRADED], "degraded", 200),
        ([S.UNKNOWN], "unknown", 503),
        ([S.HEALTHY, S.CRITICAL], "critical", 503),
    ],
)
def test_health_decides_on_readiness_and_not_on_liveness(serve, statuses, whole, code):
    """All paths with one meaning give one answer."""
    url = serve(health=monitor(*statuses)).url
    ready = code == 200
    assert (get(url, "/livez").status, get(url, "/livez").json) == (200, {"alive": True})
    for path in ("/readyz", "/ready", "/health/ready"):
        answer = get(url, path)
        assert (answer.status, answer.json) == (code, {"ready": ready})
        verbose = get(url, f"{path}?verbose")
        names = {f"c{i}": one.value for i, one in enumerate(statuses)}
        assert (verbose.status, verbose.json) == (code, {"ready": ready, "status": whole, "checks": names})
    assert (get(url, "/health").status, get(url, "/health").json) == (code, {"status": whole, "ready": ready})
    detailed = get(url, "/health/detailed")
    assert (detailed.status, detailed.json["version"], detailed.json["status"]) == (code, 1, whole)
    assert [one["message"] for one in detailed.json["checks"]] == [f"is {one.value}" for one in statuses]
    assert "detail" not in detailed.json["checks"][0]


def test_liveness_looks_at_nothing(serve):
    """Not even at a health source that hangs or raises; readiness then is not."""
    asked = threading.Event()

    class Broken:
        def report(self):
            asked.set()
            msg = "/home/me"
            raise RuntimeError(msg)

    url = serve(health=Broken()).url
    assert get(url, "/livez").status == 200
    assert not asked.is_set()
    answer = get(url, "/readyz")
    assert (answer.status, answer.json) == (503, {"error": "health cannot be told"})


def test_without_health_a_process_is_ready_as_long_as_it_answers(serve):
    """And there is nothing to say of its health."""
    url = serve(metrics=registry()).url
    assert get(url, "/readyz").json == {"ready": True}
    assert get(url, "/health").status == get(url, "/health/detailed").status == 404
    assert get(serve(health=monitor(S.HEALTHY)).url, "/metrics").status == 404


def test_metrics_in_every_format(serve):
    """As prometheus-client negotiates them."""
    shown = registry()
    url = serve(metrics=shown).url
    plain = get(url, "/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert plain.body == prometheus_client.generate_latest(shown)
    assert b'apples_total{kind="red"} 3.0' in plain.body
    packed = get(url, "/metrics", Accept_Encoding="gzip")
    assert (packed.headers["Content-Encoding"], gzip.decompress(packed.body)) == ("gzip", plain.body)
    assert len(packed.body) == int(packed.headers["Content-Length"])
    new = get(url, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert new.headers["Content-Type"].startswith("application/openmetrics-text")
    assert new.body.endswith(b"# EOF\n")
    assert b"apples" not in get(url, "/metrics?name[]=pears").body


def test_metrics_that_cannot_be_collected(serve, caplog):
    """The log says why, once; the other pages are answered."""

    class Broken:
        def collect(self):
            msg = "/home/me/secret"
            raise RuntimeError(msg)

    broken = prometheus_client.CollectorRegistry(auto_describe=False)
    broken._collector_to_names[Broken()] = []
    url = serve(metrics=broken).url
    for _ in range(2):
        answer = get(url, "/metrics")
        assert (answer.status, answer.json) == (500, {"error": "the metrics cannot be collected; the log says why"})
    assert len([one for one in caplog.records if one.exc_info]) == 1
    assert get(url, "/livez").status == 200


@pytest.mark.parametrize("path", PAGES)
def test_head_and_headers(serve, path):
    """The same headers and no body; nothing is kept by anyone on the way."""
    url = serve(metrics=registry(), health=monitor(S.HEALTHY)).url
    whole, head = get(url, path), get(url, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    steady = [name for name in whole.headers if name != "Date"]
    if path != "/health/detailed":  # the time in it has more or fewer digits
        assert [head.headers[name] for name in steady] == [whole.headers[name] for name in steady]
    assert whole.headers["Cache-Control"] == "no-store"
    assert int(whole.headers["Content-Length"]) == len(whole.body)
    assert "Server" not in whole.headers


def test_other_pages_and_methods(serve):
    """404 names those that there are; 405 says what is allowed."""
    url = serve(metrics=registry(), health=monitor(S.HEALTHY)).url
    for path in ("/", "/nothing", "/metrics/", "/../etc/passwd", "//metrics", "/%6detrics", "/Metrics"):
        answer = get(url, path)
        assert answer.status == 404, path
        assert all(page in answer.json["error"] for page in PAGES)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"):
        answer = get(url, "/metrics", method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_token(serve, tmp_path):
    """For all but bare liveness and readiness; from a file too."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    for options in ({"token": TOKEN}, {"token_file": tmp_path / "token"}):
        url = serve(metrics=registry(), health=monitor(S.HEALTHY), **options).url
        for path in PAGES:
            expected = 200 if path in PAGES[:4] else 401
            assert get(url, path).status == expected, path
            for wrong in (
                TOKEN,
                f"Basic {TOKEN}",
                f"Bearer {TOKEN}x",
                "Bearer ",
                "Bearer ünicode",
                f"Bearer {TOKEN[:-1]}",
            ):
                assert get(url, path, Authorization=wrong).status == expected, (path, wrong)
            for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "):
                assert get(url, path, Authorization=right).status == 200
        assert get(url, "/readyz?verbose").status == 401
        assert get(url, "/metrics").headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "options", [{"token": "short"}, {"token": "with blanks in it, long"}, {"token": TOKEN, "token_file": "x"}]
)
def test_tokens_that_cannot_be_sent(options):
    """Refused, and not shown."""
    with pytest.raises(errors.ParameterValidationError) as caught:
        endpoints.serve(False, False, 9, **options)
    assert options["token"] not in str(caught.value)


def test_files_of_tokens(tmp_path):
    """Missing, empty, not fit."""
    (tmp_path / "empty").write_text("\n")
    for name in ("missing", "empty"):
        with pytest.raises(errors.ConfigurationError, match=name):
            endpoints.serve(False, False, 9, token_file=tmp_path / name)


def test_no_body_tells_where_and_who(serve, tmp_path):
    """No path, secret, user or host name, whatever the checks look at."""
    (tmp_path / "c.yaml").write_text(
        "checks:\n"
        f"- {{type: file_system, path: {tmp_path}}}\n"
        f"- {{type: file_system, path: {tmp_path}/gone}}\n"
        "- {type: http_service, url: 'http://internal.invalid:8080/a?token=hunter2hunter2'}\n"
        "- {type: tcp_service, host: internal.invalid, port: 1}\n"
        f"- {{type: process, pid_file: {tmp_path}/pid}}\n"
        "- {type: network, resolve: internal.invalid}\n"
    )
    watched = config.load_health(tmp_path / "c.yaml", environ={}).build()
    assert watched.check_now().status is S.CRITICAL
    details = " ".join(one.detail for one in watched.report().results)
    assert str(tmp_path) in details
    assert "internal.invalid" in details
    assert "hunter2" not in details
    url = serve(health=watched).url
    text = b"".join(get(url, path).body for path in (*PAGES, "/readyz?verbose", "/nothing")).decode()
    secrets = [
        str(tmp_path),
        "internal",
        "hunter2",
        socket.gethostname(),
        f"{getpass.getuser()}@",
        str(Path.home()) + "/",
    ]
    assert not [one for one in secrets if one in text]


# What is made where nothing is given


def test_everything_is_made_where_nothing_is_given():
    """Events become metrics, devices are sampled, checks run; and all of it ends with the block."""
    before = threading.enumerate()
    with SoftwareHPU(count=2), endpoints.serve(listener=bound()) as server:
        events.emit(events.StepCompleted, step=1, seconds=0.25, loss=2.0)
        with connect(server.url) as client, client.makefile("rb") as stream:
            wanted = {b"gaudi3_rt_training_steps_total", b"simulated:1", b"gaudi3_rt_health_status"}
            for _ in range(10_000):
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                body = read_answer(stream).body
                if all(one in body for one in wanted):
                    break
        assert all(one in body for one in wanted), body
        assert b'simulated="true"' in body
        names = [one["check"] for one in get(server.url, "/health/detailed").json["checks"]]
        assert names[:3] == ["simulated:0", "simulated:1", "system_resources"]
    for one in begun_since(before):
        if one.name.startswith(("health of", "space of")):  # a look that was under way
            one.join(WAIT)
    assert begun_since(before) == []


def test_the_end_waits_for_one_more_scrape(monkeypatch):
    """Of what was collected after the block; one before it, other pages, refused ones and failures do not end it."""
    begun = []

    def wait(server, seconds):
        server._lingers = True  # so that the test knows it
        begun.append(server)
        waits.set()
        return server_waits(server, seconds)

    waits, server_waits = threading.Event(), Server.wait_for_scrape
    monkeypatch.setattr(Server, "wait_for_scrape", wait)
    endpoint = endpoints.serve(registry(), False, listener=bound(), token=TOKEN, linger_seconds=2 * WAIT)

    def ask(line, token=TOKEN):
        """All of the answer: its end comes after whatever the server makes of the request."""
        head = f"{line} HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        return talk(url, head.encode()).partition(b"\r\n")[0].split()[1]

    with endpoint:
        url = endpoint.url
        assert ask("GET /metrics") == b"200"
        thread = threading.Thread(target=endpoint.__exit__, args=(None, None, None))
        thread.start()
        assert waits.wait(WAIT)
        (server,) = begun
        for line, token, status in (
            ("GET /livez", TOKEN, b"200"),
            ("GET /metrics", "wrong" + TOKEN, b"401"),
            ("POST /metrics", TOKEN, b"405"),
            ("GET /metricsx", TOKEN, b"404"),
        ):
            assert ask(line, token) == status
            assert not server._scraped.is_set(), line
        assert ask("GET /metrics") == b"200"
        thread.join(WAIT)
        assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        connect(url)


@pytest.mark.parametrize(("metrics", "error"), [(False, None), (None, KeyError)])
def test_the_end_waits_for_no_scrape(metrics, error):
    """That cannot come, or where the run has failed."""
    began = time.monotonic()
    made = registry() if metrics is None else False
    with (
        contextlib.suppress(KeyError),
        endpoints.serve(made, False, listener=bound(), linger_seconds=10 * WAIT),
    ):
        if error is not None:
            raise error
    assert time.monotonic() - began < 10 * WAIT


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_waits_that_make_no_sense(wrong):
    """Refused before anything is started."""
    with pytest.raises(errors.ParameterValidationError, match="linger_seconds"):
        endpoints.serve(False, False, 9, linger_seconds=wrong)


def test_off():
    """Nothing is started, and nothing is asked for."""
    before = threading.enumerate()
    with endpoints.serve(port=0) as server:
        assert (server.url, server.urls, server.registry, server.health) == (None, (), None, None)
        assert begun_since(before) == []


def test_metrics_need_their_library(monkeypatch):
    """The error says how to get it, and the port is free again."""
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    listener = bound()
    with pytest.raises(ImportError, match="prometheus"), endpoints.serve(health=False, listener=listener):
        pass
    assert listener.fileno() == -1


def test_a_child_of_a_fork_serves_nothing(serve):
    """And keeps neither port nor connections; its parent goes on."""
    server = serve(health=monitor(S.HEALTHY))
    with connect(server.url) as client, client.makefile("rb") as stream:
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert read_answer(stream).status == 200
        leave, stay = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(stay)
            server.__exit__(None, None, None)  # as at the end of a block
            os.read(leave, 1)
            os._exit(0)
        os.close(leave)
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert read_answer(stream).status == 200
        port = int(server.url.rpartition(":")[2])
        server.__exit__(None, None, None)
        client.settimeout(WAIT)
        assert client.recv(1) == b""  # the child has no copy of it
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=WAIT):
        pass
    os.close(stay)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
