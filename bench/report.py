"""What is left of a run: a table for the terminal, a JSON file and a chart."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import LIMIT, Row, Spread, Wanted, quantiles
from matplotlib.figure import Figure

import gaudi3_rt

HERE = Path(__file__).parent
COLUMNS = (
    "",
    "tensors",
    "ours ms",
    "torch ms",
    "limit ms",
    "torch/ours",
    "torch/limit",
    "limit/ours",
    "GB/s",
    "wanted",
)
WORKLOADS = "a: one tensor of 32 Mi; b: the 148 tensors of GPT-2 small; c: 2000 tensors of 1024."
LEGEND = f"""\
ms: median [fastest]. torch/ours: how many times faster ours is, from the times of the same round, median [least..most].
torch/limit: how many times faster the memory traffic alone is. limit/ours: share of that limit which ours reaches.
{WORKLOADS} In a row "against ..." that rival
stands in the columns of torch. A wanted figure that was missed (NO) fails nothing."""


def describe_machine(load_at_start: tuple[float, float, float]) -> dict[str, Any]:
    """What the figures were measured on, and with what."""
    build = gaudi3_rt.build_info()
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=10", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain")),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": build.isa,
        "compiler": build.compiler,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_at_start": load_at_start,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *arguments], cwd=HERE, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    return done.stdout.strip() if done.returncode == 0 else None


# The table


def table(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """All rows, with what they mean and what they were measured on."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([caption(machine), "", *lines, "", LEGEND])


def caption(machine: Mapping[str, Any]) -> str:
    """Machine, versions and commit in one line."""
    commit = machine["commit"] + (" with changes" if machine["dirty"] else "")
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['isa']}, "
        f"torch {machine['torch']}, commit {commit}, load {machine['load_at_start'][0]:.1f} at the start"
    )


def _cells(row: Row) -> tuple[str, ...]:
    speed, rate = row.speed, row.gigabytes_per_second
    return (
        row.question,
        row.workload,
        _milliseconds(row, row.ours),
        _milliseconds(row, row.rival),
        _milliseconds(row, LIMIT),
        "-" if speed is None else f"{speed.median:.2f} [{speed.least:.2f}..{speed.most:.2f}]",
        _median(row.possible_speed),
        _median(row.share),
        "-" if rate is None else f"{rate:.1f}",
        ", ".join(_verdict(row, wanted) for wanted in row.wanted),
    )


def _milliseconds(row: Row, name: str) -> str:
    seconds = row.samples.get(name)
    return "-" if seconds is None else f"{short(statistics.median(seconds))} [{short(min(seconds))}]"


def short(seconds: float) -> str:
    """Milliseconds with three digits."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _median(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f}"


def _verdict(row: Row, wanted: Wanted) -> str:
    return f"{wanted} {'yes' if row.reached(wanted) else 'NO'}"


# Files


def write(rows: Sequence[Row], machine: Mapping[str, Any], directory: Path, *, keep: bool) -> list[Path]:
    """Writes JSON and chart, and once more to ``bench/results`` to keep them.

    Returns:
        The files.
    """
    written = []
    for stem in stems("bench", machine, directory, keep=keep):
        data, picture = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.png")
        data.write_text(json.dumps({"machine": machine, "rows": [_as_dict(row) for row in rows]}, indent=1) + "\n")
        _chart(rows, machine).savefig(picture, dpi=110)
        written += [data, picture]
    return written


def stems(name: str, machine: Mapping[str, Any], directory: Path, *, keep: bool) -> list[Path]:
    """Where a run leaves its files, without suffix: in ``directory``, which is made, and where results are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    found = [directory / name]
    if keep:
        changed = "-changed" if machine["dirty"] else ""
        suffix = "" if name == "bench" else f"-{name}"
        found.append(HERE / "results" / f"{machine['date'][:10]}-{machine['commit']}{changed}{suffix}")
    return found


def _as_dict(row: Row) -> dict[str, Any]:
    spreads = {"torch/ours": row.speed, "torch/limit": row.possible_speed, "limit/ours": row.share}
    return {
        "question": row.question,
        "workload": row.workload,
        "rounds": len(row.samples[row.ours]),
        "seconds": {
            role: {"name": name, **quantiles(row.samples[name])}
            for role, name in (("ours", row.ours), ("torch", row.rival), ("limit", LIMIT))
            if name in row.samples
        },
        "ratios": {name: vars(spread) for name, spread in spreads.items() if spread is not None},
        "gigabytes_per_second": row.gigabytes_per_second,
        "wanted": [{"figure": str(wanted), "reached": row.reached(wanted)} for wanted in row.wanted],
    }


def _chart(rows: Sequence[Row], machine: Mapping[str, Any]) -> Figure:
    """One group of bars per row: times relative to the rival's, which is 1, so that all sizes fit on one axis."""
    compared = [(row, row.speed) for row in rows]
    drawn = [(row, speed) for row, speed in compared if speed is not None]
    figure = Figure(figsize=(11, 1.2 + 0.62 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    longest = 1.0
    for i, (row, speed) in enumerate(drawn):
        theirs = statistics.median(row.samples[row.rival])
        bars = [
            (f"{row.rival}  {short(theirs)} ms", 1.0, "#b8bcc4"),
            (
                f"{row.ours}  {short(statistics.median(row.samples[row.ours]))} ms  {speed.median:.2f}x",
                1 / speed.median,
                "#1f6fb4",
            ),
        ]
        if row.possible_speed is not None:
            possible = row.possible_speed.median
            limit = short(statistics.median(row.samples[LIMIT]))
            bars.append((f"limit  {limit} ms  {possible:.2f}x", 1 / possible, "#e3b23c"))
        for j, (label, length, color) in enumerate(bars):
            y = i + 0.27 * (j - 1)
            axes.barh(y, length, height=0.25, color=color)
            axes.text(length + 0.01, y, label, va="center", fontsize=7.5)
            longest = max(longest, length)
    axes.set_yticks(range(len(drawn)), [f"{row.question}: {row.workload}".removesuffix(": ") for row, _ in drawn])
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * longest)
    axes.set_xlabel(f"time relative to the rival's (shorter is better); x: how many times faster than it\n{WORKLOADS}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("gaudi3_rt against torch and the memory limit\n" + caption(machine), fontsize=9)
    return figure
