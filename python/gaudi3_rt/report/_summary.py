"""The figures of a run in a few numbers, as they stand on its page and in the terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gaudi3_rt.events import RunFinished, RunStarted
from gaudi3_rt.report._gather import RESUMED, Floats, RunData

LAST_STEPS = 20
"""Of which the loss at the end is the mean: single batches differ more than what one wants to know."""


def throughput(run: RunData, name: str) -> tuple[Any, Floats]:
    """Numbers of steps, and ``samples`` or ``tokens`` of all ranks per second of the slowest one.

    Only steps that all ranks have told of: what a rank did not tell is not nothing.
    """
    numbers, counts = run.over_ranks(name)
    _, seconds = run.over_ranks("seconds")
    is_told = np.isfinite(counts) & (seconds > 0)
    whole = is_told.sum(axis=0) >= np.minimum(run.expected_ranks(numbers), len(run.ranks))
    total = np.where(is_told, counts, 0)[:, whole].sum(axis=0)
    return numbers[whole], total / np.where(is_told, seconds, 0)[:, whole].max(axis=0, initial=0)


def split(run: RunData) -> dict[str, float]:
    """The share of each phase in the time of all steps of all ranks that tell phases apart; largest first."""
    seconds: dict[str, float] = {}
    for steps in run.ranks.values():
        for name in steps.phases:
            seconds[name] = seconds.get(name, 0.0) + (steps.total(name) or 0.0)
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda row: -row[1])
    return {name: part / total for name, part in largest_first} if total > 0 else {}


def summary(run: RunData) -> dict[str, Any]:
    """What is said of a run. What nobody measured is None.

    Returns:
        By name: ``run_id``, ``world_size``, ``outcome``, ``seconds`` (from the first start to the last thing known),
        ``restarts``, ``steps``, ``steps_kept`` (in a long history fewer), ``last_step``, ``samples`` and ``tokens``
        of all ranks, ``skipped_steps``,
        ``loss`` (mean over the last 20 steps and all ranks), ``samples_per_second``, ``tokens_per_second`` and
        ``step_seconds`` (medians over steps), ``phases`` (shares of the time), ``slowest_rank`` with the median
        seconds of its steps, ``anomalies`` by kind, ``checkpoints``, ``peak_memory_bytes`` by device,
        ``damaged_lines`` of the files, ``simulated``.
    """
    told = {name: _total(run, name) for name in ("samples", "tokens")}
    seconds = {rank: float(np.median(steps.seconds)) for rank, steps in run.ranks.items()}
    slowest = max(seconds, key=lambda rank: seconds[rank], default=None)
    return {
        "run_id": run.run_id,
        "world_size": run.world_size,
        "outcome": outcome(run),
        "seconds": run.ended - run.began,
        "restarts": len(run.restarts),
        "steps": max((steps.count for steps in run.ranks.values()), default=0),
        "steps_kept": max((len(steps.number) for steps in run.ranks.values()), default=0),
        "last_step": max((int(steps.number[-1]) for steps in run.ranks.values()), default=None),
        **told,
        "skipped_steps": max((int(steps.skipped.sum()) for steps in run.ranks.values()), default=0),
        "loss": _last_loss(run),
        **{f"{name}_per_second": _median(throughput(run, name)[1]) if told[name] else None for name in told},
        "step_seconds": _median(np.concatenate([[], *(steps.seconds for steps in run.ranks.values())])),
        "phases": split(run),
        "slowest_rank": None
        if slowest is None or len(seconds) == 1
        else {"rank": slowest, "step_seconds": seconds[slowest]},
        "anomalies": dict(Counter(one.kind for one in run.happenings if one.kind != RESUMED)),
        "checkpoints": len(run.checkpoints),
        "peak_memory_bytes": {
            f"{one.name} (rank {one.rank})": peak for one in run.devices if (peak := _peak(one.readings))
        },
        "damaged_lines": run.damaged_lines,
        "simulated": any(one.simulated for one in run.devices),
    }


def outcome(run: RunData) -> str:
    """How the last attempt ended: the worst that a rank says; ``not finished`` as long as not all have said it."""
    last: dict[int, str] = {}
    told: list[RunStarted | RunFinished] = [*run.starts, *run.finishes]
    for event in sorted(told, key=lambda event: event.time):
        if isinstance(event, RunStarted):
            last.pop(event.rank, None)
        else:
            code = "" if event.code is None else f" (code {event.code})"
            last[event.rank] = event.outcome if event.error is None else f"{event.outcome} by {event.error}{code}"
    said = Counter(last.values())
    bad = [one for one in said if one != "completed"]
    if bad:
        return bad[0] if len(bad) == 1 else ", ".join(sorted(bad))
    return "completed" if said.total() >= run.world_size else "not finished"


def _total(run: RunData, name: str) -> int | None:
    totals = [total for steps in run.ranks.values() if (total := steps.total(name)) is not None]
    return round(sum(totals)) if totals else None


def _last_loss(run: RunData) -> float | None:
    losses = [steps.given["loss"][-LAST_STEPS:] for steps in run.ranks.values()]
    return float(np.mean(np.concatenate(losses))) if losses and not all(np.isnan(one).all() for one in losses) else None


def _median(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) else None


def _peak(readings: Any) -> int | None:
    for name in ("memory_peak_bytes", "memory_allocated_bytes", "memory_used_bytes"):
        if np.isfinite(readings[name]).any():
            return int(np.nanmax(readings[name]))
    return None
