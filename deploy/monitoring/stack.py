#!/usr/bin/env python3
"""Starts Prometheus and Alertmanager on loopback with the configuration beside this file, and ends them again.

``make monitor-up`` and ``make monitor-down`` call it. What runs is configured by files derived from the committed ones:
paths made absolute, ports as chosen, and of the channels of Alertmanager those whose secret files exist.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack_config import HOST, alertmanager_config, prometheus_config
from stack_processes import StackError, Started, end, read_record, wait_until_ready, write_record

HERE = Path(__file__).resolve().parent
STATE = HERE.parents[1] / "build" / "monitoring"
INTERRUPTED = 130
"""Exit status of programs that were interrupted."""


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

    def mark(self, state: Path) -> str:
        """The argument that only a process of this state folder has."""
        return f"--config.file={state / self.name}.yml"

    def command(self, state: Path, port: int) -> list[str]:
        """As it is started."""
        binary = self.find()
        if binary is None:
            msg = f"{self.name} is not installed. On Debian and Ubuntu: apt-get install {self.package}"
            raise StackError(msg)
        data = state / "data" / self.name
        return [
            binary,
            self.mark(state),
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


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if it could not be done, 130 if it was interrupted; wrong usage is 2."""
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
    except OSError as error:
        print(f"error: {error.filename or options.state}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def up(state: Path, config: Path, prometheus_port: int, alertmanager_port: int) -> None:
    """Start both and wait until they answer.

    Raises:
        StackError: a program is missing, a port is taken, they run already, or one does not become ready.
    """
    ports = {"prometheus": prometheus_port, "alertmanager": alertmanager_port}
    running = [one for one in read_record(state) if one.process()]
    if running:
        urls = " and ".join(f"{one.name} at {one.url}" for one in running)
        verb, them = ("runs", "it") if len(running) == 1 else ("run", "them")
        msg = f"{urls} {verb} already, from {_short(state)}; {_how_to_end(state)} ends {them}"
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
            write_record(state, started)
        for one in started:
            wait_until_ready(one, _short(state / f"{one.name}.log"))
    except BaseException:
        end(started)
        write_record(state, [])
        raise
    for one in started:
        print(f"{one.name:<13} {one.url}")
    for channel, absent in missing_secrets.items():
        print(
            f"{channel:<13} "
            + (f"off: no secret in {', '.join(str(_short(path)) for path in absent)}" if absent else "on")
        )
    print(f"{'targets':<13} {_short(config / 'prometheus' / 'targets')} (changes are noticed)")
    print(f"{'data, logs':<13} {_short(state)}")
    print(f"{_how_to_end(state)} ends both")


def down(state: Path) -> None:
    """End what ``up`` has started from this state folder, and nothing else."""
    record = read_record(state)
    running = [one for one in record if one.process()]
    end(running)
    write_record(state, [])
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


def _short(path: Path) -> Path:
    """As a user would type it here."""
    return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def _how_to_end(state: Path) -> str:
    return "make monitor-down" if state == STATE else f"stack.py down --state {_short(state)}"


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
    return Started(program.name, process.pid, program.mark(state), f"http://{HOST}:{port}")


if __name__ == "__main__":
    sys.exit(main())
