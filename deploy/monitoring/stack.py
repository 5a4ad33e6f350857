#!/usr/bin/env python3
"""Starts Prometheus and Alertmanager on loopback with the configuration beside this file, and ends them again.

``make monitor-up`` and ``make monitor-down`` call it. What runs is configured by files derived from the committed ones:
paths made absolute, ports as chosen, and of the channels of Alertmanager those whose secret files exist.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).resolve().parent
STATE = HERE.parents[1] / "build" / "monitoring"
READY_SECONDS = 60.0
END_SECONDS = 20.0
HOST = "127.0.0.1"


class StackError(Exception):
    """Why it cannot be done, and what to do."""


@dataclass(frozen=True)
class Program:
    """One of the two: how the packages call it, and what it is told."""

    name: str
    binaries: tuple[str, ...]
    package: str
    option: str

    def find(self) -> str | None:
        """Path of the first of its names that is installed."""
        return next((path for binary in self.binaries if (path := shutil.which(binary))), None)

    def command(self, state: Path, port: int) -> list[str]:
        """As it is started."""
        binary = self.find()
        if binary is None:
            msg = f"{self.name} is not installed. On Debian and Ubuntu: apt-get install {self.package}"
            raise StackError(msg)
        data = state / "data" / self.name
        return [
            binary,
            f"--config.file={state / self.name}.yml",
            f"--web.listen-address={HOST}:{port}",
            f"--web.external-url=http://{HOST}:{port}",
            *(
                (f"--storage.tsdb.path={data}",)
                if self.name == "prometheus"
                else (f"--storage.path={data}", "--cluster.listen-address=")
            ),
        ]


PROGRAMS = (
    Program("prometheus", ("prometheus",), "prometheus", "--prometheus-port"),
    Program(
        "alertmanager", ("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager", "--alertmanager-port"
    ),
)


@dataclass(frozen=True)
class Started:
    """A process of ours. An id alone does not tell it from a later process with the same one."""

    name: str
    pid: int
    started: float
    url: str

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if it could not be done; wrong usage is 2."""
    parser = argparse.ArgumentParser(prog="stack.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start both, and wait until they are ready")
    up_parser.add_argument("--prometheus-port", type=_port, default=9090, metavar="PORT", help="default: %(default)s")
    up_parser.add_argument("--alertmanager-port", type=_port, default=9093, metavar="PORT", help="default: %(default)s")
    up_parser.add_argument("--config", type=Path, default=HERE, metavar="DIR", help="default: the folder of this file")
    down_parser = commands.add_parser("down", help="end what up has started; data is kept")
    for one in (up_parser, down_parser):
        one.add_argument(
            "--state", type=Path, default=STATE, metavar="DIR", help="data, logs: default build/monitoring"
        )
    options = parser.parse_args(arguments)
    try:
        with _locked(options.state.resolve()) as state:
            if options.command == "down":
                down(state)
            else:
                up(state, options.config.resolve(), options.prometheus_port, options.alertmanager_port)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def up(state: Path, config: Path, prometheus_port: int, alertmanager_port: int) -> None:
    """Start both and wait until they answer.

    Raises:
        StackError: a program is missing, a port is taken, they run already, or one does not become ready.
    """
    ports = {"prometheus": prometheus_port, "alertmanager": alertmanager_port}
    running = [one for one in _read_record(state) if one.process()]
    if running:
        urls = " and ".join(f"{one.name} at {one.url}" for one in running)
        msg = f"{urls} runs already, from {_short(state)}; make monitor-down ends it"
        raise StackError(msg)
    missing = [program for program in PROGRAMS if program.find() is None]
    if missing:
        names = " and ".join(program.name for program in missing)
        packages = " ".join(program.package for program in missing)
        verb = "is" if len(missing) == 1 else "are"
        msg = f"{names} {verb} not installed. On Debian and Ubuntu: apt-get install {packages}"
        raise StackError(msg)
    _check_ports(ports)
    (state / "prometheus.yml").write_text(prometheus_config(config / "prometheus", alertmanager_port), "utf-8")
    receivers, missing_secrets = alertmanager_config(config / "alertmanager")
    (state / "alertmanager.yml").write_text(receivers, "utf-8")

    started: list[Started] = []
    try:
        for program in PROGRAMS:
            started.append(_start(program, state, ports[program.name]))
            _write_record(state, started)
        for one in started:
            _wait_until_ready(one, state)
    except BaseException:
        _end(started)
        _write_record(state, [])
        raise
    for one in started:
        print(f"{one.name:<13} {one.url}")
    for channel, absent in missing_secrets.items():
        print(f"{channel:<13} " + (f"off: there is no {', '.join(map(_short, absent))}" if absent else "on"))
    print(f"{'targets':<13} {_short(config / 'prometheus' / 'targets')} (changes are noticed)")
    print(f"{'data, logs':<13} {_short(state)}")
    print("make monitor-down ends both" if state == STATE else f"stack.py down --state {_short(state)} ends both")


