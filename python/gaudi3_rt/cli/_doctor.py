"""``gaudi3-rt doctor``: whether this machine can train, and what to do where it cannot."""

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gaudi3_rt.cli._devices import device_table
from gaudi3_rt.cli._output import STYLES, console, grid, plain, show

EXAMPLES = """
\b
Examples:
  gaudi3-rt doctor
  gaudi3-rt doctor --checkpoint-dir /data/checkpoints
  gaudi3-rt doctor --json | jq '.sections[].findings[]'
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Examine the disk that checkpoints go to.",
)
@click.option("--strict", is_flag=True, help="Let warnings decide on the exit status as errors do.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For each section.",
)
def doctor(checkpoint_dir: Path | None, strict: bool, is_json: bool, timeout: float) -> None:
    """Examine this machine: can it train, and what to do if not.

    Looks at versions, devices, drivers, environment, the build, security, disk and memory. Imports nothing of Habana's,
    acquires no device and changes nothing. A machine without a Gaudi is well: kernels run on its CPU.

    The exit status is 0 if all is well or there are only warnings, 1 if something is wrong with this machine, and 78 if
    settings or installed packages are wrong, so that starting again, here or elsewhere, would change nothing.
    """
    out = console()  # before the examination: a library that hangs there may have redirected standard output
    from gaudi3_rt.doctor import examine  # noqa: PLC0415 (its help needs none of it)

    report = examine(checkpoint_dir=checkpoint_dir, timeout=timeout)
    fields = report.to_dict()
    if is_json:
        click.echo(json.dumps(fields, indent=2), file=out.file)
    else:
        _show(out, fields)
    raise SystemExit(report.exit_status(strict=strict))


def _show(out: Console, report: Mapping[str, Any]) -> None:
    """Facts first, then what is wrong, so that the last lines are the ones to act on."""
    for name, section in report["sections"].items():
        facts = section["facts"]
        show(out, Text(name, style="bold"), _facts(facts))
        if facts.get("devices"):
            show(out, "", device_table(facts["devices"]))
        show(out, "")
    for name, section in report["sections"].items():
        for finding in section["findings"]:
            _show_finding(out, name, finding)
    show(out, Text(_verdict(report), style=STYLES[report["status"]]))


def _facts(facts: Mapping[str, Any]) -> Table | str:
    """Names, as in the JSON, and values."""
    if not facts:
        return "  not examined; see below"
    if all(value is None for value in facts.values()):
        return "  not asked for (--checkpoint-dir)"
    rows = grid()
    for name, value in facts.items():
        if name != "devices":  # they have a table of their own
            shown = _kernels(value) if name == "kernels" else plain(name, value)
            rows.add_row(f"  {name.removesuffix('_bytes')}", shown)
    return rows


def _kernels(status: Mapping[str, str]) -> str:
    """Kernels by how far they have come."""
    ordered = sorted(status, key=lambda name: (status[name], name))
    groups = groupby(ordered, key=lambda name: status[name])
    return "\n".join(f"{stage}: {', '.join(names)}" for stage, names in groups)


def _show_finding(out: Console, section: str, finding: Mapping[str, Any]) -> None:
    """One finding: what is wrong, what to do, and where that is known from."""
    severity = finding["severity"]
    rows = grid()
    for title, key in (("seen", "seen"), ("allowed", "allowed"), ("do", "todo"), ("source", "source")):
        value = finding[key]
        if value and not (key in {"seen", "allowed"} and value in finding["what"]):
            rows.add_row(f"  {title}", value)
    show(out, Text.assemble((severity, STYLES[severity]), f" in {section}: {finding['what']}"), rows, "")


def _verdict(report: Mapping[str, Any]) -> str:
    """The last line."""
    counts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for what, count in (("error", report["errors"]), ("warning", report["warnings"]))
        if count
    ]
    runs_on = report["sections"]["devices"]["facts"].get("verdict")
    return f"{' and '.join(counts) or 'all is well'}{f' ({runs_on})' if runs_on else ''}"
