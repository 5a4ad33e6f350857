"""What does it cost to watch a run: a check, a heartbeat, a report, and scrapes while it trains?

Twenty checks, or ten thousand heartbeats, are one round, as the name of the row says.
"""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection

import pytest
from bench_training import Trainer
from harness import OURS, Lab, Rival, Row, Wanted

from gaudi3_rt import endpoints, events, health
from gaudi3_rt._protocols import Clock
from gaudi3_rt.testing import FakeClock, SoftwareHPU

CHECKS, BEATS = 20, 10_000
WITHOUT = "not watched"
CLOCK: Clock = FakeClock()


class Answering(http.server.BaseHTTPRequestHandler):
    """A service that is well."""

    def do_GET(self) -> None:
        """Says so."""
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing else."""


@contextmanager
def service() -> Iterator[int]:
    """Its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _row(lab: Lab, question: str, call: Callable[[], object], count: int, milliseconds: float | None) -> None:
    def run() -> None:
        for _ in range(count):
            call()

    lab.benchmark.group = question
    bounds = [] if milliseconds is None else [Wanted("ms", milliseconds * count)]
    lab.rows.append(Row(f"{count} x {question}", "", lab.race({OURS: Rival(run)}), wanted=bounds))


@pytest.mark.parametrize(
    "kind", ["hpu_device", "system_resources", "file_system", "http_service", "tcp_service", "network"]
)
def test_check(lab: Lab, kind: str) -> None:
    """One run of a check is to take less than 10 ms. The HPU is simulated."""
    # Connections that nobody accepts wait in the kernel; a server that accepts slowly would be what is measured.
    with SoftwareHPU(), service() as port, socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        checks = {
            "hpu_device": health.HpuDeviceCheck(device="simulated:0"),
            "system_resources": health.SystemResourcesCheck(),
            "file_system": health.FileSystemCheck(path="."),
            "http_service": health.HttpServiceCheck(url=f"http://127.0.0.1:{port}/"),
            "tcp_service": health.TcpServiceCheck(host="127.0.0.1", port=listener.getsockname()[1]),
            "network": health.NetworkCheck(),
        }
        _row(lab, f"a check, {kind}", lambda: checks[kind].run(CLOCK), CHECKS, 10.0)


def test_heartbeat(lab: Lab) -> None:
    """Less than a microsecond."""
    _row(lab, "a heartbeat", health.heartbeat("bench").beat, BEATS, 1e-3)


def test_report(lab: Lab) -> None:
    """What is known of eleven checks, as a probe asks for it."""
    with SoftwareHPU(count=8):
        monitor = health.HealthMonitor(health.create_default_hpu_health_checks())
        monitor.check_now()
        _row(lab, "a report", monitor.report, CHECKS, None)


def test_training_that_is_scraped(lab: Lab) -> None:
    """A step with its event, while metrics are scraped ten times a second; and one that nobody watches."""
    trainers = {who: Trainer(lab.scale, OURS) for who in (OURS, WITHOUT)}
    ended = threading.Event()

    def scrape(port: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        while not ended.wait(0.1):
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
            connection.getresponse().read()
        connection.close()

    with ExitStack() as stack:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        stack.enter_context(endpoints.serve(listener=listener, interval_seconds=1.0))
        scraper = threading.Thread(target=scrape, args=(port,))
        scraper.start()
        stack.callback(scraper.join)
        stack.callback(ended.set)

        def step() -> None:
            trainers[OURS].step()
            events.emit(events.StepCompleted, step=1, seconds=0.1, loss=0.5)

        lab.benchmark.group = "health"
        samples = lab.race({OURS: Rival(step), WITHOUT: Rival(trainers[WITHOUT].step)})
    wanted = [Wanted("speed", 0.98, rival=WITHOUT)]
    lab.rows.append(Row("training step, scraped 10 times a second", "", samples, rival=WITHOUT, wanted=wanted))
