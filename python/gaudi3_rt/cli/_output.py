"""How commands write for people: widths, colours, units, and a mark on what is simulated."""

import sys
from typing import Any, TextIO

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gaudi3_rt._units import bytes_text

NOTHING = "-"
"""In place of what nobody can say."""

STYLES = {"error": "bold red", "warning": "yellow", "ok": "green", "label": "cyan"}

_WHOLE_LINES = 10_000
"""Columns; no line is longer."""


def console(stream: TextIO | None = None) -> Console:
    """Of standard output, or of another stream.

    A terminal gets colours, unless ``NO_COLOR`` is set, and lines that fit. Everything else gets plain text and whole
    lines, as ``grep`` wants them.
    """
    file = sys.stdout if stream is None else stream
    usual = Console(file=file, highlight=False, markup=False, emoji=False)
    if usual.is_terminal and not usual.no_color:
        return usual
    width = usual.width if usual.is_terminal else _WHOLE_LINES
    return Console(file=file, highlight=False, markup=False, emoji=False, color_system=None, width=width)


def show(out: Console, *items: RenderableType) -> None:
    """Prints texts and tables without blanks at the ends of lines."""
    with out.capture() as held:
        out.print(*items, sep="\n")
    click.echo("\n".join(line.rstrip() for line in held.get().splitlines()), file=out.file)


def grid() -> Table:
    """Two columns: names, and values that go on below themselves."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style=STYLES["label"], no_wrap=True)
    rows.add_column(overflow="fold")
    return rows


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; a long value goes on below itself.

    Args:
        *columns: titles.
        right: those whose values are numbers.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=STYLES["label"])
    for column in columns:
        is_number = column in right
        made.add_column(Text(column), justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return made


def amount(size: float | None) -> str:
    """Bytes with a unit."""
    return NOTHING if size is None else bytes_text(size)


def plain(name: str, value: Any) -> str:
    """A fact of a report as text, by the unit that its name ends with."""
    if value is None or value in ("", [], {}, ()):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(key, item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        between = "\n" if isinstance(value[0], dict) else ", "
        return between.join(plain(name, item) for item in value)
    return amount(value) if name.endswith("_bytes") and isinstance(value, int) else str(value)
