"""``gaudi3-rt top``: a run as it is now, from its endpoints."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gaudi3_rt import _config
from gaudi3_rt._json import json_line
from gaudi3_rt._units import bytes_text, duration_text, number_text, seconds_text
from gaudi3_rt.cli._commands import FAILED
from gaudi3_rt.cli._output import NOTHING, STYLES, console, show, table
from gaudi3_rt.errors import InvalidConfigurationError

if TYPE_CHECKING:
    from gaudi3_rt.cli._scrape import Scrape

_LOCAL_RANKS = 16
_TARGET = re.compile(r"(?:(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):)?(?P<port>\d{1,5})")
_EXAMPLES = """\b
Examples:
  gaudi3-rt top                        all ranks here (16 ports from 9200 on)
  gaudi3-rt top 9201                   one of them
  gaudi3-rt top node1:9200 node2:9200  of other machines
  gaudi3-rt top --count 1 --json       once, for a script
"""
_RANK_NUMBERS = ("rank", "step", "loss", "step time", "samples/s", "tokens/s", "last step")
_RANK_COLUMNS = ("rank", "state", *_RANK_NUMBERS[1:])
_TEXT_COLUMNS = ("time goes to", "anomalies")
_DEVICE_COLUMNS = ("device", "rank", "memory", "of", "peak here", "busy", "temp", "power", "ECC")
_ANY_WIDTH = 10_000
_PHASES = 3  # of a step, the longest, that have place in a line


@click.command(epilog=_EXAMPLES)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(1), help="End after so many looks; without it, on Ctrl-C.")
@click.option(
    "--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The endpoints' bearer token."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line and look.")
def top(targets: tuple[str, ...], interval: float, count: int | None, token_file: Path | None, as_json: bool) -> None:
    """Show a run as it is now: steps, loss, throughput, devices.

    A TARGET is the endpoint of one process: a port of this machine, host:port, or a URL. Without any, all are shown
    that answer here, at 16 ports from GAUDI3_RT_METRICS_PORT (9200) on. Rates are of the time between two looks. It
    ends on Ctrl-C. Status 1 if none has ever answered.
    """
    token = None if token_file is None else _token(token_file)
    ports = range(0) if targets else _local_ports()
    urls = [_url(target) for target in targets] or [f"http://127.0.0.1:{port}/metrics" for port in ports]
    have_answered: set[str] = set()
    try:
        with contextlib.suppress(KeyboardInterrupt), _screen(as_json=as_json) as shown:
            for look in _looks(urls, token, interval, count, is_explicit=bool(targets)):
                have_answered.update(row["target"] for row in look["ranks"] if not row["error"])
                shown(look)
    except BrokenPipeError:  # such as `| head`
        sys.stderr.close()
        raise SystemExit(0) from None
    if not have_answered:
        where = ", ".join(targets) if targets else f"the ports {ports[0]} to {ports[-1]} of this machine"
        click.echo(f"no endpoint has answered: {where}. Does the training run, with endpoints.serve()?", err=True)
        raise SystemExit(FAILED)


def _token(file: Path) -> str | None:
    from gaudi3_rt.endpoints._token import read_token  # noqa: PLC0415 (for --help not)

    return read_token(None, file)


def _local_ports() -> range:
    """Where processes of this machine have their endpoints, as ``endpoints.serve()`` chooses them."""
    try:
        first = _config.metrics_port()
    except ValueError as error:
        raise InvalidConfigurationError(str(error)) from None
    if first == 0:
        message = f"{_config.METRICS_PORT_VARIABLE}=0: there are no endpoints here"
        raise InvalidConfigurationError(message, suggestions=["Name a TARGET, or unset the variable"])
    first = _config.DEFAULT_METRICS_PORT if first is None else first
    return range(first, min(first + _LOCAL_RANKS, 1 << 16))


def _url(target: str) -> str:
    if target.startswith(("http://", "https://")):
        return target if target.rstrip("/").count("/") > 2 else f"{target.rstrip('/')}/metrics"  # noqa: PLR2004 (of ://)
    found = _TARGET.fullmatch(target)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        message = f"{target!r} is neither a port, nor host:port, nor a URL that begins with http:// or https://"
        raise click.BadParameter(message, param_hint="TARGET")
    return f"http://{found['host'] or '127.0.0.1'}:{found['port']}/metrics"


def _looks(
    urls: Sequence[str], token: str | None, interval: float, count: int | None, *, is_explicit: bool
) -> Iterator[dict[str, Any]]:
    """What all say, again and again. Of endpoints that nobody named, those that have ever answered."""
    from gaudi3_rt.cli._scrape import rank_figures, scrape_all  # noqa: PLC0415 (prometheus_client, for --help not)

    before: dict[str, Scrape] = {}
    done = 0
    while True:
        begin = time.monotonic()
        rows = []
        for url, found in zip(urls, scrape_all(urls, token, begin), strict=True):
            if not found.error:
                rows.append({"target": url, "error": "", **rank_figures(found, before.get(url), time.time())})
                before[url] = found
            elif is_explicit or url in before:
                rows.append({"target": url, "error": found.error})
        yield {"time": time.time(), "ranks": rows}
        done += 1
        if done == count:
            return
        time.sleep(max(0.0, begin + interval - time.monotonic()))


@contextlib.contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Where looks go: a screen that is kept up to date, or one after the other."""
    out = console()
    if as_json:
        yield lambda look: click.echo(json_line(look))
    elif out.is_terminal and not out.is_dumb_terminal:
        last: list[dict[str, Any]] = []
        try:
            with Live(console=out, screen=True, auto_refresh=False) as live:

                def update(look: dict[str, Any]) -> None:
                    last[:] = [look]
                    live.update(_view(look, out), refresh=True)

                yield update
        finally:
            if last:  # the screen is as it was before, and the last look below it
                show(out, _view(last[0], out))
    else:
        yield lambda look: show(out, _view(look, out), "")


