"""The tables of docs/errors.md are those of the code."""

from pathlib import Path

import pytest

from gaudi3_rt import errors
from gaudi3_rt.errors._classify import ROWS, summary

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def table(header, rows):
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def codes_table():
    """Every code, with what it is for."""
    rows = [
        [str(code), f"`{kind.__name__}`", kind.category, "yes" if kind.default_retryable else "no", summary(kind)]
        for code, kind in errors.codes().items()
    ]
    return table(["code", "class", "category", "retry", "meaning"], rows)


def rows_table():
    """Every row of the classifier."""
    rows = [
        [f"`{row.id}`", str(row.error.code), "yes" if row.retryable else "no", row.cause, row.source] for row in ROWS
    ]
    return table(["row", "code", "retry", "likely cause", "source"], rows)


@pytest.mark.parametrize("made", [codes_table, rows_table])
def test_tables(made):
    """Each cell, for every class and every row."""
    assert f"\n\n{made()}\n" in PAGE.read_text(encoding="utf-8"), f"docs/errors.md should have:\n{made()}"
