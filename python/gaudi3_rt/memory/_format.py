"""How shares and tables look in text."""

from __future__ import annotations

from collections.abc import Sequence


def percent_text(part: float, whole: float | None) -> str:
    """``25 %``; nothing without a whole."""
    return f"{100 * part / whole:.0f} %" if whole else ""


def shorten(text: str, width: int) -> str:
    """Cuts in the middle, because the ends of a parameter's name say which it is."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def shorten_name(name: str, width: int) -> str:
    """Cuts the components of a dotted name to their first letters, from the left: what tells layers apart stays."""
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= width:
            break
        if part and not part.isdigit():
            parts[i] = part[0]
    return shorten(".".join(parts), width)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as what is in them, two spaces apart.

    Args:
        header: names of the columns.
        rows: their cells.
        right: which columns are aligned to the right.
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])
