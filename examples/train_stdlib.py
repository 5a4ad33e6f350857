"""Does a model train the same with FusedAdamW as with torch's AdamW, and how much time does the optimizer take?

A small character-level transformer learns the source code of Python's standard library, text that every machine with
Python has. It is trained twice from the same initial weights on the same batches:

1. with ``torch.nn.utils.clip_grad_norm_`` followed by ``torch.optim.AdamW(fused=True)``,
2. with ``gaudi3_rt.optim.FusedAdamW(max_grad_norm=...)``, which clips inside its step.

The *tail* is the time between the end of ``backward()`` and the end of ``step()``: clipping and update, without
``zero_grad()`` and the scheduler. The two runs take turns, one step of the first and then one of the second, so that
whatever else the machine does slows both. The first step of either tail also creates the optimizer's state.

The loss curves part slowly: training amplifies a difference in the last bit of a float until single batches differ by
a tenth or two, while the averages stay together. The curves in the JSON file show it grow from the last bit.

Run it with ``make demo``, or ``python examples/train_stdlib.py --help`` for the settings. It prints a table and writes
a plot and a JSON file with all numbers to ``build/demo/``. Ctrl-C ends the training after the step at hand and reports
what was done.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
from matplotlib.figure import Figure
from stdlib_model import LONGEST_CONTEXT, Transformer, read_text
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
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import Self

from gaudi3_rt.optim import FusedAdamW

LAST_STEPS = 20  # the final train loss is their mean: single batches differ more than the runs do
PRINT_EVERY = 10
BETAS = (0.9, 0.95)
NAMES = {"torch": "torch.optim.AdamW", "gaudi3_rt": "FusedAdamW"}
TAILS = {"torch": "clip_grad_norm_ + torch.optim.AdamW(fused=True)", "gaudi3_rt": "FusedAdamW(max_grad_norm=...)"}


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    steps: int
    batch_size: int
    context: int
    width: int
    layers: int
    heads: int
    lr: float
    max_grad_norm: float
    seed: int
    threads: int
    out: Path


@dataclass(frozen=True)
class Result:
    """What one run gave; one entry per finished step."""

    losses: list[float]
    tail_ms: list[float]
    step_ms: list[float]
    train_loss: float
    validation_loss: float
    tail_median_ms: float
    tail_total_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Comparison:
    """What the second run gave against the first."""

    tail_ratio: float  # torch's median over ours
    largest_loss_difference: float
    largest_loss_difference_step: int


# The training


class Run:
    """One model with its optimizer, and what was measured of each step."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, tail: Callable[[], object], steps: int
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.tail = tail
        self.scheduler = schedule(optimizer, steps)
        self.losses: list[float] = []
        self.tail_ms: list[float] = []
        self.step_ms: list[float] = []

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Trains on one batch."""
        start = time.perf_counter()
        loss = self.model(inputs, targets)
        loss.backward()
        tail_start = time.perf_counter()
        self.tail()
        tail_end = time.perf_counter()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.losses.append(loss.item())
        self.tail_ms.append(1e3 * (tail_end - tail_start))
        self.step_ms.append(1e3 * (time.perf_counter() - start))


def start_runs(settings: Settings) -> dict[str, Run]:
    """Both runs, with equal weights."""
    torch.manual_seed(settings.seed)
    model = Transformer(settings.width, settings.layers, settings.heads)
    reference = copy.deepcopy(model)
    adamw = torch.optim.AdamW(decay_groups(reference), settings.lr, BETAS, fused=True)
    fused = FusedAdamW(decay_groups(model), settings.lr, BETAS, max_grad_norm=settings.max_grad_norm)

    def clip_and_step() -> None:
        nn.utils.clip_grad_norm_(reference.parameters(), settings.max_grad_norm)
        adamw.step()

    return {
        "torch": Run(reference, adamw, clip_and_step, settings.steps),
        "gaudi3_rt": Run(model, fused, fused.step, settings.steps),
    }


class Interrupt:
    """Notes a Ctrl-C instead of raising, so that both runs finish the step at hand. A second one raises as usual."""

    def __enter__(self) -> Self:
        """Takes over the signal."""
        self.seen = False
        self.previous = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.seen = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Gives it back."""
        signal.signal(signal.SIGINT, self.previous)


