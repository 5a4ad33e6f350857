"""``gaudi3-rt explain``: what an error message means and what to do about it."""

import json
import sys
from typing import Any

import click

from gaudi3_rt.errors import Classification, Gaudi3RTError, classify, codes
from gaudi3_rt.errors._classify import summary

_OWN_CODE_DIGITS = 4
_EXAMPLES = """\b
Examples:
  gaudi3-rt explain "synStatus=20 [Device already acquired]"
  gaudi3-rt explain - < train.log
  gaudi3-rt explain 2001
  gaudi3-rt explain -- "--- a message that begins with a dash"
"""


@click.command(epilog=_EXAMPLES)
@click.argument("text", nargs=-1, metavar="TEXT | CODE | -")
@click.option("--list", "is_list", is_flag=True, help="List all error codes.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def explain(text: tuple[str, ...], is_list: bool, is_json: bool) -> None:
    """What an error message means, and what to do next.

    TEXT is a message, a traceback or a whole log; - reads it from standard input. CODE is the number of an error of
    gaudi3_rt, such as 2001. Nothing leaves this machine.

    The exit status is 0 if the message was recognised, 1 if it was not.
    """
    if is_list == bool(text):
        message = "give a message, a code, - for standard input, or --list"
        raise click.UsageError(message)
    if is_list:
        _list(is_json)
        return
    words = _standard_input() if text == ("-",) else " ".join(text)
    if not words.strip():
        message = "the message is empty"
        raise click.UsageError(message)
    if words.strip().isdigit() and len(words.strip()) == _OWN_CODE_DIGITS:
        _show_code(int(words), is_json)
        return
    found = classify(words)
    click.echo(json.dumps(found.to_dict(), indent=2) if is_json else _explanation(found))
    if not found.recognized:
        raise SystemExit(1)


def _standard_input() -> str:
    """A log may hold anything: lines of several encodings, or what a crash left."""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _explanation(found: Classification) -> str:
    if not found.recognized:
        return "\n".join([found.cause, *(f"  - {suggestion}" for suggestion in found.error.default_suggestions)])
    rows = {
        "error": f"{found.error.__name__}, {found.code} ({found.error.category})",
        "likely cause": found.cause,
        "retry": "may help" if found.retryable else "does not help without a change",
        "do next": found.next_command,
        "seen as": found.matched,
        "source": found.source,
    }
    width = max(map(len, rows))
    return "\n".join(f"{name + ':':{width + 1}} {value}" for name, value in rows.items())


def _fields(kind: type[Gaudi3RTError]) -> dict[str, Any]:
    return {
        "code": kind.code,
        "type": kind.__name__,
        "category": kind.category,
        "meaning": summary(kind),
        "retryable": kind.default_retryable,
        "suggestions": list(kind.default_suggestions),
    }


def _show_code(code: int, is_json: bool) -> None:
    kind = codes().get(code)
    if kind is None:
        click.echo(f"No error of gaudi3_rt has the code {code}; gaudi3-rt explain --list shows those that there are.")
        raise SystemExit(1)
    fields = _fields(kind)
    if is_json:
        click.echo(json.dumps(fields, indent=2))
        return
    click.echo(f"{fields['type']}, {code} ({fields['category']}): {fields['meaning']}")
    click.echo(f"retry: {'may help' if fields['retryable'] else 'does not help without a change'}")
    for suggestion in fields["suggestions"]:
        click.echo(f"  - {suggestion}")


def _list(is_json: bool) -> None:
    kinds = list(codes().values())
    if is_json:
        click.echo(json.dumps([_fields(kind) for kind in kinds], indent=2))
        return
    width = max(len(kind.__name__) for kind in kinds)
    for kind in kinds:
        fields = _fields(kind)
        retry = "retry" if fields["retryable"] else ""
        click.echo(f"{kind.code}  {kind.__name__:{width}}  {retry:5}  {fields['meaning']}")
