"""The processes that make monitor-up has started: how they are known again, waited for, and ended."""

from __future__ import annotations

import contextlib
import http
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

READY_SECONDS = 60.0
END_SECONDS = 20.0


class StackError(Exception):
    """Why it cannot be done, and what to do."""


@dataclass(frozen=True)
class Started:
    """A process of ours, and the argument that only ours has.

    An id alone does not tell it from a later process with the same one; a start time would, but it moves whenever the
    clock of the machine is set.
    """

    name: str
    pid: int
    mark: str
    url: str

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(self.pid)
            if self.mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def has_ended(self) -> bool:
        """Whether no process has this id; also of one so new that its arguments cannot be read yet."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def read_record(state: Path) -> list[Started]:
    """What was started from this folder, whether it still runs or not."""
    with contextlib.suppress(FileNotFoundError):
        return [Started(**one) for one in json.loads((state / "processes.json").read_text("utf-8"))]
    return []


def write_record(state: Path, processes: list[Started]) -> None:
    """Replaces it as a whole, so that nobody reads half of it."""
    path = state / "processes.json"
    if processes:
        new = path.with_suffix(".new")
        new.write_text(json.dumps([asdict(one) for one in processes], indent=2), "utf-8")
        new.replace(path)
    else:
        path.unlink(missing_ok=True)


def wait_until_ready(one: Started, log: Path) -> None:
    """Until it answers.

    Raises:
        StackError: it has ended, or does not become ready.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(one.url):
        if one.has_ended():
            msg = f"{one.name} has ended; the end of {log}:\n{_last_lines(log)}"
            raise StackError(msg)
        if time.monotonic() > deadline:
            msg = f"{one.name} is not ready after {READY_SECONDS:.0f} s; see {log}"
            raise StackError(msg)
        time.sleep(0.1)


def end(processes: list[Started]) -> None:
    """Asks them to end; after ``END_SECONDS`` they are killed.

    Raises:
        StackError: they belong to somebody else, or do not end.
    """
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for one in _alive(processes):
            _ask(one, ask)
        deadline = time.monotonic() + END_SECONDS
        while _alive(processes) and time.monotonic() < deadline:
            time.sleep(0.05)
    if alive := _alive(processes):
        names = ", ".join(f"{one.name} (process {one.pid})" for one in alive)
        msg = f"{names} cannot be ended, not even killed"
        raise StackError(msg)


def _ask(one: Started, ask: Callable[[psutil.Process], None]) -> None:
    try:
        ask(psutil.Process(one.pid))
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        msg = f"{one.name} (process {one.pid}) was started by another user, who has to end it"
        raise StackError(msg) from None


def _alive(processes: list[Started]) -> list[Started]:
    return [one for one in processes if one.process()]


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:  # noqa: S310 (http on loopback)
            return bool(answer.status == http.HTTPStatus.OK)
    except OSError:
        return False


def _last_lines(path: Path, count: int = 5) -> str:
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-count:])
