"""The page of audited optimizers: a table of all, then for each what differs or fails, and lines that show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from report import describe_machine

from gaudi3_rt.numerics import Check, Passport
from gaudi3_rt.numerics._oracle import SPECIFICATIONS

if TYPE_CHECKING:
    from audit_peers import Result

__all__ = ["describe_machine", "line", "page"]

_STATUSES = ("pass", "differs", "fails", "not applicable")
_REMARK = "Beware"
"""Word of the sentences of checks that pass with a remark, as in ``noncontiguous``."""
_INTRODUCTION = """\
# The audit of other libraries

What [`audit`](audit.md) finds in optimizers that can be installed beside this package. `differs` and `fails` are words
of the audit: `differs` is another formula, default or set of options than the specification in the column `like`,
which the authors may have chosen; `fails` is an option that is taken and ignored, state that is lost, a parameter that
is not updated, a gradient that is changed, results that are not repeatable, or an error. Neither says that an optimizer
is unfit for what it was made for. Versions before and after may behave otherwise.

This page is written by `bench/audit_peers.py` ([how](../bench/README.md)); figures are not edited. Each is printed
again by `gaudi3-rt audit module:class --like … --markdown audit.md`, with a short program for each check."""
_READING = """\
The column `figure` has what was measured and, in brackets, the bound that it was compared with, of each dtype. Checks
that hold are left out below, unless they hold with a remark."""
_TIMM = (
    "timm's modules are imported alone, without its `__init__`, which needs a torchvision that was built for the same "
    "torch. torchao compiles its step for each shape and each set of options."
)


def counts(passport: Passport) -> dict[str, int]:
    """Checks of each status."""
    return {status: sum(check.status == status for check in passport.checks) for status in _STATUSES}


def line(result: Result) -> str:
    """What became of a subject, for the terminal."""
    if result.passport is None:
        return f"{result.subject.label}: not run: {result.error}"
    told = ", ".join(f"{count} {status}" for status, count in counts(result.passport).items())
    return f"{result.subject.label} {result.version}: {told} ({result.passport.seconds:.0f} s)"


def page(results: Sequence[Result], machine: Mapping[str, Any]) -> str:
    """All of it, as Markdown."""
    parts = [_INTRODUCTION, _circumstances(machine), _summary(results), _specifications(results), _TIMM]
    missing = [f"- {result.subject.label}: {_escaped(result.error)}" for result in results if result.passport is None]
    if missing:
        parts += ["Not run:", "\n".join(missing)]
    parts += ["## What differs", _READING]
    told = [text for result in results if (text := _section(result))]
    return "\n\n".join(parts + (told or ["Nothing."])) + "\n"


def _circumstances(machine: Mapping[str, Any]) -> str:
    commit = machine["commit"] + (" with changes" if machine["dirty"] else "")
    return (
        f"Measured on {machine['date'][:10]}, commit {commit}: {machine['cpu']}, {machine['cores']} cores, Python "
        f"{machine['python']}, torch {machine['torch']}, on the CPU, parameters in float32 and bfloat16."
    )


def _summary(results: Sequence[Result]) -> str:
    rows = ["| subject | version | like | ok | pass | differs | fails | n.a. |", "|---|---|---|---|--:|--:|--:|--:|"]
    for result in results:
        name = f"{_escaped(result.subject.label)} | {result.version or '-'} | {_escaped(result.subject.like)}"
        if result.passport is None:
            rows.append(f"| {name} | not run | - | - | - | - |")
        else:
            numbers = " | ".join(str(count) for count in counts(result.passport).values())
            rows.append(f"| {name} | {'yes' if result.passport.ok else 'no'} | {numbers} |")
    return "\n".join(rows)


def _specifications(results: Sequence[Result]) -> str:
    """Where the formulas are documented that torch has not."""
    ours = {result.subject.like for result in results if "." not in result.subject.like}
    told = [f"`{name}` is {SPECIFICATIONS[name].source}" for name in sorted(ours)]
    return "; ".join(["`torch.optim` classes are compared with their documentation", *told]) + "."


def _section(result: Result) -> str:
    """What differs in one subject; nothing if nothing does."""
    passport = result.passport
    told = [] if passport is None else [one for one in passport.checks if not one.ok or _REMARK in one.consequence]
    if passport is None or not told:
        return ""
    subject = result.subject
    title = f"### {_escaped(subject.label)} {result.version}"
    made = f"`{passport.subject}`, compared with `{passport.like}`."
    rows = ["| check | dtype | status | figure | what it means |", "|---|---|---|---|---|"]
    rows += [_row(same) for same in _merged(told)]
    parts = [title, made, "\n".join(rows)]
    names = {check.name for check in told}
    notes = [f"- `{name}`: {note}" for name, note in subject.notes.items() if name in names]
    if notes:
        parts.append("\n".join(notes))
    shown = zip(subject.shown, result.outputs, strict=True)
    parts += [f"{one.title}:\n\n```python\n{one.code}```\n\n```text\n{out}\n```" for one, out in shown]
    return "\n\n".join(parts)


def _merged(checks: Sequence[Check]) -> list[list[Check]]:
    """Checks that say the same of two dtypes are one row."""
    found: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        said = "" if check.figure is None else str(check.figure)
        found.setdefault((check.name, check.status, check.consequence, said), []).append(check)
    return list(found.values())


def _row(same: Sequence[Check]) -> str:
    check = same[0]
    dtypes = ", ".join(one.dtype for one in same) or "-"
    bounds = [one.figure.bound for one in same if one.figure is not None]
    texts = dict.fromkeys(f"{bound:.3g}" for bound in bounds if bound is not None)
    figure = "-" if check.figure is None else str(check.figure)
    figure += f" (bound {', '.join(texts)})" if texts else ""
    return f"| {check.name} | {dtypes} | {check.status} | {_escaped(figure)} | {_escaped(check.consequence)} |"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*<|\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", " ".join(text.split()))
