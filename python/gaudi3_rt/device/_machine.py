"""Which HPUs a machine has, from its device nodes: nothing is opened, no library is loaded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi3_rt._redact import redact
from gaudi3_rt._show import show
from gaudi3_rt.errors import InvalidConfigurationError

VISIBLE_MODULES = "HABANA_VISIBLE_MODULES"
MODULE = "HLS_MODULE_ID"
_NODES = (("dev/accel", re.compile(r"accel([0-9]+)")), ("dev", re.compile(r"hl([0-9]+)")))
_SYSFS = ("sys/class/accel/accel{}/device", "sys/class/habanalabs/hl{}")
_VENDOR = "0x1da3"
_LONGEST_COMMAND = 200
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Module:
    """One HPU of a machine.

    Attributes:
        number: of the module; that of its node if the driver does not tell.
        minor: number of its node.
        node: path of its node, without the root.
        system: folder where the driver describes it; None if there is none.
    """

    number: int
    minor: int
    node: str
    system: Path | None


@dataclass(frozen=True)
class Holder:
    """A process that has a device open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})"


def modules(root: Path = Path("/")) -> list[Module]:
    """All HPUs, by number.

    Args:
        root: folder with ``dev``, ``proc`` and ``sys``: ``/``, or where a container sees those of its host.
    """
    found: dict[int, Module] = {}
    for folder, form in _NODES:
        for path in _entries(root / folder):
            match = form.fullmatch(path.name)
            if match is None or int(match[1]) in found:
                continue
            minor = int(match[1])
            system = next((p for p in (root / form.format(minor) for form in _SYSFS) if p.is_dir()), None)
            if system is not None and read(system / "vendor") not in {None, _VENDOR}:
                continue  # accelerators of others have nodes there, too
            number = read(system / "module_id") if system else None
            known = number is not None and _NUMBER.fullmatch(number)
            found[minor] = Module(int(number) if number and known else minor, minor, f"/{folder}/{path.name}", system)
    return sorted(found.values(), key=lambda module: module.number)


def visible(all_modules: list[Module], environment: Mapping[str, str]) -> list[Module]:
    """Those that this process may use: ``HLS_MODULE_ID`` names one, ``HABANA_VISIBLE_MODULES`` several.

    Raises:
        InvalidConfigurationError: a variable is not a list of numbers.
    """
    pinned = pinned_module(environment)
    listed = environment.get(VISIBLE_MODULES, "")
    numbers = [_whole(VISIBLE_MODULES, text.strip()) for text in listed.split(",")] if listed else None
    if pinned is not None:
        numbers = [pinned] if numbers is None or pinned in numbers else []
    return [module for module in all_modules if numbers is None or module.number in numbers]


def pinned_module(environment: Mapping[str, str]) -> int | None:
    """The module that ``HLS_MODULE_ID`` names; -1 is none, as the bridge has it.

    Raises:
        InvalidConfigurationError: it is not a number.
    """
    text = environment.get(MODULE, "").strip()
    return None if text in {"", "-1"} else _whole(MODULE, text)


def holders(node: str | None, root: Path = Path("/")) -> list[Holder]:
    """Who has a node open, or any HPU's if ``node`` is None; by pid.

    Read from ``/proc``, as psutil lists regular files only. Processes of other users and of other containers cannot be
    seen without the right to do so.
    """
    processes = (folder for folder in _entries(root / "proc") if folder.name.isdigit())
    found = (
        Holder(int(folder.name), _command(folder))
        for folder in processes
        if any(_is_node(target, node) for target in _open_files(folder))
    )
    return sorted(found, key=lambda holder: holder.pid)


def own_module(all_modules: list[Module], root: Path = Path("/")) -> Module | None:
    """The HPU whose node this process has open; None if there is none, or more than one."""
    targets = set(_open_files(root / "proc" / "self"))
    mine = [module for module in all_modules if module.node in targets]
    return mine[0] if len(mine) == 1 else None


def read(path: Path) -> str | None:
    """First line of a small file; None if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return lines[0].strip() if lines else None


def _whole(variable: str, text: str) -> int:
    """A number of a module."""
    if not _NUMBER.fullmatch(text):
        msg = f"{variable} has {show(text, variable)}; it has to have numbers of modules such as 0 or 0,1,2"
        raise InvalidConfigurationError(msg, suggestions=(f"set {variable} to numbers of modules, or unset it",))
    return int(text)


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, if it can be read."""
    try:
        yield from folder.iterdir()
    except OSError:
        return


def _open_files(process: Path) -> Iterator[str]:
    """What a process has open; processes that are gone or closed to us have nothing."""
    for link in _entries(process / "fd"):
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def _is_node(target: str, node: str | None) -> bool:
    """Whether a file is that node, or the node of any HPU."""
    if node is not None:
        return target == node
    folder, _, name = target.removeprefix("/").rpartition("/")
    return any(folder == where and form.fullmatch(name) for where, form in _NODES)


def _command(process: Path) -> str:
    """How it was started, without secrets; the kernel's name for a process that has ended but not gone."""
    try:
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    text = str(redact(" ".join(word for word in words if word)))
    if not text:
        text = f"{read(process / 'comm') or 'unknown'}, defunct"
    return text if len(text) <= _LONGEST_COMMAND else f"{text[: _LONGEST_COMMAND - 3]}..."
