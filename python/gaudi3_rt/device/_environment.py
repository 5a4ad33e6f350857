"""Whether the environment says what its user means: variables of Habana's software and of distributed runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gaudi3_rt import _config
from gaudi3_rt._show import show
from gaudi3_rt.device import _bridge_flags as flags
from gaudi3_rt.device._findings import Finding

_BRIDGE = f"HabanaAI/gaudi-pytorch-bridge {flags.VERSION}, scripts/env_flags.yaml"
_BRIDGE_PYTHON = f"HabanaAI/gaudi-pytorch-bridge {flags.VERSION}, python_packages"
_DOCS = "docs.habana.ai, Runtime Environment Variables"
_TORCHRUN = "PyTorch, torchrun"
_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
"""What fits into 64 bits; Python refuses to read thousands of digits."""


@dataclass(frozen=True)
class Variable:
    """An environment variable that is known.

    Attributes:
        name: of the variable.
        allowed: what it may be, in words.
        is_allowed: whether a value is.
        meaning: what it does; empty for the many that only developers of the bridge set.
        source: where this is known from.
    """

    name: str
    allowed: str
    is_allowed: Callable[[str], bool]
    meaning: str
    source: str


def _one_of(*values: str) -> tuple[str, Callable[[str], bool]]:
    return f"one of {', '.join(values)}", lambda text: text.lower() in values


def _whole(least: int, most: int | None = None) -> tuple[str, Callable[[str], bool]]:
    def check(text: str) -> bool:
        if not _INTEGER.fullmatch(text):
            return False
        return least <= _number(text) and (most is None or _number(text) <= most)

    return f"a whole number from {least}{f' to {most}' if most is not None else ' on'}", check


def _number(text: str) -> int:
    """As C reads it."""
    return int(text, 16 if "x" in text.lower() else 10)


def _matches(allowed: str, form: str) -> tuple[str, Callable[[str], bool]]:
    return allowed, lambda text: re.fullmatch(form, text) is not None


def _modules(text: str) -> bool:
    parts = text.split(",")
    return all(re.fullmatch(r"[0-7]", part) for part in parts) and len(set(parts)) == len(parts)


_BOOLEAN = _one_of("0", "1", "false", "true")
_ANY: tuple[str, Callable[[str], bool]] = ("any text", lambda _: True)
_NUMBER_OR_TEXT = (
    *((name, *_BOOLEAN, "", _BRIDGE) for name in sorted(flags.BOOLEAN)),
    *((name, *_whole(0), "", _BRIDGE) for name in sorted(flags.UNSIGNED)),
    *((name, *_whole(-(2**63)), "", _BRIDGE) for name in sorted(flags.SIGNED)),
    *((name, *_ANY, "", _BRIDGE) for name in sorted(flags.TEXT)),
    *((name, *_ANY, "", _BRIDGE_PYTHON) for name in sorted(flags.PYTHON)),
)
_DESCRIBED = (
    ("PT_HPU_LAZY_MODE", *_one_of("0", "1"), "1: lazy mode, 0: eager mode and torch.compile", _BRIDGE),
    ("PT_HPU_AUTOLOAD", *_one_of("0", "1"), "whether torch imports the bridge by itself", _DOCS),
    (
        "PT_HPU_RECIPE_CACHE_CONFIG",
        *_matches("PATH,DELETE_ON_START,SIZE_MB", r"[^,]*(,(?i:true|false|0|1)?(,[0-9]*)?)?"),
        "cache of compiled graphs on disk",
        _BRIDGE,
    ),
    ("PT_HPU_POOL_STRATEGY", *_whole(0, 5), "which allocator; 4 unless set", _BRIDGE),
    ("PT_HPU_POOL_MEM_ACQUIRE_PERC", *_whole(1, 100), "percent of the device's memory in the pool", _BRIDGE),
    ("PT_HPU_MAX_COMPOUND_OP_SIZE", *_whole(1), "operators in a graph at most; without limit unless set", _BRIDGE),
    ("PT_ENABLE_INT64_SUPPORT", *_BOOLEAN, "64-bit integers as such, not as 32-bit ones", _BRIDGE),
    ("PT_HPU_ENABLE_LAZY_COLLECTIVES", *_BOOLEAN, "collectives inside HPU graphs", _BRIDGE),
    (
        "HABANA_VISIBLE_MODULES",
        "numbers from 0 to 7, each once, with commas between",
        _modules,
        "modules to use",
        _DOCS,
    ),
    ("HLS_MODULE_ID", *_whole(-1, 7), "the module of this process; -1 for none", _BRIDGE_PYTHON),
    (
        "HABANA_VISIBLE_DEVICES",
        *_matches("'all', 'none', 'void' or numbers", r"all|none|void|[0-9]+(,[0-9]+)*"),
        "devices that the container gets; read by its runtime",
        _DOCS,
    ),
    ("HABANA_LOGS", *_ANY, "folder of log files; ~/.habana_logs unless set", _DOCS),
    ("LOG_LEVEL_ALL", *_whole(0, 6), "0: trace to 6: off", _DOCS),
    ("LOG_LEVEL_PT_FALLBACK", *_whole(0, 6), "1 shows operators that run on the CPU", _DOCS),
    ("ENABLE_CONSOLE", *_BOOLEAN, "log to the console", _DOCS),
    ("GC_KERNEL_PATH", *_matches("files with colons between, 15 at most", r"[^:]*(:[^:]*){0,14}"), "kernels", _BRIDGE),
    ("RANK", *_whole(0), "number of this process among all", _TORCHRUN),
    ("LOCAL_RANK", *_whole(0), "number of this process on its machine", _TORCHRUN),
    ("WORLD_SIZE", *_whole(1), "processes", _TORCHRUN),
    ("LOCAL_WORLD_SIZE", *_whole(1), "processes of a machine", _TORCHRUN),
    ("MASTER_PORT", *_whole(0, 65535), "port of the rendezvous", _TORCHRUN),
)
VARIABLES = {row[0]: Variable(*row) for row in (*_NUMBER_OR_TEXT, *_DESCRIBED)}
"""Every variable that is known, by name."""

NOT_READ = {
    "PT_HPU_ENABLE_LAZY_COMPILATION": "PT_HPU_LAZY_MODE decides on lazy mode",
    "PT_HPU_GRAPH_COMPILER_OPT_LEVEL": "there is no such level",
    "PT_HPU_ENABLE_SYNAPSE_LAYOUT_OPT": "the graph compiler chooses layouts by itself",
}
"""Variables that guides recommend and that nothing reads, with what there is instead."""

_OURS = re.compile(r"PT_(HPU|HABANA|ENABLE_HABANA)_|HABANA_PT_")


def check_environment(environment: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """What is wrong with the variables that are set; nothing if all is well.

    Known variables are compared with the values that their reader accepts. Names that look like the bridge's and are
    not known are listed with the nearest known one. Of values that are wrong the beginning is shown, secrets masked.

    Args:
        environment: variables in place of this process's.
    """
    variables = _config.environment() if environment is None else environment
    return tuple(sorted(_check(variables), key=lambda finding: (finding.severity, finding.subject)))


def _check(environment: Mapping[str, str]) -> Iterator[Finding]:
    """In no order."""
    for name, value in environment.items():
        known = VARIABLES.get(name)
        if known is not None:
            if value and not known.is_allowed(value):
                yield _finding("error", name, f"is {show(value, name)}; it has to be {known.allowed}", known)
        elif name in NOT_READ:
            yield Finding(
                severity="warning",
                subject=name,
                message=f"{name} is set, but nothing reads it",
                advice=f"remove it: {NOT_READ[name]}",
                source=_BRIDGE,
            )
        elif _OURS.match(name):
            yield _unknown(name)
    yield from _combinations(environment)


def _combinations(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Values that are right by themselves, but hardly meant."""
    size = environment.get("PT_HPU_MAX_COMPOUND_OP_SIZE", "")
    if size and VARIABLES["PT_HPU_MAX_COMPOUND_OP_SIZE"].is_allowed(size):
        known = VARIABLES["PT_HPU_MAX_COMPOUND_OP_SIZE"]
        yield _finding("warning", known.name, f"is {size}, which lowers a limit that is 2^63 - 1 unless set", known)
    rank, world = (environment.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    known = VARIABLES["RANK"]
    if known.is_allowed(rank) and known.is_allowed(world) and _number(rank) >= _number(world):
        yield _finding(
            "error", "RANK", f"is {rank}, but ranks go from 0 to WORLD_SIZE - 1 = {_number(world) - 1}", known
        )
    module, visible = (environment.get(name, "") for name in ("HLS_MODULE_ID", "HABANA_VISIBLE_MODULES"))
    if module.isdecimal() and visible and _modules(visible) and module not in visible.split(","):
        known = VARIABLES["HLS_MODULE_ID"]
        yield _finding("error", known.name, f"is {module}, which HABANA_VISIBLE_MODULES={visible} leaves out", known)


def _finding(severity: str, name: str, problem: str, known: Variable) -> Finding:
    """About a known variable."""
    meaning = f" ({known.meaning})" if known.meaning else ""
    return Finding(
        severity="error" if severity == "error" else "warning",
        subject=name,
        message=f"{name} {problem}",
        advice=f"set it to {known.allowed}, or unset it{meaning}",
        source=known.source,
    )


def _unknown(name: str) -> Finding:
    """About a name that looks like a known one."""
    close = _closest(name, VARIABLES)
    return Finding(
        severity="warning",
        subject=name,
        message=f"{name} is not a variable of Habana's bridge {flags.VERSION}",
        advice=f"did you mean {close}?" if close else "look it up in the documentation of your release, or remove it",
        source=_BRIDGE,
    )


def _closest(name: str, names: Iterable[str]) -> str | None:
    """The nearest known name."""
    found = difflib.get_close_matches(name, names, 1, cutoff=0.8)
    return found[0] if found else None
