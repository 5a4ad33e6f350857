"""A training on the software HPU, watched by Prometheus and Alertmanager from the distribution's packages."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from _listeners import Heard, listening
from _monitoring import MONITORING, load

from gaudi3_rt import device, endpoints, monitor, retry
from gaudi3_rt.testing import SoftwareDevice, SoftwareHPU

OVERHEATS = 100_000
"""Step at which the device overheats; nobody gets there but by :meth:`Watched.overheat`."""


@dataclass
class Watched:
    """Where everything is, and what can be done to it."""

    prometheus: str
    config: Path
    state: Path
    ports: tuple[int, int]
    instance: str
    registry: object
    device: SoftwareDevice
    heard: Heard

    def ask(self, path, **parameters):
        """Data that Prometheus's API answers with."""
        query = urllib.parse.urlencode({key.replace("match", "match[]"): value for key, value in parameters.items()})
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{path}?{query}", timeout=10) as answer:  # noqa: S310 (http)
            return json.load(answer)["data"]

    def values(self, expression):
        """Numbers that a query has now, without NaN."""
        found = self.ask("query", query=expression)["result"]
        return [one["value"][1] for one in found if one["value"][1] != "NaN"]

    def overheat(self):
        """From now on the sensor says 97 degrees."""
        self.device.advance(OVERHEATS - self.device.steps)

    def discover(self, node, instance, **labels):
        """One more target, in a file of its own."""
        targets = self.config / "prometheus" / "targets" / f"training_{node}.yml"
        targets.write_text(yaml.safe_dump([{"targets": [instance], "labels": {"node": node, **labels}}]), "utf-8")

    def stack(self, command, *options):
        """A command of ``stack.py`` with this state folder."""
        return run_stack(command, "--state", self.state, *options)


def run_stack(*arguments, **options):
    """``stack.py`` in a process of its own."""
    command = [sys.executable, MONITORING / "stack.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # noqa: S603


def free_ports(count):
    """Ports of loopback that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def listener():
    """A bound socket for an endpoint."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    return bound


def wait_until(condition, seconds, what):
    """Polls; what is not yet so is in the message."""
    deadline = time.monotonic() + seconds
    while missing := condition():
        assert time.monotonic() < deadline, f"{what}: {missing}"
        time.sleep(0.2)


def derive_config(folder, instance, web_port, mail_port):
    """The committed configuration, faster and on loopback.

    Scrapes and evaluations come twice a second. Every ``for:`` becomes one second; all else of the rules stays.
    """
    shutil.copytree(MONITORING / "prometheus", folder / "prometheus")
    shutil.copytree(MONITORING / "alertmanager", folder / "alertmanager", dirs_exist_ok=True)
    for path in (folder / "prometheus" / "rules").glob("*.yml"):
        path.write_text(re.sub(r"\bfor: \d+m\b", "for: 1s", path.read_text("utf-8")), "utf-8")
    path = folder / "prometheus" / "prometheus.yml"
    path.write_text(
        re.sub(r"\b(scrape_interval|scrape_timeout|evaluation_interval): \d+s", r"\1: 500ms", path.read_text("utf-8")),
        "utf-8",
    )
    targets = folder / "prometheus" / "targets"
    (targets / "training.yml").write_text(yaml.safe_dump([{"targets": [instance]}]), "utf-8")
    (targets / "habanalabs.yml").write_text(yaml.safe_dump([{"targets": [f"127.0.0.1:{web_port}"]}]), "utf-8")

    path = folder / "alertmanager" / "alertmanager.yml"
    config = load(path)
    config["global"] |= {
        "smtp_smarthost": f"127.0.0.1:{mail_port}",
        "smtp_require_tls": False,
        "pagerduty_url": f"http://127.0.0.1:{web_port}/pagerduty",
    }
    config["route"] |= {"group_wait": "100ms", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for webhook in receiver["webhook_configs"]:
            webhook["url"] = f"http://127.0.0.1:{web_port}/alerts"
    path.write_text(yaml.safe_dump(config), "utf-8")
    secrets = folder / "alertmanager" / "secrets"
    for name, secret in {
        "slack_api_url": f"http://127.0.0.1:{web_port}/slack",
        "pagerduty_routing_key": "routing-key-of-the-test",
        "smtp_password": "password-of-the-test",
        "webhook_token": "token-of-the-test",
    }.items():
        (secrets / name).write_text(secret, "utf-8")


@contextlib.contextmanager
def watched(folder):
    """Everything, until the block ends."""
    with contextlib.ExitStack() as stack:
        heard, web_port, mail_port = stack.enter_context(listening())
        hpu = stack.enter_context(SoftwareHPU(script=f"step {OVERHEATS}: temperature 97 C"))
        mine = stack.enter_context(device.acquire("simulated:0"))
        bound = listener()
        instance = f"127.0.0.1:{bound.getsockname()[1]}"
        endpoint = stack.enter_context(endpoints.serve(listener=bound, interval_seconds=0.3))
        stack.enter_context(_training(hpu.device()))
        stack.enter_context(hpu.device().allocate("8 GiB"))
        config, state = folder / "config", folder / "state"
        derive_config(config, instance, web_port, mail_port)
        ports = free_ports(2)
        options = ("--config", config, "--prometheus-port", str(ports[0]), "--alertmanager-port", str(ports[1]))
        stack.callback(run_stack, "down", "--state", state)
        done = run_stack("up", "--state", state, *options)
        assert done.returncode == 0, done.stderr
        assert mine.simulated
        yield Watched(
            f"http://127.0.0.1:{ports[0]}",
            config,
            state,
            tuple(ports),
            instance,
            endpoint.registry,
            hpu.device(),
            heard,
        )


@contextlib.contextmanager
def _training(hpu):
    """A loop that trains, fails now and then, and writes checkpoints, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_train, args=(hpu, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@retry.retry_on_failure(max_attempts=2, base_delay=0.001)
def _unreachable():
    raise ConnectionResetError


def _train(hpu, stop):
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with monitor.TrainingMonitor() as run:
        while not stop.wait(0.05):
            with run.step(samples=16, tokens=512) as step:
                with step.phase("data"):
                    batch = torch.randn(16, 8)
                with step.phase("forward"):
                    loss = model(batch).square().mean()
                with step.phase("backward"):
                    loss.backward()
                with step.phase("optimizer"):
                    optimizer.step()
                step.loss, step.accuracy, step.learning_rate = loss, 0.5, optimizer.param_groups[0]["lr"]
                step.gradient_norm = model.weight.grad.norm()
                optimizer.zero_grad()
            if step.number % 10 == 0:
                with run.checkpoint() as checkpoint:
                    checkpoint.bytes = 4096
                with contextlib.suppress(Exception):
                    _unreachable()
            hpu.enqueue("step")
            hpu.mark_step()
            hpu.advance()
