"""What is left of the races: a table each, a summary, a CSV file and a chart."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import LIMIT, OURS, Spread, Wanted, quantiles
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from questions import BEST
from races import Outcome, Race
from report import WORKLOADS, caption, describe_machine, short, stems

__all__ = ["describe_machine", "summary", "table", "write"]

LEGEND = f"""\
ms: median [fastest]. GB/s: bytes of an ideal implementation over the median, so that passes too many show. of limit:
share of the speed of that traffic without arithmetic. / ours: how many times faster ours is, from the times of the same
round, median [least..most]. first: seconds to make it and run it once, with what it compiles if that is not kept from
an earlier run. state: measured bytes an element.
{WORKLOADS} A wanted figure that was missed (NO) fails nothing."""

_OURS, _PEER, _LIMIT = "#1f6fb4", "#70757f", "#e3b23c"


# Tables


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def table(race: Race) -> str:
    """All rivals of a race; the lost ones with their errors."""
    ran = [("", "ms", "GB/s", "of limit", "/ ours", "first", "state", "results")]
    ran += [_cells(race, label, outcome) for label, outcome in race.outcomes.items() if not outcome.error]
    lost = [(f"  {label}", outcome.error) for label, outcome in race.outcomes.items() if outcome.error]
    title = f"{race.question.name}: {race.workload.name}"
    return "\n".join([title + _formula(race), *_aligned(ran), *(_aligned(lost) if lost else ()), ""])


def _formula(race: Race) -> str:
    """The bytes that are counted: ``AdamW: 28 bytes an element: read grad, update param, exp_avg, exp_avg_sq``."""
    if not race.question.traffic:
        return " (not limited by memory)"
    passes = []
    for one in race.question.traffic:
        parts = [(word, names) for word, names in (("read", one.read), ("update", one.update)) if names]
        passes.append(", ".join(f"{word} {' '.join(names)}" for word, names in parts))
    return f" ({race.question.bytes_per_element:.4g} bytes an element: {'; '.join(passes)})"


def _cells(race: Race, label: str, outcome: Outcome) -> tuple[str, ...]:
    rate = _rate(race, label)
    started = outcome.started
    return (
        f"  {label}",
        _milliseconds(outcome.seconds),
        "-" if rate is None else f"{rate:.1f}",
        _median(race.row(None, ours=label).share) if label != LIMIT else "-",
        _range(race.row(label).speed) if label != OURS else "-",
        "-" if started is None else f"{started.seconds:.1f}",
        "-" if started is None or label == LIMIT or race.question.clips else f"{started.state_bytes:.1f}",
        _agreement(race, label),
    )


def _agreement(race: Race, label: str) -> str:
    if label in {OURS, LIMIT}:
        return ""
    rtol, atol = race.question.tolerance
    excess = race.outcomes[label].excess
    if excess is None:
        return f"not compared: {race.question.entrants[label].differs or 'ours did not run'}"
    if not race.agrees(label):
        return f"DIFFER by {excess:.1e} more than {rtol:g} of them"
    return f"equal to within {rtol:g} of them + {atol:g}"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{short(statistics.median(seconds))} [{short(min(seconds))}]" if seconds else "-"


def _median(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f}"


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f} [{spread.least:.2f}..{spread.most:.2f}]"


def _rate(race: Race, label: str) -> float | None:
    row = race.row(None, ours=label)
    return row.gigabytes_per_second if label in row.samples else None


def summary(races: Sequence[Race], machine: Mapping[str, Any]) -> str:
    """Ours and the best peer of each race, with what was wanted."""
    lines = [("", "tensors", "ours ms", "best ms", "limit ms", "best/ours", "of limit", "GB/s", "best peer", "wanted")]
    for race in races:
        best = race.best_peer
        row = race.row(best)
        rate = _rate(race, OURS)
        lines.append(
            (
                race.question.name,
                race.workload.name,
                *(_milliseconds(row.samples.get(label, ())) for label in (OURS, best or "", LIMIT)),
                _range(row.speed),
                _median(row.share),
                "-" if rate is None else f"{rate:.1f}",
                best or "none ran",
                ", ".join(f"{wanted} {_verdict(race, wanted)}" for wanted in race.wanted),
            )
        )
    return "\n".join([caption(machine), "", *_aligned(lines), "", LEGEND])


def _verdict(race: Race, wanted: Wanted) -> str:
    return {True: "yes", False: "NO", None: "not known"}[race.reached(wanted)]


# Files


def write(races: Sequence[Race], machine: Mapping[str, Any], directory: Path, *, keep: bool) -> list[Path]:
    """Writes CSV and chart, and once more to ``bench/results`` to keep them.

    Returns:
        The files.
    """
    written = []
    for stem in stems("peers", machine, directory, keep=keep):
        data, picture = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.png")
        lines = [_record(race, label, machine) for race in races for label in race.outcomes]
        with data.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys())
            writer.writeheader()
            writer.writerows(lines)
        _chart(races, machine).savefig(picture, dpi=110)
        written += [data, picture]
    return written


def _record(race: Race, label: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    outcome = race.outcomes[label]
    speed, share = race.row(label).speed, race.row(None, ours=label).share
    figures = quantiles(outcome.seconds) if outcome.seconds else {}
    role = "limit" if label == LIMIT else "peer" if label in race.question.peers else "ours"
    aims = [w for w in race.wanted if label == (race.best_peer if w.rival == BEST else w.rival)]
    return {
        **{key: machine[key] for key in ("date", "commit", "dirty", "cpu", "cores", "threads", "isa", "torch")},
        "load_at_start": machine["load_at_start"][0],
        "question": race.question.name,
        "tensors": race.workload.name,
        "rival": label,
        "role": role,
        "best_peer": label == race.best_peer,
        "error": outcome.error,
        "rounds": len(outcome.seconds),
        **{f"{name}_ms": 1e3 * figures[name] if figures else "" for name in ("min", "p20", "p50", "p80")},
        "first_run_s": "" if outcome.started is None else outcome.started.seconds,
        "state_bytes": "" if outcome.started is None else outcome.started.state_bytes,
        "ideal_bytes": race.moved_bytes,
        "gb_per_s": _rate(race, label) or "",
        "share_of_limit": "" if share is None else share.median,
        "over_ours": "" if speed is None else speed.median,
        "over_ours_least": "" if speed is None else speed.least,
        "over_ours_most": "" if speed is None else speed.most,
        "wanted": "; ".join(str(wanted) for wanted in aims),
        "reached": "; ".join(_verdict(race, wanted) for wanted in aims),
        "results": _agreement(race, label),
    }


def _chart(races: Sequence[Race], machine: Mapping[str, Any]) -> Figure:
    """A panel per workload: how many times faster than the best peer ours is, and the memory limit would be."""
    names = list(dict.fromkeys(race.workload.name for race in races))
    questions = list(dict.fromkeys(race.question.name for race in races))
    figure = Figure(figsize=(3 + 4.6 * len(names), 2 + 0.6 * len(questions)), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axvline(1, color=_PEER, linewidth=1.5, label="best peer")
        for race in races:
            if race.workload.name == name:
                _draw(axes, race, questions.index(race.question.name))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(questions)), questions)
    panels[0].set_ylim(len(questions) - 0.5, -0.8)
    marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside upper right", fontsize=8, ncols=len(marks), frameon=False)
    figure.supxlabel(f"times faster than the best peer\n{WORKLOADS}", fontsize=9)
    figure.suptitle(
        "Ours against the best peer and the memory limit\n" + caption(machine), fontsize=9, x=0.01, ha="left"
    )
    return figure


def _draw(axes: Axes, race: Race, y: int) -> None:
    best = race.best_peer
    row = race.row(best)
    times = [(label, statistics.median(row.samples[label])) for label in (OURS, best, LIMIT) if label in row.samples]
    text = "   ".join(f"{label} {short(seconds)} ms" for label, seconds in times)
    if row.speed is not None:
        text = f"{row.speed.median:.2f}x   {text}"
        axes.barh(y, row.speed.median - 1, left=1, height=0.34, color=_OURS, label="ours")
    else:
        text = f"ours: -   {text}"
    if row.possible_speed is not None:
        axes.plot(row.possible_speed.median, y, "|", markersize=13, markeredgewidth=3, color=_LIMIT, label="limit")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the line of the best peer
    axes.text(0.01, y - 0.36, text, fontsize=7, va="center", transform=axes.get_yaxis_transform(), bbox=box)
