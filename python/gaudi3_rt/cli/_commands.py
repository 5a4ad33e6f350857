"""A group of commands that imports them when they are used, shows them by subject, and ends errors in one way."""

import difflib
import importlib
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from gaudi3_rt._redact import redact_text
from gaudi3_rt.errors import ConfigurationError, Gaudi3RTError, ParameterValidationError

FAILED, USAGE, TRY_LATER, CONFIGURATION, INTERRUPTED = 1, 2, 75, 78, 130
"""Exit statuses: click's 2, EX_TEMPFAIL and EX_CONFIG of ``sysexits.h``, and 128 + SIGINT."""


_INDENTATION = 6
"""Columns that click puts before and after the name of a command."""


def exit_status(error: Gaudi3RTError) -> int:
    """What a command ends with after an error."""
    if isinstance(error, ConfigurationError):
        return CONFIGURATION
    if error.retryable:
        return TRY_LATER
    return USAGE if isinstance(error, ParameterValidationError) else FAILED


def describe(error: Gaudi3RTError) -> str:
    """A line for what happened, and one for each thing to do; without secrets."""
    fields = error.to_dict()
    advice = [f"  - {suggestion}" for suggestion in fields["suggestions"]]
    return "\n".join([f"error {fields['code']}: {fields['message']}", *advice])


class Commands(click.Group):
    """A group of commands by subject.

    Args:
        commands_by_group: by title of their group and name, where a command is: ``module:attribute``.
        **rest: as for :class:`click.Group`.
    """

    def __init__(self, commands_by_group: Mapping[str, Mapping[str, str]], **rest: Any) -> None:
        super().__init__(**rest)
        self.by_group = commands_by_group
        self._places = {name: place for group in commands_by_group.values() for name, place in group.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of their groups."""
        return [*self._places, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, imported now; None if there is none of this name."""
        place = self._places.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; for a name that is none, the nearest one is named."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not close:
                raise
            message = f"{error.message} Did you mean {close[0]!r}?"
            raise click.UsageError(message, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and what they do, under the title of their group."""
        widest = max(map(len, self.list_commands(ctx)))
        for title, names in self.by_group.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            limit = formatter.width - _INDENTATION - widest
            rows = [(f"{name:{widest}}", command.get_short_help_str(limit)) for name, command in commands if command]
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Without click's indentation, which would make examples too wide."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text(self.epilog.strip())

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an error of ours becomes a few lines on standard error and an exit status."""
        try:
            return super().invoke(ctx)
        except Gaudi3RTError as error:
            if (ctx.obj or {}).get("debug"):
                click.echo(redact_text("".join(traceback.format_exception(error))), err=True, nl=False)
            click.echo(describe(error), err=True)
            sys.exit(exit_status(error))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)


class _Line(logging.Formatter):
    """An entry as a line, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


@contextmanager
def logging_to_stderr(level: int) -> Iterator[None]:
    """Messages of this package from a level on go to standard error while the block runs, one line each."""
    logger = logging.getLogger("gaudi3_rt")
    before = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
