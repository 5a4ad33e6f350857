"""What does storing parameters or moments in fewer bytes cost in the loss of a training?

The model of ``train_stdlib.py`` is trained with FusedAdamW and each storage on the same batches from the same weights,
with several seeds. How far the float32 runs with different seeds lie apart, their *spread* (standard deviation), is the
measure: a storage whose loss differs from float32 by a fraction of it costs nothing that another seed would not.

Only storage differs. The model computes in float32 for all, with bfloat16 parameters converted for each use, and
gradients arrive in the parameters' dtype. bfloat16 parameters begin as the rounded float32 ones.

What was chosen, and why:

- lr 1e-3, half of the demo's, with its schedule: up, then down to a tenth. bfloat16 has 8 bits of precision: rounded to
  nearest, a parameter stays as it is when its update is below 1/512 of it. An update of AdamW is at most about as large
  as lr, so at the end of the schedule every parameter above 0.05 stands still, and weight decay, which takes at most
  1e-4 of a parameter, alone moves none at any time. Trainings usually end so; a larger lr would hide it.
- 600 steps. Rounding to nearest loses more with every step; half of the difference is there after 300.
- betas are torch's defaults. (0.9, 0.999) is harder for codes of moments than the demo's (0.9, 0.95), because a second
  moment is coded a thousand times before it is forgotten.
- A model of 108 thousand parameters, so that 55 runs take some minutes on 2 cores. Its matrices have 4096 elements and
  more, so that they are stored in blocks; its vectors are not, and keep float32 moments.

Run it with ``python examples/compare_storage.py``; ``--help`` lists the settings. It prints a table and writes a plot
and a JSON file with all numbers to ``build/storage/``. The numbers are the same for the same seeds on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import signal
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from stdlib_model import Transformer, read_text
from stdlib_training import (
    clear_frame,
    decay_groups,
    draw_batch,
    machine,
    make_folder,
    positive,
    schedule,
    validate,
    whole,
)
from torch import Tensor
from tqdm import tqdm

from gaudi3_rt.optim import FusedAdamW, Options

WIDTH, LAYERS, HEADS = 64, 2, 2
CONTEXT, BATCH_SIZE = 32, 16
SMOOTH = 50  # steps that a point of the curves is the mean of

NEAREST, EXACT, CODED = "#c44e52", "#2b5c8a", "#55a868"
COLORS = {
    NEAREST: "bfloat16 parameters, rounded to nearest",
    EXACT: "bfloat16 parameters, stochastic or with a master",
    CODED: "float32 parameters, moments in fewer bytes",
}


@dataclass(frozen=True)
class Storage:
    """One way to store parameters and moments."""

    label: str
    dtype: torch.dtype
    options: Options
    color: str


def _bf16(label: str, options: Options, color: str = EXACT) -> Storage:
    return Storage(f"bfloat16, {label}", torch.bfloat16, options, color)


def _moments(label: str, dtype: torch.dtype) -> Storage:
    return Storage(f"float32, {label} moments", torch.float32, {"moments_dtype": dtype}, CODED)


REFERENCE = "float32"
STORAGES = {
    REFERENCE: Storage("float32", torch.float32, {}, CODED),
    "bf16-nearest": _bf16("nearest", {}, NEAREST),
    "bf16-nearest-float32": _bf16("nearest, float32 moments", {"moments_dtype": torch.float32}, NEAREST),
    "bf16-stochastic": _bf16("stochastic", {"rounding": "stochastic"}),
    "bf16-stochastic-int8": _bf16("stochastic, int8 moments", {"rounding": "stochastic", "moments_dtype": torch.int8}),
    "bf16-split": _bf16("split master", {"master": "split"}),
    "bf16-master": _bf16("float32 master", {"master": "float32"}),
    "bf16-moments": _moments("bfloat16", torch.bfloat16),
    "int8-moments": _moments("int8", torch.int8),
    "e4m3fn-moments": _moments("float8_e4m3fn", torch.float8_e4m3fn),
    "e5m2-moments": _moments("float8_e5m2", torch.float8_e5m2),
}


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    steps: int
    seeds: int
    storage: list[str]
    lr: float
    workers: int
    out: Path


@dataclass(frozen=True)
class Run:
    """What one training gave."""

    losses: list[float]  # of the batches
    validation_loss: float
    bytes_per_parameter: float  # of parameters and state, without gradients


@dataclass(frozen=True)
class Summary:
    """The runs of one storage, one for each seed, against those in float32."""

    bytes_per_parameter: float
    mean_loss: float
    spread: float
    differences: list[float]  # of the loss to that of float32 with the same seed
    mean_difference: float
    in_spreads: float  # the mean difference in units of float32's spread


# The training

_text = functools.cache(read_text)


def train(name: str, seed: int, settings: Settings) -> Run:
    """One training from its first weights to its validation."""
    text, validation = _text()
    storage = STORAGES[name]
    torch.manual_seed(seed)
    model = Transformer(WIDTH, LAYERS, HEADS).to(storage.dtype)
    options: Options = {"max_grad_norm": 1.0, "seed": seed, **storage.options}
    optimizer = FusedAdamW(decay_groups(model), settings.lr, **options)
    scheduler = schedule(optimizer, settings.steps)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(inputs: Tensor, targets: Tensor) -> Any:
        wide = {key: parameter.float() for key, parameter in model.named_parameters()}
        return torch.func.functional_call(model, wide, (inputs, targets))

    losses = []
    for _ in range(settings.steps):
        loss = loss_of(*draw_batch(text, BATCH_SIZE, CONTEXT, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return Run(losses, validate(loss_of, validation, CONTEXT), bytes_per_parameter(optimizer))


def bytes_per_parameter(optimizer: torch.optim.Optimizer) -> float:
    """Of the parameters and all state but the step counters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = [value for own in optimizer.state.values() for key, value in own.items() if key != "step"]
    return float(sum(tensor.nbytes for tensor in [*parameters, *state]) / sum(p.numel() for p in parameters))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, and the parent has the word
    torch.set_num_threads(1)  # a model this small gains more from runs side by side


