"""`gaudi3-rt top`: figures of a run from the endpoints of its processes."""

import contextlib
import io
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gaudi3_rt.cli import _scrape, _top
from gaudi3_rt.cli._app import app
from gaudi3_rt.metrics._catalogue import BY_NAME


class Process:
    """A training process with the metrics of one: a registry whose metrics have the catalogue's types and labels."""

    def __init__(self, rank=0):
        self.rank = str(rank)
        self.registry = CollectorRegistry()
        self._made = {}

    def metric(self, name, **labels):
        """Makes it at its first use."""
        kind = BY_NAME[name]
        if name not in self._made:
            make = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[kind.type]
            self._made[name] = make(kind.name, kind.help, [*kind.labels, "rank"], registry=self.registry)
        return self._made[name].labels(**labels, rank=self.rank)

    def step(self, seconds, samples, loss=2.5, **phases):
        """One more."""
        self.metric("training_stalled").set(0)
        self.metric("training_step").inc()
        self.metric("training_samples_total").inc(samples)
        self.metric("training_samples_per_second").set(samples / seconds)
        self.metric("training_loss").set(loss)
        self.metric("training_step_duration_seconds").observe(seconds)
        self.metric("training_last_step_timestamp_seconds").set(0)
        for phase, part in phases.items():
            self.metric("training_phase_duration_seconds", phase=phase).observe(part)

    def text(self):
        """What its endpoint says."""
        self.metric("build_info", version="1", torch="2", python="3").set(1)
        return generate_latest(self.registry).decode()


@pytest.fixture
def serve():
    """Starts endpoints that answer with what a function returns: a text, or a status and a text."""
    with contextlib.ExitStack() as stack:

        def start(answer, seen=None):
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    if seen is not None:
                        seen.append(dict(self.headers))
                    said = answer()
                    status, text = said if isinstance(said, tuple) else (200, said)
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(text.encode())

                def log_message(self, *_):
                    pass

            server = HTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return str(server.server_port)

        yield start