def _view(look: dict[str, Any], out: Console) -> RenderableType:
    """All of a look; what is told in words has a table of its own where lines are too short for both."""
    rows = sorted(look["ranks"], key=lambda row: (int(row.get("rank") or 0), row["target"]))
    answers = [row for row in rows if not row["error"]]
    ranks = _table((*_RANK_COLUMNS, *_TEXT_COLUMNS), _RANK_NUMBERS, (_numbers(row) + _texts(row) for row in answers))
    devices = [_device_cells(one, row["rank"]) for row in answers for one in row["devices"]]
    tables = [ranks, _table(_DEVICE_COLUMNS, _DEVICE_COLUMNS[2:], devices)]
    if out.measure(ranks, options=out.options.update_width(_ANY_WIDTH)).maximum > out.width:
        tables[0] = _table(_RANK_COLUMNS, _RANK_NUMBERS, map(_numbers, answers))
        texts = ([row["rank"] or NOTHING, *_texts(row)] for row in answers)
        tables.append(_table(("rank", *_TEXT_COLUMNS), ("rank",), texts))
    clock = time.strftime("%H:%M:%S", time.localtime(look["time"]))
    parts: list[RenderableType] = [Text(f"{clock}  {_total(rows)}")]
    parts += [Text(f"{row['target']}: {row['error']}", STYLES["error"]) for row in rows if row["error"]]
    for one in tables:
        if one.row_count:
            parts += [Text(""), one]
    return Group(*parts)


def _table(columns: Sequence[str], right: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Table:
    made = table(*columns, right=tuple(right))
    for row in rows:
        made.add_row(*row)
    return made


def _total(rows: Sequence[dict[str, Any]]) -> str:
    """Of all ranks that say it: what a training does as a whole."""
    texts = (
        [f"{sum(not row['error'] for row in rows)} of {len(rows)} endpoints answer"]
        if rows
        else ["no endpoint answers yet"]
    )
    for what in ("samples", "tokens"):
        rates = [row[f"{what}_per_second"] for row in rows if row.get(f"{what}_per_second") is not None]
        if rates:
            texts.append(f"{number_text(sum(rates))} {what}/s")
    return ", ".join(texts)


_STATES = {"training": STYLES["ok"], "stalled": STYLES["error"], "no run": STYLES["warning"]}


def _numbers(row: dict[str, Any]) -> list[RenderableType]:
    return [
        row["rank"] or NOTHING,
        Text(row["state"], _STATES[row["state"]]),
        _known(row["step"], str),
        _known(row["loss"], number_text),
        _known(row["step_seconds"], seconds_text),
        _known(row["samples_per_second"], number_text),
        _known(row["tokens_per_second"], number_text),
        _known(row["last_step_age_seconds"], lambda age: f"{duration_text(age)} ago"),
    ]


def _texts(row: dict[str, Any]) -> list[RenderableType]:
    phases = list(row["phases"].items())[:_PHASES]
    anomalies = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in row["anomalies"].items())
    return [
        ", ".join(f"{name} {share:.0%}" for name, share in phases) or NOTHING,
        Text(anomalies, STYLES["warning"]) if anomalies else NOTHING,
    ]


def _device_cells(one: dict[str, Any], rank: str | None) -> list[RenderableType]:
    used = one["memory_used_bytes"] if one["memory_used_bytes"] is not None else one["memory_allocated_bytes"]
    errors = one["ecc_uncorrected"]
    says_so = one["device"].startswith("simulated") or not one["simulated"]
    return [
        one["device"] if says_so else f"{one['device']} (simulated)",
        rank or NOTHING,
        _known(used, bytes_text),
        _known(one["memory_total_bytes"], bytes_text),
        _known(one["memory_peak_bytes"], bytes_text),
        _known(one["utilization_ratio"], lambda ratio: f"{ratio:.0%}"),
        _known(one["temperature_celsius"], lambda degrees: f"{degrees:.0f} °C"),
        _known(one["power_watts"], lambda watts: f"{watts:.0f} W"),
        Text(str(errors), STYLES["error"]) if errors else _known(errors, str),
    ]


def _known(value: Any, text: Callable[[Any], str]) -> str:
    return NOTHING if value is None else text(value)
