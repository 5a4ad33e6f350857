"""``gaudi3-rt health``: runs the checks once, and says how all is."""

import json
import sys

import click
from rich.text import Text

from gaudi3_rt.cli._commands import FAILED
from gaudi3_rt.cli._output import NOTHING, STYLES, console, show, table
from gaudi3_rt.config import load_health
from gaudi3_rt.health import CheckResult, HealthReport, HealthStatus

FORMAT_VERSION = 1
"""Of the JSON; a higher one when a key goes or changes its meaning."""

_STYLE = {
    HealthStatus.HEALTHY: STYLES["ok"],
    HealthStatus.DEGRADED: STYLES["warning"],
    HealthStatus.UNKNOWN: STYLES["warning"],
    HealthStatus.CRITICAL: STYLES["error"],
}

EXAMPLES = """
\b
Examples:
  gaudi3-rt health
  gaudi3-rt health --config run.yaml --strict
  gaudi3-rt health --json | jq '.checks[] | select(.status != "healthy")'
"""


@click.command(name="health", epilog=EXAMPLES)
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    help="Configuration of a run, or a file with its section health alone; without it the default checks.",
)
@click.option("--strict", is_flag=True, help="What is degraded fails too.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def health_command(file: str | None, strict: bool, is_json: bool) -> None:
    """Run health checks once: devices, machine, files, services.

    The exit status is 0 if all that is critical is healthy or degraded, and 1 if something is critical or cannot be
    told; with --strict degraded is 1 too. 78: the configuration is wrong.
    """
    report = load_health(file).build().check_now()
    if is_json:
        click.echo(json.dumps({"version": FORMAT_VERSION, **report.to_dict(detail=True)}, indent=2))
    else:
        _show(report)
    is_well = report.status is HealthStatus.HEALTHY if strict else report.is_ready
    sys.exit(0 if is_well else FAILED)


def _show(report: HealthReport) -> None:
    rows = table("check", "status", "time", "what was found", right=("time",))
    for one in report.results:
        name = f"{one.check} (simulated)" if one.simulated else one.check
        status = Text(one.status.value, style=_STYLE[one.status])
        rows.add_row(name, status, _milliseconds(one), _found(one))
    whole = Text.assemble("all together: ", (report.status.value, _STYLE[report.status]))
    show(console(), rows, whole)


def _milliseconds(one: CheckResult) -> str:
    return NOTHING if one.seconds is None else f"{one.seconds * 1000:.1f} ms"


def _found(one: CheckResult) -> str:
    text = one.message if one.critical else f"{one.message} (informative)"
    return f"{text}\n{one.detail}" if one.detail and one.status is not HealthStatus.HEALTHY else text