def train(runs: dict[str, Run], text: Tensor, settings: Settings) -> bool:
    """Trains both in turns; false if Ctrl-C ended it early. Either way both have done the same steps."""
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = sys.stderr.isatty()
    start = time.perf_counter()
    layout = "{n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"  # tqdm's own is cut off at 80 columns
    with Interrupt() as interrupt, tqdm(total=settings.steps, disable=not drawn, bar_format=layout) as bar:
        for done in range(1, settings.steps + 1):
            inputs, targets = draw_batch(text, settings.batch_size, settings.context, generator)
            for name, run in runs.items():
                run.step(inputs, targets)
                if not math.isfinite(run.losses[-1]):
                    sys.exit(f"the loss with {NAMES[name]} is {run.losses[-1]} at step {done}; try a smaller --lr")
            reference, ours = runs.values()
            speed = 2 * done * inputs.numel() / (time.perf_counter() - start)
            tails = f"{reference.tail_ms[-1]:.2f} / {ours.tail_ms[-1]:.2f}"
            bar.set_postfix_str(f"loss {ours.losses[-1]:.3f}, {speed:.0f} tokens/s, tail {tails} ms", refresh=False)
            bar.update()
            if not drawn and (done == 1 or done % PRINT_EVERY == 0 or done == settings.steps):
                line = (
                    f"step {done}/{settings.steps}: loss {ours.losses[-1]:.3f}, {speed:.0f} tokens/s, tail {tails} ms"
                )
                print(line, file=sys.stderr, flush=True)
            if interrupt.seen:
                break
    return done == settings.steps


# The report


def summarise(run: Run, validation: Tensor, settings: Settings) -> Result:
    """The numbers of one run."""
    return Result(
        losses=run.losses,
        tail_ms=run.tail_ms,
        step_ms=run.step_ms,
        train_loss=statistics.fmean(run.losses[-LAST_STEPS:]),
        validation_loss=validate(run.model, validation, settings.context),
        tail_median_ms=statistics.median(run.tail_ms),
        tail_total_s=sum(run.tail_ms) / 1e3,
        tokens_per_s=len(run.losses) * settings.batch_size * settings.context / (sum(run.step_ms) / 1e3),
    )


def compare(reference: Result, ours: Result) -> Comparison:
    """The second run against the first."""
    differences = [abs(a - b) for a, b in zip(reference.losses, ours.losses, strict=True)]
    largest = max(differences)
    return Comparison(reference.tail_median_ms / ours.tail_median_ms, largest, differences.index(largest) + 1)