def down(state: Path) -> None:
    """End what ``up`` has started from this state folder, and nothing else."""
    record = _read_record(state)
    running = [one for one in record if one.process()]
    _end(running)
    _write_record(state, [])
    print("ended " + ", ".join(one.name for one in running) if running else f"nothing runs from {_short(state)}")


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 65535:  # noqa: PLR2004 (the largest port)
        msg = f"{text!r} is no port; it has to be 1 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return number


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[Path]:
    """Makes the folder, and lets one call at a time work in it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"another call works in {_short(state)}; wait until it is done"
            raise StackError(msg) from None
        yield state


def _read_record(state: Path) -> list[Started]:
    with contextlib.suppress(FileNotFoundError):
        return [Started(**one) for one in json.loads((state / "processes.json").read_text("utf-8"))]
    return []


def _write_record(state: Path, processes: list[Started]) -> None:
    path = state / "processes.json"
    if processes:
        path.write_text(json.dumps([asdict(one) for one in processes], indent=2), "utf-8")
    else:
        path.unlink(missing_ok=True)


def _short(path: Path) -> str:
    """As a user would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _check_ports(ports: dict[str, int]) -> None:
    for program in PROGRAMS:
        port = ports[program.name]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                msg = (
                    f"port {port} for {program.name} cannot be had ({error.strerror}). Choose another: make monitor-up "
                    f"{program.option.strip('-').replace('-', '_').upper()}={port + 1}. If it is the service of the "
                    f"package {program.package}: systemctl disable --now {program.package}"
                )
                raise StackError(msg) from None
    if len(set(ports.values())) < len(ports):
        msg = f"both programs were given port {ports['prometheus']}; they need one each"
        raise StackError(msg)


def prometheus_config(folder: Path, alertmanager_port: int) -> str:
    """The configuration with absolute paths, and this Alertmanager."""
    config: dict[str, Any] = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))
    config["rule_files"] = [str(folder / pattern) for pattern in config["rule_files"]]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"{HOST}:{alertmanager_port}"]}]}]
    for job in config["scrape_configs"]:
        for discovery in job.get("file_sd_configs", ()):
            discovery["files"] = [str(folder / pattern) for pattern in discovery["files"]]
    return yaml.safe_dump(config, sort_keys=False)


def alertmanager_config(folder: Path) -> tuple[str, dict[str, list[Path]]]:
    """The configuration without the channels that lack a secret; and by channel the files that are not there."""
    config: dict[str, Any] = yaml.safe_load((folder / "alertmanager.yml").read_text("utf-8"))
    config["templates"] = [str(folder / pattern) for pattern in config.get("templates", ())]
    missing: dict[str, list[Path]] = {}
    for receiver in config["receivers"]:
        for kind in [key for key in receiver if key.endswith("_configs")]:
            absent = [path for one in receiver[kind] for path in _resolve_secrets(one, folder) if not path.exists()]
            missing[kind.removesuffix("_configs")] = absent
            if absent:
                del receiver[kind]
    return yaml.safe_dump(config, sort_keys=False), missing


def _resolve_secrets(config: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Makes the paths of secret files absolute: Alertmanager takes them from its working directory."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _resolve_secrets(value, folder)
        elif key.endswith("_file"):
            config[key] = str(folder / value)
            yield folder / value


def _start(program: Program, state: Path, port: int) -> Started:
    with (state / f"{program.name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 (the program that was found, and no shell)
            program.command(state, port),
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Started(program.name, process.pid, psutil.Process(process.pid).create_time(), f"http://{HOST}:{port}")


def _wait_until_ready(one: Started, state: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    log = state / f"{one.name}.log"
    while not _is_ready(one.url):
        if one.process() is None:
            msg = f"{one.name} has ended; the end of {_short(log)}:\n{_last_lines(log)}"
            raise StackError(msg)
        if time.monotonic() > deadline:
            msg = f"{one.name} is not ready after {READY_SECONDS:.0f} s; see {_short(log)}"
            raise StackError(msg)
        time.sleep(0.1)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:  # noqa: S310 (http on loopback)
            return bool(answer.status == http.HTTPStatus.OK)
    except OSError:
        return False


def _last_lines(path: Path, count: int = 5) -> str:
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-count:])


def _end(processes: list[Started]) -> None:
    """Asks them to end; after ``END_SECONDS`` they are killed."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in _alive(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        deadline = time.monotonic() + END_SECONDS
        while _alive(processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def _alive(processes: list[Started]) -> list[psutil.Process]:
    """A zombie, which only waits for its parent, is not."""
    return [process for one in processes if (process := one.process())]


if __name__ == "__main__":
    sys.exit(main())
