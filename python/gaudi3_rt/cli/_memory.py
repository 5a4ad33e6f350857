"""``gaudi3-rt memory``: what a process or the machine has taken, and what a training will take."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import click
import psutil
import torch

from gaudi3_rt import device, memory, optim
from gaudi3_rt._units import bytes_text, duration_text
from gaudi3_rt.memory._format import percent_text

_COUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([KMBT]?)", re.IGNORECASE)
_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_NO_PROCESS = "there is no such process, or it is not yours"
_COLUMNS, _LARGEST, _MOST_MATRICES = 4096, 1 << 28, 256
"""Of the matrices that stand for a model: whole blocks of every format; not one for all, because a step often makes as
much as its largest tensor has; and not too many to step quickly."""
_MOST_PARAMETERS = 10**15
"""Of which torch can still count the bytes, whatever their state."""


class _Whole:
    """All that is taken of a device, by any process: its sensors say it, so nobody has to acquire it."""

    def __init__(self, one: device.Device) -> None:
        self.name = "this machine" if one.name == "cpu" else one.name
        self.simulated = one.simulated
        self._device = one
        self._peak = 0

    def memory_stats(self) -> memory.MemoryStats:
        found = self._device.telemetry()
        if found.memory_used_bytes is None:
            msg = "its sensors do not say how much is taken"
            raise RuntimeError(msg)
        self._peak = max(self._peak, found.memory_used_bytes)
        return memory.MemoryStats(
            allocated=found.memory_used_bytes,
            reserved=None,
            peak=self._peak,
            limit=found.memory_total_bytes,
            simulated=found.simulated,
        )


@click.group(name="memory")
def memory_group() -> None:
    """Watch memory, and plan how much a training will take."""


@memory_group.command()
@click.option("--device", "spec", metavar="SPEC", help="Devices, as for `devices`: hpu:0,2-3; by default this machine.")
@click.option("--pid", type=click.IntRange(1), help="A process of this machine.")
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between samples.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many samples; without it, on Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; sizes in bytes.")
def watch(spec: str | None, pid: int | None, interval: float, count: int | None, as_json: bool) -> None:
    """Show what is taken, its peak and its limit, and whether it seems to leak.

    Of a device that is what all processes have taken together; it is not acquired, so a training goes on undisturbed.

    On a terminal one line for each device is kept up to date; otherwise each sample is a line. It ends on Ctrl-C, with
    the process, or after --count samples, and says on stderr what was seen. Status 1 if nothing could be read.
    """
    if spec is not None and pid is not None:
        message = "--device and --pid exclude each other"
        raise click.UsageError(message)
    sources = [_Whole(one) for one in device.devices(spec or "cpu")] if pid is None else [memory.ProcessMemory(pid)]
    monitors = [memory.MemoryMonitor(source, interval) for source in sources]
    try:
        with contextlib.suppress(KeyboardInterrupt), _said_here(), _screen(as_json=as_json) as show:
            for lines in _samples(monitors, pid, interval, count, as_json=as_json):
                show(lines)
    except BrokenPipeError:  # such as `| head`
        sys.stderr.close()
        raise SystemExit(0) from None
    for monitor in monitors:
        click.echo(_summary(monitor, "its sensors do not answer" if pid is None else _NO_PROCESS), err=True)
    if not any(monitor.timeline for monitor in monitors):
        sys.exit(1)


@contextlib.contextmanager
def _said_here() -> Iterator[None]:
    """What the monitors log is shown by the command itself, in other words."""
    logger = logging.getLogger(memory.__name__)
    before, handler = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _samples(
    monitors: Sequence[memory.MemoryMonitor], pid: int | None, interval: float, count: int | None, *, as_json: bool
) -> Iterator[list[str]]:
    never = threading.Event()
    number = 0
    write = _as_json if as_json else _as_line
    while True:
        read = [(monitor, monitor.sample()) for monitor in monitors]
        lines = [write(monitor, stats) for monitor, stats in read if stats is not None]
        if lines:
            yield lines
        number += 1
        gone = pid is not None and (not lines or not psutil.pid_exists(pid))
        if gone or number == count:
            return
        never.wait(interval)


@contextlib.contextmanager
def _screen(*, as_json: bool) -> Iterator[Any]:
    """What shows the lines of a sample: kept up to date on a terminal, else below one another."""
    if as_json or not sys.stdout.isatty():
        yield lambda lines: click.echo("\n".join(lines))
        return
    from rich.console import Console  # noqa: PLC0415 (only on a terminal)
    from rich.live import Live  # noqa: PLC0415 (same)
    from rich.text import Text  # noqa: PLC0415 (same)

    def text(line: str) -> Text:
        return Text(line, style="bold red" if "seems to leak" in line else "")

    with Live(console=Console(), auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n").join(map(text, lines)), refresh=True)


def _as_line(monitor: memory.MemoryMonitor, stats: memory.MemoryStats) -> str:
    limit = f" of {bytes_text(stats.limit)} ({percent_text(stats.allocated, stats.limit)})" if stats.limit else ""
    leak = monitor.leak
    if leak is None:
        note = ""
    else:
        left = "" if leak.seconds_to_limit is None else f", full in {duration_text(leak.seconds_to_limit)}"
        note = f", seems to leak {bytes_text(leak.bytes_per_second)}/s{left}"
    simulated = " (simulated)" if stats.simulated else ""
    now = datetime.now(timezone.utc).strftime("%H:%M:%S")
    taken = f"{bytes_text(stats.allocated)}{limit}, peak {bytes_text(stats.peak)}"
    return f"{now}Z {monitor.device.name}{simulated}: {taken}{note}"


def _as_json(monitor: memory.MemoryMonitor, stats: memory.MemoryStats) -> str:
    leak = monitor.leak
    fields = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "device": monitor.device.name,
        **asdict(stats),
        "leak_bytes_per_second": None if leak is None else leak.bytes_per_second,
        "seconds_to_limit": None if leak is None else leak.seconds_to_limit,
    }
    return json.dumps(fields)


def _summary(monitor: memory.MemoryMonitor, why_not: str) -> str:
    points = monitor.timeline
    if not points:
        return f"the memory of {monitor.device.name} cannot be read: {why_not}"
    samples = sum(point.samples for point in points)
    first, last = points[0].allocated, points[-1].allocated
    low, high = min(point.low for point in points), max(point.high for point in points)
    change = f"{'+' if last >= first else '-'}{bytes_text(abs(last - first))}"
    unread = f", {monitor.failures} could not be read" if monitor.failures else ""
    leak = "no leak seen" if monitor.leak is None else f"leaks {bytes_text(monitor.leak.bytes_per_second)}/s"
    name = f"{monitor.device.name} (simulated)" if monitor.device.simulated else monitor.device.name
    counted = f"{samples} sample{'' if samples == 1 else 's'}"
    return (
        f"{name}: {counted} in {duration_text(points[-1].time - points[0].time)}{unread}: "
        f"{bytes_text(low)} to {bytes_text(high)}, {change} from first to last, {leak}"
    )


@memory_group.command()
@click.option("--params", required=True, metavar="COUNT", help="How many parameters: 7e9, 7B, 350M.")
@click.option("--dtype", type=click.Choice(_DTYPES), default="bfloat16", show_default=True, help="Of parameters.")
@click.option(
    "--optimizer",
    default="FusedAdamW",
    show_default=True,
    metavar="NAME",
    help="One of gaudi3_rt.optim, or torch.NAME of torch.optim.",
)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the optimizer: moments_dtype=int8.")
@click.option("--shards", type=click.IntRange(1), default=1, show_default=True, help="Devices that share all of it.")
@click.option("--device", "target", type=click.Choice(list(memory.GAUDI_MEMORY)), help="Whether it fits into this one.")
@click.option(
    "--headroom",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share to leave free.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON; sizes in bytes.")
def plan(
    params: str,
    dtype: str,
    optimizer: str,
    options: tuple[str, ...],
    shards: int,
    target: str | None,
    headroom: float,
    as_json: bool,
) -> None:
    """Say what parameters, gradients and the optimizer's state take, and whether that fits.

    The model is taken to be matrices of 2^28 elements or less. Activations are not included: for those, and for a
    model's true shapes, call gaudi3_rt.memory.plan with the model and a batch.

    The exit status is 1 if it does not fit into --device, 2 if the optimizer does not take its options.
    """
    numbers = _parse_count(params)
    model = _matrices(numbers / shards, getattr(torch, dtype))
    make = functools.partial(_optimizer(optimizer), **dict(_parse_option(option) for option in options))
    found = memory.plan(model, make)
    verdicts = {name: found.fits(name, headroom) for name in ([target] if target else memory.GAUDI_MEMORY)}
    if as_json:
        fits = {name: asdict(verdict) for name, verdict in verdicts.items()}
        click.echo(json.dumps({**found.to_dict(), "shards": shards, "fits": fits}, indent=2))
    else:
        click.echo(found.table())
        for name, verdict in verdicts.items():
            click.echo(f"{name}: {verdict.reason}")
    if target and not verdicts[target]:
        raise SystemExit(1)


def _matrices(elements: float, dtype: torch.dtype) -> torch.nn.Module:
    """A model of matrices of one size, without memory."""
    number = min(math.ceil(elements / _LARGEST), _MOST_MATRICES)
    rows = math.ceil(elements / number / _COLUMNS)
    with torch.device("meta"):
        return torch.nn.Sequential(*(torch.nn.Linear(_COLUMNS, rows, bias=False, dtype=dtype) for _ in range(number)))


def _parse_count(text: str) -> int:
    found = _COUNT.fullmatch(text)
    count = float(found[1]) * _SUFFIXES[found[2].upper()] if found else 0
    if not 1 <= count <= _MOST_PARAMETERS:
        message = f"{text!r} is no number of parameters, such as 7e9, 7B or 350M, from 1 to {_MOST_PARAMETERS:g}"
        raise click.BadParameter(message, param_hint="--params")
    return int(count)


def _optimizer(name: str) -> Any:
    module, _, own = name.rpartition(".")
    home = torch.optim if module in {"torch", "torch.optim"} else optim if module == "" else None
    found = getattr(home, own, None) if home is not None else None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        ours = ", ".join(n for n in optim.__all__ if _is_optimizer(getattr(optim, n)))
        message = f"{name!r} is no optimizer; known are {ours}, and those of torch.optim as torch.AdamW"
        raise click.BadParameter(message, param_hint="--optimizer")
    return found


def _is_optimizer(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer)


def _parse_option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        message = f"{text!r} is not KEY=VALUE"
        raise click.BadParameter(message, param_hint="--option")
    values = [_parse_value(part) for part in value.split(",")]
    return key, values[0] if len(values) == 1 else tuple(values)


def _parse_value(text: str) -> Any:
    """A dtype, None, true, false, a number, or the text itself."""
    dtype = getattr(torch, text, None)
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return json.loads(text.lower().replace("none", "null"))
    except ValueError:
        return text