def top(*args, status=0, **environment):
    """Runs the command; its output and what it says on stderr."""
    done = CliRunner().invoke(app, ["top", "--interval", "0.1", *args], env=environment, catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Endpoints answer, however slow the machine is."""
    monkeypatch.setattr(_scrape, "_TIMEOUT", 60.0)


@pytest.fixture
def closed_port():
    """One that nobody listens on, held so that nobody will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield str(held.getsockname()[1])


def test_figures_of_a_rank_are_those_of_the_time_between_looks(serve, monkeypatch):
    """Not of the whole run: it was ten times as fast before."""
    process = Process(rank=3)
    for _ in range(100):
        process.step(0.1, samples=8, forward=0.08)
    asked, begun, scrape_all = [], [], _scrape.scrape_all
    monkeypatch.setattr(_scrape, "scrape_all", lambda *given: begun.append(given[-1]) or scrape_all(*given))

    def answer():
        asked.append(None)
        if len(asked) == 2:
            for _ in range(4):
                process.step(1.0, samples=8, loss=1.25, data=0.75, forward=0.25)
        return process.text()

    first, second = (json.loads(line) for line in top(serve(answer), "--count", "2", "--json").output.splitlines())
    (rank,) = first["ranks"]
    assert (rank["rank"], rank["step"], rank["samples_per_second"]) == ("3", 100, pytest.approx(80))
    assert rank["phases"] == {"forward": 1}
    (rank,) = second["ranks"]
    assert (rank["step"], rank["loss"], rank["state"]) == (104, 1.25, "training")
    assert rank["step_seconds"] == pytest.approx(1.0)
    assert rank["phases"] == {"data": pytest.approx(0.75), "forward": pytest.approx(0.25)}
    assert rank["samples_per_second"] == pytest.approx(32 / (begun[1] - begun[0]))


def test_counters_that_begin_anew_are_not_taken_for_negative_growth():
    """The process was restarted between two looks."""
    before, now = Process(), Process()
    for _ in range(10):
        before.step(1.0, samples=8)
    now.step(0.5, samples=8)
    scrapes = [_parsed(process, time) for process, time in ((before, 0.0), (now, 2.0))]
    figures = _scrape.rank_figures(scrapes[1], scrapes[0], wall_time=10.0)
    assert figures["samples_per_second"] == 16
    assert figures["step_seconds"] == 0.5
    assert figures["last_step_age_seconds"] == 10.0


def _parsed(process, time):
    samples = {}
    for family in _scrape.text_string_to_metric_families(process.text()):
        for one in family.samples:
            samples.setdefault(one.name.removeprefix(_scrape.PREFIX), {})[frozenset(one.labels.items())] = one.value
    return _scrape.Scrape(time, samples)


def test_what_is_shown(serve):
    """Stalled ranks, anomalies, devices; nothing that the process does not say."""
    calm, stalled = Process(0), Process(1)
    calm.step(0.25, samples=32, data=0.05, forward=0.1, backward=0.1)
    calm.metric("device_memory_used_bytes", device="simulated:0", simulated="true").set(3 << 30)
    calm.metric("device_memory_total_bytes", device="simulated:0", simulated="true").set(128 << 30)
    calm.metric("device_temperature_celsius", device="simulated:0", simulated="true").set(61)
    calm.metric("device_ecc_errors_total", device="simulated:0", simulated="true", kind="uncorrected").inc(2)
    stalled.step(0.25, samples=32)
    stalled.metric("training_stalled").set(1)
    stalled.metric("training_anomalies_total", kind="stall").inc()
    shown = top(serve(calm.text), serve(stalled.text), "--count", "1").output
    assert "2 of 2 endpoints answer, 256 samples/s" in shown
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    table = {row[0]: row for row in rows if len(row) > 3}
    assert table["0"][1:6] == ["training", "1", "2.5", "250 ms", "128"]
    assert table["0"][8:] == ["forward 40%, backward 40%, data 20%", "-"]
    assert table["1"][1] == "stalled"
    assert table["1"][-1] == "stall 1"
    assert table["simulated:0"][1:] == ["0", "3.00 GiB", "128.00 GiB", "-", "-", "61 °C", "-", "2"]


def test_endpoints_that_do_not_answer_are_named(serve, closed_port):
    """With the reason, beside those that do; the command fails if there are none."""
    process = Process()
    process.step(1.0, samples=1)
    refused = serve(lambda: (401, ""))
    other = serve(lambda: "# nothing\nup 1\n")
    garbage = serve(lambda: "gaudi3_rt_x{ 1\n")
    shown = top(serve(process.text), closed_port, refused, other, garbage, "--count", "1").output
    assert "1 of 5 endpoints answer" in shown
    assert f"http://127.0.0.1:{closed_port}/metrics: Connection refused" in shown
    assert f"http://127.0.0.1:{refused}/metrics: HTTP 401" in shown
    assert f"http://127.0.0.1:{other}/metrics: answers, but with no metric that begins with gaudi3_rt_" in shown
    assert f"http://127.0.0.1:{garbage}/metrics: " in shown
    done = top(closed_port, "--count", "1", status=1)
    assert f"no endpoint has answered: {closed_port}" in done.stderr


def test_without_targets_those_are_shown_that_answer(serve, monkeypatch):
    """And one that is gone stays, with the reason."""
    process = Process()
    process.step(1.0, samples=1)
    answers = [process.text(), (503, "")]
    port = int(serve(lambda: answers.pop(0)))
    monkeypatch.setattr(_top, "_LOCAL_RANKS", 1)
    done = top("--count", "2", "--json", GAUDI3_RT_METRICS_PORT=str(port), LOCAL_RANK="3")
    first, second = (json.loads(line) for line in done.output.splitlines())
    assert [row["error"] for row in first["ranks"]] == [""]
    assert [row["error"] for row in second["ranks"]] == ["HTTP 503 Service Unavailable"]


def test_the_token_is_sent_and_proxies_are_not_used(serve, tmp_path):
    """A proxy of the environment is not for this machine."""
    process, seen = Process(), []
    process.step(1.0, samples=1)
    file = tmp_path / "token"
    file.write_text("s3cret" * 4 + "\n")
    top(serve(process.text, seen), "--count", "1", "--token-file", str(file), http_proxy="http://127.0.0.1:1")
    assert [headers.get("Authorization") for headers in seen] == ["Bearer " + "s3cret" * 4]


@pytest.mark.parametrize(
    ("port", "says"), [("0", "there are no endpoints here"), ("70000", "has to be a port"), ("x", "")]
)
def test_ports_of_the_environment_that_are_none(port, says):
    """A wrong configuration, not a traceback and not the usual ports."""
    done = top("--count", "1", status=78, GAUDI3_RT_METRICS_PORT=port)
    assert "GAUDI3_RT_METRICS_PORT" in done.stderr
    assert says in done.stderr


def test_files_of_tokens(tmp_path):
    """What cannot be sent is said of the file, not of each endpoint."""
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    assert "it is not ASCII" in top("9200", "--token-file", str(tmp_path / "token"), status=78).stderr


def test_an_endpoint_that_dribbles_delays_no_look_for_long(monkeypatch):
    """Each byte comes in time; the whole does not."""
    monkeypatch.setattr(_scrape, "_TIMEOUT", 0.2)
    ended = threading.Event()

    def dribble(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not ended.wait(0.01):
                connection.sendall(b"#")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=dribble, args=(listener,), daemon=True)
        thread.start()
        try:
            (found,) = _scrape.scrape_all([f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"], None, 0.0)
        finally:
            ended.set()
            thread.join()
    assert found.error.startswith("no answer within")


def look():
    """What 8 ranks say, all that can be said."""
    one = {"device": "simulated:7", "simulated": True, "memory_used_bytes": 127.99 * 2**30, "utilization_ratio": 1.0}
    one |= {"memory_total_bytes": 2.0**37, "memory_peak_bytes": 2.0**37, "memory_allocated_bytes": None}
    one |= {"temperature_celsius": 101.0, "power_watts": 1200.0, "ecc_uncorrected": 12}
    row = {"error": "", "state": "training", "step": 1_000_000, "loss": -1.234e-05, "step_seconds": 0.1234}
    row |= {"samples_per_second": 123456.0, "tokens_per_second": 1234567.0, "last_step_age_seconds": 59.0}
    row |= {"phases": {"backward": 0.4, "optimizer": 0.4, "checkpoint": 0.2}, "anomalies": {"loss_divergence": 12}}
    ranks = [
        {**row, "target": f"http://127.0.0.1:{9200 + i}/metrics", "rank": str(i), "devices": [one]} for i in range(8)
    ]
    return {"time": 0.0, "ranks": [*ranks, {"target": "http://127.0.0.1:9208/metrics", "error": "Connection refused"}]}


@pytest.mark.parametrize("width", [80, 200])
def test_a_row_is_a_line(width):
    """Also in a terminal of 80 columns, whatever is told."""
    out = Console(width=width, file=io.StringIO())
    out.print(_top._view(look(), out))
    lines = out.file.getvalue().splitlines()
    words = [re.split(r"\s{2,}", line.strip()) for line in lines]
    rows = [row for row in words if row[0] in set("01234567")]
    assert len(rows) == (16 if width == 80 else 8)
    assert len([row for row in words if row[0] == "simulated:7"]) == 8
    assert [len(row) for row in rows[:8]] == [8 if width == 80 else 10] * 8
    assert rows[-1][-2:] == ["backward 40%, optimizer 40%, checkpoint 20%", "loss divergence 12"]
    assert any(line.rstrip() == "http://127.0.0.1:9208/metrics: Connection refused" for line in lines)


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("9201", "http://127.0.0.1:9201/metrics"),
        ("node1:9200", "http://node1:9200/metrics"),
        ("[::1]:9200", "http://[::1]:9200/metrics"),
        ("https://node1:9200", "https://node1:9200/metrics"),
        ("http://node1:9200/other", "http://node1:9200/other"),
    ],
)
def test_targets(target, url):
    """Short forms of addresses."""
    assert _top._url(target) == url


@pytest.mark.parametrize("target", ["0", "65536", "node1", "ftp://node1/", ":9200", "file:///etc/passwd"])
def test_targets_that_are_none(target):
    """Wrong usage, and what is allowed."""
    assert "neither a port, nor host:port, nor a URL" in top(target, status=2).output


def test_names_are_those_of_the_catalogue():
    """Each that the command reads is exposed by somebody."""
    texts = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (_scrape, _top))
    read = {name.removesuffix("_sum") for name in re.findall(r'"((?:training|device|build)_[a-z_]+[a-z])"', texts)}
    assert len(read) > 10
    assert read <= BY_NAME.keys()
