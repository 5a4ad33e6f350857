"""``gaudi3-rt report``: what a training looked like."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gaudi3_rt.cli._commands import FAILED
from gaudi3_rt.cli._output import console, grid, show

_EXAMPLES = """\b
Examples:
  gaudi3-rt report runs/7              writes runs/7/report/report.html
  gaudi3-rt report runs/7 --out /tmp   writes there
  gaudi3-rt report runs/7 --json       figures only, nothing is written
"""


@click.command(epilog=_EXAMPLES)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.  [default: RUN/report]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and write nothing.")
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Draw a training from its history: pictures and one page.

    RUN is the folder that was given to TrainingMonitor(run_dir=...). Writes one page that opens without a network, and
    each picture as a PNG. A training that goes on is drawn as far as it is; what was not measured has no picture.
    """
    from gaudi3_rt import report as reports  # noqa: PLC0415 (numpy, which --help need not wait for)

    data = reports.gather(run)
    if as_json:
        click.echo(json.dumps(reports.summary(data), indent=2))
        return
    try:
        written = reports.write_report(data, out or run / "report")
    except (ImportError, OSError) as error:
        message = f"no report was written: {error}"
        click.echo(message, err=True)
        raise SystemExit(FAILED) from error
    rows = grid()
    for name, value in reports.facts(reports.summary(data)):
        rows.add_row(name, value)
    show(console(), f"run {data.run_id}", rows)
    for path in written.values():
        click.echo(f"wrote {path}", err=True)
