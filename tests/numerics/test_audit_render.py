"""What people see of a passport: the Markdown document, the table of rich, the picture."""

import io
import math
import re
import struct
import sys

import pytest
from _problems import ROOT
from markdown_it import MarkdownIt
from rich.console import Console

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.numerics import CHECKS, Check, Figure, Passport

NASTY = "It raises TypeError: __init__() got 'a|b' \\| in [1](x) <locals> `c`,\n*not* ~~so~~ _much_ &amp; more_or_less."
CODE = 'text = """\n````\n"""\nprint(0.125)'
CURVE = ((1, 0.5), (10, 0.25), (100, 0.125))


def check(name="formula", status="pass", **rest):
    """One, whose figure is the last point of its curve."""
    figure = Figure(value=0.125, unit="relative update error at step 100", bound=0.2)
    return Check(**{"name": name, "status": status, "consequence": "As documented.", "figure": figure, **rest})


def passport(*checks):
    """Of an optimizer that was made in a function."""
    return Passport(
        subject="train.make.<locals>.AdamW",
        like="torch.optim.AdamW",
        device="cpu",
        dtypes=("float32", "bfloat16"),
        versions={"python": "3.11", "torch": "2.13"},
        seconds=1.25,
        checks=checks,
    )


SEVERAL = passport(
    check(dtype="float32", curve=CURVE),
    check(dtype="bfloat16", status="differs", curve=CURVE, reproduce=CODE),
    check("closure", "fails", consequence=NASTY, figure=None),
    check("nesterov", "not applicable", figure=None, consequence="Nothing to ask."),
)


def read(text):
    """Cells of the table, texts outside of it, and code blocks of a document, as a reader of Markdown sees them."""
    rows, texts, codes = [], [], []
    in_table = False
    for token in MarkdownIt().enable(["table", "strikethrough"]).parse(text):
        if token.type in {"table_open", "table_close"}:
            in_table = token.type == "table_open"
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            (rows[-1] if in_table else texts).append("".join(child.content for child in token.children))
        elif token.type == "fence":
            codes.append(token.content)
    return rows, texts, codes


def test_markdown_reads_back():
    """Every cell is what the check says, whatever characters it has; a sentence is one line."""
    rows, texts, codes = read(SEVERAL.to_markdown())
    assert rows[0] == ["check", "dtype", "status", "figure", "what it means"]
    figure = "0.125 relative update error at step 100 (bound 0.2)"
    assert rows[1:] == [
        ["formula", "float32", "pass", figure, "As documented."],
        ["formula", "bfloat16", "differs", figure, "As documented."],
        ["closure", "-", "fails", "-", NASTY.replace("\n", " ")],
        ["nesterov", "-", "not applicable", "-", "Nothing to ask."],
    ]
    assert texts[0] == "Audit of train.make.<locals>.AdamW"
    assert "python 3.11, torch 2.13; on cpu, float32, bfloat16; 1.2 s" in texts[1]
    assert texts[2] == "Not all checks hold: 1 pass, 1 differ, 1 fail, 1 not applicable."
    assert codes == [CODE + "\n"]


def test_markdown_of_what_holds():
    """It has no cases to reproduce."""
    rows, texts, codes = read(passport(check(reproduce="print(1)")).to_markdown())
    assert len(rows) == 2
    assert texts[2] == "All checks hold: 1 pass, 0 differ, 0 fail, 0 not applicable."
    assert not codes


def printed(shown, width, **options):
    """What a console of this width writes."""
    out = io.StringIO()
    Console(file=out, width=width, **options).print(shown)
    return out.getvalue()


def test_the_table_of_a_wide_terminal():
    """One line for each check that applies, without markup and without colours where there are none."""
    text = printed(SEVERAL, 1000, no_color=True)
    assert "\x1b" not in text
    lines = [line.split("  ") for line in text.splitlines()]
    found = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    figure = "0.125 relative update error at step 100 (bound 0.2)"
    assert ["formula", "float32", "pass", figure, "As documented."] in found
    assert ["formula", "bfloat16", "differs", figure, "As documented."] in found
    assert ["closure", "-", "fails", "-", NASTY.replace("\n", " ")] in found
    assert ["not applicable: nesterov"] in found
    assert found[-1] == ["Not all checks hold: 1 pass, 1 differ, 1 fail, 1 not applicable"]


def test_the_table_of_a_narrow_terminal():
    """Nothing is cut off: a word that is too long goes on in the next line."""
    text = printed(SEVERAL, 60) + printed(passport(check(consequence="x" * 200)), 60)
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "x" * 200 in "".join(text.split())
    assert "…" not in text
    for words in ("bfloat16", "differs", "fails", "(bound 0.2)", "got 'a|b'"):
        assert words in text


def test_the_table_without_rich(monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "rich.text", None)
    with pytest.raises(ImportError, match=r"gaudi3_rt\[cli\]"):
        SEVERAL.__rich__()


def test_picture(tmp_path):
    """A curve and a bound for each dtype, on logarithmic axes."""
    SEVERAL.plot(tmp_path / "audit.png")
    data = (tmp_path / "audit.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (960, 540)
    # matplotlib draws letters as paths, but writes each text into a comment
    SEVERAL.plot(tmp_path / "audit.svg")
    text = (tmp_path / "audit.svg").read_text(encoding="utf-8")
    for words in ("float32: pass", "bfloat16: differs", "bfloat16: bound at step 100, 0.2", "step"):
        assert f"<!-- {words} -->" in text
    assert "relative update error" in text
    assert "10^{-1}" in text  # of errors
    assert "10^{2}" in text  # of steps


def test_picture_of_what_an_axis_does_not_have(tmp_path):
    """Zero and infinity are left out, and the legend says so."""
    curve = ((1, 0.0), (10, 0.5), (100, math.inf), (1000, math.nan))
    figure = Figure(value=math.nan, unit="relative update error", bound=math.inf)
    passport(check(dtype="float32", curve=curve, figure=figure)).plot(tmp_path / "audit.svg")
    text = (tmp_path / "audit.svg").read_text(encoding="utf-8")
    assert "exact at step 1; not finite at step 100, 1000" in text
    assert "bound" not in text


@pytest.mark.parametrize("curve", [(), ((1, 0.0),), ((1, math.inf),)])
def test_no_picture_of_nothing(curve, tmp_path):
    """One clear error, and no file."""
    with pytest.raises(ParameterValidationError, match="no curve to plot"):
        passport(check(dtype="float32", curve=curve)).plot(tmp_path / "audit.png")
    assert not list(tmp_path.iterdir())


def test_no_picture_without_matplotlib(monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"gaudi3_rt\[examples\]"):
        SEVERAL.plot("nowhere.png")


def test_the_page_names_every_check():
    """Once, with its question."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    table = page.split("| checks | question |\n|---|---|\n")[1].split("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(CHECKS)
