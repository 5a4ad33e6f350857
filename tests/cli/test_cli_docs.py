"""docs/cli.md has every command as it is, and the exit statuses as they are."""

import re

import click
from _problems import ROOT

from gaudi3_rt import errors
from gaudi3_rt.cli import _commands
from gaudi3_rt.cli._app import app
from gaudi3_rt.errors import _classify

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def rows(group, path):
    """A row of the table for each command that does something."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from rows(command, f"{path} {name}")
        else:
            yield f"| `{path} {name}` | {command.get_short_help_str(200)} |"


def test_commands_are_listed_as_the_program_has_them():
    """All of them, in its order, with its words; a failure shows the table to paste."""
    table = PAGE.split("| command | what it does |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == list(rows(app, "gaudi3-rt"))


def test_statuses_are_listed_as_they_are():
    """All that the program can end with by itself."""
    table = PAGE.split("| status | meaning |")[1].split("\n\n")[0]
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    names = ("FAILED", "USAGE", "TRY_LATER", "CONFIGURATION", "INTERRUPTED")
    assert listed == {0, *(getattr(_commands, name) for name in names)}


def test_options_of_all_commands_are_listed():
    """Those before the name of a command."""
    table = PAGE.split("| option | |\n|---|---|\n")[1].split("\n\n")[0]
    for parameter in app.params:
        assert any(f"`{option}`" in table for option in parameter.opts), parameter.opts


def test_commands_that_are_named_exist():
    """In every document, and in the advice that errors give."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    texts += [row.next_command for row in _classify.ROWS]
    texts += [advice for kind in errors.codes().values() for advice in kind.default_suggestions]
    named = {name for text in texts for name in re.findall(r"gaudi3-rt ([a-z][a-z-]*)", text)}
    assert named >= {"doctor", "explain", "tpc"}
    assert named <= set(app.list_commands(click.Context(app)))