def train_all(settings: Settings) -> dict[str, list[Run]]:
    """The runs of each storage, one for each seed."""
    tasks = [(name, seed) for name in settings.storage for seed in range(settings.seeds)]
    runs: dict[str, list[Run]] = {name: [] for name in settings.storage}
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(settings.workers, spawn, _start_worker)
    try:
        done = pool.map(train, *zip(*tasks, strict=True), [settings] * len(tasks))
        for (name, seed), run in zip(tasks, tqdm(done, total=len(tasks), disable=not sys.stderr.isatty()), strict=True):
            if not math.isfinite(run.validation_loss):
                sys.exit(f"the loss with {name} and seed {seed} is {run.validation_loss}; try a smaller --lr")
            runs[name].append(run)
            if not sys.stderr.isatty():
                print(f"{name}, seed {seed}: validation loss {run.validation_loss:.4f}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return runs


# The report


def summarise(runs: dict[str, list[Run]]) -> dict[str, Summary]:
    """Every storage against float32."""
    reference = [run.validation_loss for run in runs[REFERENCE]]
    unit = statistics.stdev(reference)
    summaries = {}
    for name, its in runs.items():
        losses = [run.validation_loss for run in its]
        differences = [ours - theirs for ours, theirs in zip(losses, reference, strict=True)]
        mean = statistics.fmean(differences)
        summaries[name] = Summary(
            its[0].bytes_per_parameter,
            statistics.fmean(losses),
            statistics.stdev(losses),
            differences,
            mean,
            mean / unit,
        )
    return summaries


def table(summaries: dict[str, Summary]) -> str:
    """The report as text."""
    rows = [("storage", "bytes", "loss", "spread", "difference", "in spreads")]
    rows += [
        (
            STORAGES[name].label,
            f"{its.bytes_per_parameter:.2f}",
            f"{its.mean_loss:.4f}",
            f"{its.spread:.4f}",
            f"{its.mean_difference:+.4f}" if name != REFERENCE else "",
            f"{its.in_spreads:+.2f}" if name != REFERENCE else "",
        )
        for name, its in summaries.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            "bytes: of parameter and state, per parameter; loss: validation, nats per character, mean over seeds;",
            "spread: its standard deviation over seeds; difference: to float32 with the same seed, mean over seeds;",
            "in spreads: the difference in units of float32's spread",
        ]
    )


def smoothed(runs: list[Run]) -> list[float]:
    """The training loss: mean over seeds and the last steps."""
    means = [statistics.fmean(losses) for losses in zip(*(run.losses for run in runs), strict=True)]
    return [statistics.fmean(means[max(0, step - SMOOTH) : step]) for step in range(1, len(means) + 1)]


