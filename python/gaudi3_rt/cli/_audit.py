"""``gaudi3-rt audit-log``: whether an audit log is what was written."""

import dataclasses
import json
from pathlib import Path

import click

from gaudi3_rt.audit import verify as verify_file
from gaudi3_rt.errors import ParameterValidationError


@click.group(name="audit-log")
def audit_log() -> None:
    """Check files written by gaudi3_rt.audit."""


@audit_log.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--head", metavar="HASH", help="A head that was kept elsewhere; finds missing records at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(file: Path, head: str | None, as_json: bool) -> None:
    """Find the first line of FILE that was edited, inserted, left out or moved.

    The exit status is 0 if there is none and 1 if there is. Without --head nobody can tell a file that was cut off at
    its end from one that was never longer: keep the head that is printed here where writers of FILE cannot change it.
    """
    try:
        result = verify_file(file, head)
    except ParameterValidationError as error:
        raise click.BadParameter(error.message, param_hint="--head") from error
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise click.ClickException(message) from error
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        for line in result.torn_lines:
            click.echo(f"{file}:{line}: begins with what a crash left of a record; the chain goes on there")
        if result.ok:
            anchored = "the given head is among them" if head else "no head was given, so the end is not checked"
            click.echo(f"{file}: {result.records} records, all as they were written; {anchored}")
        else:
            click.echo(f"{file}:{result.first_bad_line}: {result.reason}")
            click.echo(f"{file}: {result.records} records before that are as they were written")
        click.echo(f"head {result.head}")
    if not result.ok:
        raise SystemExit(1)