def table(results: dict[str, Result], comparison: Comparison) -> str:
    """The report as text."""
    reference, ours = results.values()
    last = min(LAST_STEPS, len(ours.losses))
    rows = [("", *NAMES.values())]
    rows += [
        (label, *(f"{getattr(result, field):{layout}}" for result in (reference, ours)))
        for label, field, layout in (
            (f"train loss, mean of the last {last} steps", "train_loss", ".4f"),
            ("validation loss", "validation_loss", ".4f"),
            ("tail, median ms per step", "tail_median_ms", ".3f"),
            ("tail, total s", "tail_total_s", ".3f"),
            ("tokens/s", "tokens_per_s", ".0f"),
        )
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    largest, step = comparison.largest_loss_difference, comparison.largest_loss_difference_step
    return "\n".join(
        [
            *lines,
            "",
            f"largest difference between the loss curves: {largest:.2g} (step {step} of {len(ours.losses)})",
            f"median tail: FusedAdamW is {comparison.tail_ratio:.2f}x as fast as clip_grad_norm_ and torch.optim.AdamW",
        ]
    )


def plot(results: dict[str, Result], path: Path) -> None:
    """Loss curves on the left, the tail of every step on the right."""
    colors = {"torch": "#c44e52", "gaudi3_rt": "#2b5c8a"}
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = range(1, len(results["torch"].losses) + 1)
    marker = "o" if len(steps) == 1 else ""  # a line through one point cannot be seen

    # Single batches differ so much that of hundreds only a band is seen; the curves are in the running means.
    lines = {"torch": ("-", 3.2, 0.6), "gaudi3_rt": ("--", 1.5, 1.0)}  # dashed over wide: both are seen
    for name, result in results.items():
        style, width, alpha = lines[name]
        means = [statistics.fmean(result.losses[max(0, step - LAST_STEPS) : step]) for step in steps]
        left.plot(steps, result.losses, color=colors[name], lw=0.5, alpha=0.25)
        left.plot(steps, means, color=colors[name], ls=style, lw=width, alpha=alpha, marker=marker, label=NAMES[name])
    left.legend(frameon=False)
    left.set(title=f"Train loss, nats per character: batches (thin), mean of {LAST_STEPS} (thick)", xlabel="step")

    for name, result in results.items():
        median = result.tail_median_ms
        right.plot(steps, result.tail_ms, ".", color=colors[name], ms=5, alpha=0.4, mew=0)
        right.axhline(median, color=colors[name], lw=1.6, label=f"{TAILS[name]}: median {median:.2f} ms")
    # A few steps that the machine interrupted would press the others to the floor.
    every = [ms for result in results.values() for ms in result.tail_ms]
    top = 2.2 * max(result.tail_median_ms for result in results.values())
    above = sum(ms > top for ms in every)
    right.set(title="Optimizer tail, ms per step", xlabel="step", ylim=(0, top))
    if above:
        right.set_xlabel(f"step ({above} of {len(every)} points lie above the frame)")
    right.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    for axes in (left, right):
        clear_frame(axes)
    figure.savefig(path, dpi=120, format="png")


def report(runs: dict[str, Run], validation: Tensor, settings: Settings) -> None:
    """Prints the table and writes the plot and the numbers."""
    results = {name: summarise(run, validation, settings) for name, run in runs.items()}
    comparison = compare(*results.values())
    print(table(results, comparison))
    facts = {
        "machine": machine(),
        "settings": {**dataclasses.asdict(settings), "out": str(settings.out)},
        "parameters": count_parameters(runs),
        "finished_steps": len(runs["torch"].losses),
        "comparison": dataclasses.asdict(comparison),
        "runs": {name: dataclasses.asdict(result) for name, result in results.items()},
    }
    numbers, picture = settings.out / "train_stdlib.json", settings.out / "train_stdlib.png"
    numbers.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    plot(results, picture)
    print(f"\nwrote {numbers}\nwrote {picture}")


def count_parameters(runs: dict[str, Run]) -> int:
    """Of one of the two models."""
    return sum(p.numel() for p in runs["torch"].model.parameters())


# The command line


def parse(arguments: list[str] | None = None) -> Settings:
    """Reads the command line; leaves with one clear sentence if it cannot be."""
    parser = argparse.ArgumentParser(
        description="Train a small transformer with torch's AdamW and with FusedAdamW, and compare.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=whole(1), default=800, help="steps of each run")
    add("--batch-size", type=whole(1), default=8, help="sequences per step")
    add("--context", type=whole(1, LONGEST_CONTEXT), default=64, help="characters per sequence")
    add("--width", type=whole(1), default=192, help="size of the model's stream")
    add("--layers", type=whole(1), default=4, help="transformer blocks")
    add("--heads", type=whole(1), default=6, help="attention heads per block")
    add("--lr", type=positive, default=2e-3, help="learning rate after warm-up")
    add("--max-grad-norm", type=positive, default=1.0, help="gradients are clipped to this norm")
    add("--seed", type=whole(0), default=0, help="of the first weights and of the batches")
    add("--threads", type=whole(1, os.cpu_count() or 1), default=torch.get_num_threads(), help="threads of torch")
    add("--out", type=Path, default=Path("build/demo"), help="folder for the plot and the numbers")
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.width % (2 * settings.heads):
        parser.error(
            f"--width {settings.width} with --heads {settings.heads}: the width must be a multiple of "
            f"2 x heads = {2 * settings.heads}"
        )
    make_folder(parser, settings.out)
    return settings


def main() -> int:
    """Returns the exit code."""
    settings = parse()
    try:
        torch.set_num_threads(settings.threads)
        text, validation = read_text()
        runs = start_runs(settings)
        print(f"{count_parameters(runs)} parameters, {len(text)} characters to train on, {settings.threads} threads")
        complete = train(runs, text, settings)
        if not complete:
            print(f"stopped by Ctrl-C after {len(runs['torch'].losses)} of {settings.steps} steps")
        print()
        report(runs, validation, settings)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C before there was anything to report", file=sys.stderr)
        return 130
    return 0 if complete else 130


if __name__ == "__main__":
    sys.exit(main())
