"""``gaudi3-rt config``: is a configuration valid, which values are in force, what keys are there."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from gaudi3_rt._redact import redact
from gaudi3_rt.cli._commands import CONFIGURATION
from gaudi3_rt.config import Finding, json_schema
from gaudi3_rt.config._load import Examined, examine
from gaudi3_rt.config._yaml import plain
from gaudi3_rt.errors import ConfigurationError

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False))
_SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Overrides a value, like optimizer.lr=1e-4."
)
_ROOT = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False),
    help="Refuse paths in the configuration that lead out of this folder.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@click.group()
def config() -> None:
    """Check and show the configuration of a training run.

    A value comes from the file, which a variable GAUDI3_RT_SECTION__KEY overrides, which --set overrides.
    """


@config.command()
@_FILE
@_SET
@_ROOT
@_JSON
@click.option("--strict", is_flag=True, help="Warnings make it invalid too.")
def check(file: str, assignments: tuple[str, ...], root: str | None, as_json: bool, strict: bool) -> None:
    """Find all that is wrong, and what to know.

    Status 0: it is valid. 78: it is not, or with --strict there are warnings.
    """
    found = _examine(file, assignments, root).findings
    errors = [one for one in found if one.severity == "error"]
    warnings = [one for one in found if one.severity != "error"]
    valid = not errors and not (strict and warnings)
    if as_json:
        lists = {"errors": [one.to_dict() for one in errors], "warnings": [one.to_dict() for one in warnings]}
        click.echo(json.dumps({"file": file, "valid": valid, **lists}, indent=2))
    else:
        for one in (*errors, *warnings):
            click.echo(_line(one))
        counts = [_count(errors, "error")] * bool(errors) + [_count(warnings, "warning")] * bool(warnings)
        click.echo(", ".join([f"{file}: {'valid' if valid else 'invalid'}", *counts]))
    sys.exit(0 if valid else CONFIGURATION)


@config.command()
@_FILE
@_SET
@_ROOT
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@_JSON
@click.option("--yaml", "as_yaml", is_flag=True, help="Write YAML, which is the default.")
def show(file: str, assignments: tuple[str, ...], root: str | None, origin: bool, as_json: bool, as_yaml: bool) -> None:
    """Write the values in force, and their origins.

    Defaults are included, secrets masked.

    Status 0, or 78 if it is invalid; what is wrong is then written to the standard error output.
    """
    if as_json and as_yaml:
        message = "--json and --yaml exclude each other"
        raise click.UsageError(message)
    done = _examine(file, assignments, root)
    errors = [one for one in done.findings if one.severity == "error"]
    if done.config is None or errors:
        for one in errors:
            click.echo(_line(one), err=True)
        click.echo(f"{file}: invalid, {_count(errors, 'error')}", err=True)
        sys.exit(CONFIGURATION)
    values = redact(done.config.model_dump(mode="json"))
    if as_json:
        click.echo(json.dumps({"config": values, "origins": dict(done.origins)} if origin else values, indent=2))
    else:
        click.echo(_yaml(values, done.origins.__getitem__ if origin else None))


@config.command()
@click.option("--draft", type=click.Choice(["2020-12", "draft-7"]), default="2020-12", show_default=True)
def schema(draft: Any) -> None:
    """Write the JSON Schema of a configuration.

    It is for editors and other checkers. It knows keys, types and ranges; rules between values are known to
    `check` only.
    """
    click.echo(json.dumps(json_schema(draft), indent=2))


def _examine(file: str, assignments: tuple[str, ...], root: str | None) -> Examined:
    try:
        return examine(file, assignments=assignments, root=None if root is None else Path(root))
    except ConfigurationError as error:
        return Examined(None, {}, [Finding(path="", message=error.message, kind="structure", severity="error")])


def _line(finding: Finding) -> str:
    """One line; in a terminal as many as it takes to keep words whole."""
    label = "error" if finding.severity == "error" else f"warning ({finding.kind}, {finding.severity})"
    text = f"{label}: {finding}"
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(text, columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _count(findings: list[Finding], word: str) -> str:
    return f"{len(findings)} {word}{'' if len(findings) == 1 else 's'}"


def _yaml(values: Mapping[str, Any], origin: Callable[[str], str] | None) -> str:
    """YAML that reads back as the same values, also by readers of YAML 1.1; origins as comments."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append((f"{key}:", ""))
            lines += [(f"  {name}: {_scalar(item)}", f"{key}.{name}") for name, item in value.items()]
        else:
            lines.append((f"{key}: {_scalar(value)}", key))
    if origin is None:
        return "\n".join(text for text, _ in lines)
    width = min(40, max(len(text) for text, _ in lines))
    return "\n".join(f"{text:{width}}  # {origin(path)}" if path else text for text, path in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if plain(value) else "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    text = json.dumps(value)
    # For YAML 1.1 a number with an exponent needs a point too.
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text


def _escaped(character: str) -> str:
    """YAML has no pairs of surrogates, so what JSON writes as one has to be escaped as one character."""
    if character.isprintable():
        return character
    return f"\\u{ord(character):04X}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08X}"  # noqa: PLR2004 (four digits)