def plot(runs: dict[str, list[Run]], summaries: dict[str, Summary], path: Path) -> None:
    """Differences of the final loss on the left, how they came about on the right."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    others = [name for name in runs if name != REFERENCE]
    spread = summaries[REFERENCE].spread
    seeds = len(runs[REFERENCE])

    left.axvspan(-spread, spread, color="0.88", lw=0, label=f"spread of float32 over {seeds} seeds (\u00b1 one)")
    left.axvline(0, color="0.5", lw=0.8)
    for place, name in enumerate(others):
        its, color = summaries[name], STORAGES[name].color
        left.plot(its.differences, [place] * seeds, "o", color=color, ms=5, alpha=0.5, mew=0)
        left.plot(its.mean_difference, place, "|", color=color, ms=18, mew=2.2)
    labels = [
        f"{STORAGES[name].label}\n{summaries[name].bytes_per_parameter:.1f} bytes per parameter" for name in others
    ]
    left.set_yticks(range(len(others)), labels, fontsize=9)
    left.set(
        ylim=(len(others) - 0.4, -0.6),
        title="Validation loss minus that of float32: seeds (dots), mean (bars)",
        xlabel=f"nats per character; float32 itself: {summaries[REFERENCE].mean_loss:.3f}, "
        f"{summaries[REFERENCE].bytes_per_parameter:.0f} bytes",
    )
    left.legend(loc="lower right", framealpha=0.9, edgecolor="none")

    reference = smoothed(runs[REFERENCE])
    steps = range(1, len(reference) + 1)
    marker = "o" if len(steps) == 1 else ""  # a line through one point cannot be seen
    right.axhline(0, color="0.5", lw=0.8)
    for name in others:
        curve = [ours - theirs for ours, theirs in zip(smoothed(runs[name]), reference, strict=True)]
        right.plot(steps, curve, color=STORAGES[name].color, lw=1.3, alpha=0.8, marker=marker)
    for color in dict.fromkeys(STORAGES[name].color for name in others):
        right.plot([], [], color=color, lw=2, label=COLORS[color])
    right.set(title=f"Training loss minus that of float32, mean over {SMOOTH} steps", xlabel="step")
    right.legend(loc="upper left", framealpha=0.9, edgecolor="none", fontsize=9)
    for axes in (left, right):
        clear_frame(axes)
    figure.savefig(path, dpi=120, format="png")


def report(runs: dict[str, list[Run]], settings: Settings) -> None:
    """Prints the table and writes the plot and the numbers."""
    summaries = summarise(runs)
    print(table(summaries))
    facts = {
        "machine": machine(),
        "settings": {**dataclasses.asdict(settings), "out": str(settings.out)},
        "summaries": {name: dataclasses.asdict(its) for name, its in summaries.items()},
        "runs": {name: [dataclasses.asdict(run) for run in its] for name, its in runs.items()},
    }
    numbers, picture = settings.out / "compare_storage.json", settings.out / "compare_storage.png"
    numbers.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    plot(runs, summaries, picture)
    print(f"\nwrote {numbers}\nwrote {picture}")


# The command line


def parse(arguments: list[str] | None = None) -> Settings:
    """Reads the command line; leaves with one clear sentence if it cannot be."""
    parser = argparse.ArgumentParser(
        description="Train a small transformer with each storage of parameters and moments, and compare with float32.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=whole(1), default=600, help="steps of each run")
    add("--seeds", type=whole(2), default=5, help="runs of each storage")
    add(
        "--storage",
        nargs="+",
        choices=STORAGES,
        default=list(STORAGES),
        metavar="NAME",
        help=f"storages to compare with {REFERENCE}: {', '.join(STORAGES)}",
    )
    add("--lr", type=positive, default=1e-3, help="learning rate after warm-up")
    add("--workers", type=whole(1), default=os.cpu_count() or 1, help="processes that train side by side")
    add("--out", type=Path, default=Path("build/storage"), help="folder for the plot and the numbers")
    settings = Settings(**vars(parser.parse_args(arguments)))
    make_folder(parser, settings.out)
    # In the order of the list above, float32 first.
    storage = [name for name in STORAGES if name in {REFERENCE, *settings.storage}]
    return dataclasses.replace(settings, storage=storage)


def main() -> int:
    """Returns the exit code."""
    settings = parse()
    try:
        report(train_all(settings), settings)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C before there was anything to report", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
