"""A passport for people: as a Markdown document, and as a table of rich."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gaudi3_rt.numerics._passport import Check, Figure, Passport

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult

_NOTHING = "-"
_MARKUP = re.compile(r"[\\`*<&|~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What Markdown may take for markup; underscores only at the ends of words, where they are."""
_WIDE = 140
"""Columns in which a line has room for five cells."""
_STYLES = {"pass": "green", "differs": "yellow", "fails": "bold red"}


def markdown(passport: Passport) -> str:
    """A document: what was audited, a row for each check, and below it what reproduces those that do not hold."""
    rows = [
        "| check | dtype | status | figure | what it means |",
        "|---|---|---|---|---|",
        *(
            f"| {check.name} | {check.dtype or _NOTHING} | {check.status} | {_escaped(_figure(check.figure))} "
            f"| {_escaped(check.consequence)} |"
            for check in passport.checks
        ),
    ]
    parts = [
        f"# Audit of {_escaped(passport.subject)}",
        f"Compared with {_escaped(passport.like)}. {_escaped(_circumstances(passport))}.",
        f"{_summary(passport)}.",
        "\n".join(rows),
    ]
    found = [check for check in passport.checks if not check.ok and check.reproduce]
    if found:
        parts += ["## To reproduce", "Each prints the figure of its row last, or what was raised.", *map(_case, found)]
    return "\n\n".join(parts) + "\n"


def rich_table(passport: Passport) -> Group:
    """A heading, what each check that applies found, and a summary.

    Statuses are words, so that nothing depends on colours. Where lines are long each check has one, as ``grep`` wants
    it; where they are short, dtype and figure stand below the name and the sentence.

    Raises:
        ImportError: rich is missing.
    """
    try:
        from rich.console import Group  # noqa: PLC0415 (only for tables)
        from rich.text import Text  # noqa: PLC0415 (same)
    except ImportError as error:
        msg = 'the table needs rich; install it with: pip install "gaudi3_rt[cli]"'
        raise ImportError(msg) from error
    names = dict.fromkeys(check.name for check in passport.checks if check.status == "not applicable")
    heading = Text.assemble((passport.subject, "bold"), f", compared with {passport.like}")
    rest = [Text(f"not applicable: {', '.join(names)}")] if names else []
    return Group(
        heading,
        Text(_circumstances(passport)),
        Text(),
        _Table(tuple(check for check in passport.checks if check.status != "not applicable")),
        Text(),
        *rest,
        Text(_summary(passport), style=_STYLES["pass" if passport.ok else "differs"]),
    )


@dataclass(frozen=True)
class _Table:
    """Rows of checks, laid out for the width that there is when they are printed."""

    checks: tuple[Check, ...]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table  # noqa: PLC0415 (only for tables)
        from rich.text import Text  # noqa: PLC0415 (same)

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="cyan")
        is_wide = options.max_width >= _WIDE
        titles = ("check", "dtype", "status", "figure", "what it means") if is_wide else ("check", "status", "found")
        for title in titles:
            table.add_column(title, overflow="fold", no_wrap=title in {"check", "dtype", "status"})
        for check in self.checks:
            # As Text, in which brackets are no markup.
            status = Text(check.status, style=_STYLES[check.status])
            figure, sentence = _figure(check.figure), _line(check.consequence)
            if is_wide:
                name, dtype = Text(check.name), Text(check.dtype or _NOTHING)
                table.add_row(name, dtype, status, Text(figure), Text(sentence))
            else:
                below = Text(f"\n{figure}" if check.figure else "", style="dim")
                table.add_row(Text(f"{check.name}\n{check.dtype}".rstrip()), status, Text(sentence).append_text(below))
        yield table


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return _NOTHING
    return str(figure) if figure.bound is None else f"{figure} (bound {figure.bound:.3g})"


def _circumstances(passport: Passport) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in passport.versions.items())
    return f"{versions}; on {passport.device}, {', '.join(passport.dtypes)}; {passport.seconds:.1f} s"


def _summary(passport: Passport) -> str:
    """How many checks of each status."""
    words = {"pass": "pass", "differs": "differ", "fails": "fail", "not applicable": "not applicable"}
    counts = {status: sum(check.status == status for check in passport.checks) for status in words}
    told = ", ".join(f"{counts[status]} {word}" for status, word in words.items())
    return f"{'All checks hold' if passport.ok else 'Not all checks hold'}: {told}"


def _case(check: Check) -> str:
    longest = max(map(len, re.findall(r"`+", check.reproduce)), default=0)
    fence = "`" * max(3, longest + 1)
    title = " ".join(filter(None, (check.name, check.dtype)))
    return f"### {title}\n\n{fence}python\n{check.reproduce}\n{fence}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """Text of one line that Markdown shows as it is, also in a cell of a table."""
    return _MARKUP.sub(lambda found: "\\" + found[0], _line(text))
