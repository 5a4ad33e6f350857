"""Histories of runs, written as a monitor writes them."""

from dataclasses import asdict

from gaudi3_rt._json import json_line
from gaudi3_rt.events import DeviceSampled, RunFinished, RunStarted, StepCompleted

BEGIN = 1_790_000_000.0
"""2026-09-21 14:13:20 UTC."""


def lines(events):
    """One line for each."""
    for event in events:
        fields = {name: value for name, value in asdict(event).items() if value is not None}
        yield json_line({"event": type(event).__name__, **fields}) + "\n"


def write(folder, by_rank):
    """A folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, events in by_rank.items():
        (folder / f"history-rank{rank}.jsonl").write_text("".join(lines(events)), encoding="utf-8")
    return folder


def started(rank=0, world_size=1, start_step=0, at=0.0):
    """The beginning of an attempt."""
    return RunStarted(
        time=BEGIN + at, run_id="7", rank=rank, local_rank=rank, world_size=world_size, start_step=start_step
    )


def finished(step, at, rank=0, outcome="completed", error=None, code=None):
    """Its end."""
    return RunFinished(time=BEGIN + at, step=step, outcome=outcome, error=error, code=code, rank=rank)


def step(number, seconds=0.1, at=None, **fields):
    """One step of so many seconds; without a time, one after the other from the beginning on."""
    return StepCompleted(time=BEGIN + (number * seconds if at is None else at), step=number, seconds=seconds, **fields)


def sample(at, device="simulated:0", **fields):
    """What a device said."""
    return DeviceSampled(
        **{"time": BEGIN + at, "device": device, "simulated": device.startswith("simulated"), "interval_seconds": 1.0}
        | fields
    )
