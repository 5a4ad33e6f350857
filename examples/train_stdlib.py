"""Does a model train the same with FusedAdamW as with torch's AdamW, and how much time does the optimizer take?

A small character-level transformer learns the source code of Python's standard library, text that every machine with
Python has. It is trained twice from the same initial weights on the same batches:

1. with ``torch.nn.utils.clip_grad_norm_`` followed by ``torch.optim.AdamW(fused=True)``,
2. with ``gaudi3_rt.optim.FusedAdamW(max_grad_norm=...)``, which clips inside its step.

The *tail* is the time between the end of ``backward()`` and the end of ``step()``: clipping and update, without
``zero_grad()`` and the scheduler. The two runs take turns, one step of the first and then one of the second, so that
whatever else the machine does slows both. The first step of either tail also creates the optimizer's state.

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
import platform
import signal
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import gaudi3_rt
from gaudi3_rt.optim import FusedAdamW

# Modules that are single files in every supported version of Python.
MODULES = (
    "argparse ast bdb calendar cmd codecs configparser contextlib copy csv dataclasses difflib dis doctest enum "
    "filecmp fractions ftplib functools getopt gettext glob gzip heapq hmac imaplib inspect ipaddress locale lzma "
    "mailbox mimetypes netrc optparse pdb pickle pickletools platform plistlib poplib pprint profile pstats pydoc "
    "queue random sched selectors shelve shlex shutil smtplib socket socketserver ssl statistics string subprocess "
    "tarfile tempfile textwrap threading timeit token tokenize trace traceback typing uuid warnings wave weakref"
).split()
OTHER = 128  # the id of every character that is not ASCII; the ids of ASCII characters are their codes
VOCABULARY = 129
LONGEST_CONTEXT = 1024
VALIDATION_WINDOWS = 256
LAST_STEPS = 20  # the final train loss is their mean: single batches differ more than the runs do
PRINT_EVERY = 10
NAMES = {"torch": "torch.optim.AdamW", "gaudi3_rt": "FusedAdamW"}


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

    tail_ratio: float  # median against median
    largest_loss_difference: float
    largest_loss_difference_step: int


# The text


def read_text() -> tuple[Tensor, Tensor]:
    """The ids of the characters for training, and those of the last tenth, for validation."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for name in MODULES if (path := folder / f"{name}.py").is_file()]
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    if len(text) < 20 * (LONGEST_CONTEXT + 1):
        sys.exit(f"{folder} has too few source files of the standard library ({len(files)} of {len(MODULES)})")
    ids = torch.frombuffer(bytearray(min(ord(character), OTHER) for character in text), dtype=torch.uint8)
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def windows(ids: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same characters one place later, of the windows that begin at ``starts``."""
    rows = ids[starts[:, None] + torch.arange(context + 1)].long()
    return rows[:, :-1], rows[:, 1:]


# The model


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Batch x context x width, in and out."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.projection(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Predicts the next character. The output layer has the weights of the embedding."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, settings.width)
        self.positions = nn.Embedding(settings.context, settings.width)
        self.blocks = nn.Sequential(*(Block(settings.width, settings.heads) for _ in range(settings.layers)))
        self.norm = nn.LayerNorm(settings.width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)  # with this the first prediction is close to uniform

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy in nats per character."""
        x = self.characters(inputs) + self.positions(torch.arange(inputs.shape[1]))
        logits = F.linear(self.norm(self.blocks(x)), self.characters.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# The training


class Run:
    """One model with its optimizer, and what was measured of each step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, tail: Callable[[], object], steps: int):
        self.model = model
        self.optimizer = optimizer
        self.tail = tail
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
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


def lr_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first twentieth, then half a cosine down to a tenth."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))


def start_runs(settings: Settings) -> dict[str, Run]:
    """Both runs, with equal weights."""

    def groups(model: nn.Module) -> list[dict[str, object]]:
        parameters = list(model.parameters())
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    torch.manual_seed(settings.seed)
    model = Transformer(settings)
    reference = copy.deepcopy(model)
    adamw = torch.optim.AdamW(groups(reference), settings.lr, (0.9, 0.95), fused=True)
    fused = FusedAdamW(groups(model), settings.lr, (0.9, 0.95), max_grad_norm=settings.max_grad_norm)

    def clip_and_step() -> None:
        nn.utils.clip_grad_norm_(reference.parameters(), settings.max_grad_norm)
        adamw.step()

    return {
        "torch": Run(reference, adamw, clip_and_step, settings.steps),
        "gaudi3_rt": Run(model, fused, fused.step, settings.steps),
    }


class Interrupt:
    """Notes a Ctrl-C instead of raising, so that both runs finish the step at hand. A second one raises as usual."""

    def __enter__(self) -> Interrupt:
        self.seen = False
        self.previous = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.seen = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self.previous)


def train(runs: dict[str, Run], text: Tensor, settings: Settings) -> bool:
    """Trains both in turns; false if Ctrl-C ended it early. Either way both have done the same steps."""
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = sys.stderr.isatty()
    start = time.perf_counter()
    with Interrupt() as interrupt, tqdm(total=settings.steps, disable=not drawn, unit="step") as bar:
        for done in range(1, settings.steps + 1):
            starts = torch.randint(len(text) - settings.context, (settings.batch_size,), generator=generator)
            inputs, targets = windows(text, starts, settings.context)
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
                line = f"step {done}/{settings.steps}: loss {ours.losses[-1]:.3f}, {speed:.0f} tokens/s, tail {tails} ms"
                print(line, file=sys.stderr, flush=True)
            if interrupt.seen:
                break
    return done == settings.steps


# The report


@torch.no_grad()
def validate(model: nn.Module, text: Tensor, settings: Settings) -> float:
    """The mean loss over windows that are spread evenly over the text."""
    starts = torch.linspace(0, len(text) - settings.context - 1, VALIDATION_WINDOWS).long()
    losses = [model(*windows(text, part, settings.context)) for part in starts.split(32)]
    return torch.stack(losses).mean().item()


def summarise(run: Run, validation: Tensor, settings: Settings) -> Result:
    """The numbers of one run."""
    return Result(
        losses=run.losses,
        tail_ms=run.tail_ms,
        step_ms=run.step_ms,
        train_loss=statistics.fmean(run.losses[-LAST_STEPS:]),
        validation_loss=validate(run.model, validation, settings),
        tail_median_ms=statistics.median(run.tail_ms),
        tail_total_s=sum(run.tail_ms) / 1e3,
        tokens_per_s=len(run.losses) * settings.batch_size * settings.context / (sum(run.step_ms) / 1e3),
    )


def compare(reference: Result, ours: Result) -> Comparison:
    """The second run against the first."""
    differences = [abs(a - b) for a, b in zip(reference.losses, ours.losses, strict=True)]
    largest = max(differences)
    return Comparison(ours.tail_median_ms / reference.tail_median_ms, largest, differences.index(largest) + 1)


def table(results: dict[str, Result], comparison: Comparison) -> str:
    """The report as text."""
    reference, ours = results.values()
    rows = [
        ("", *NAMES.values()),
        (f"train loss, mean of the last {min(LAST_STEPS, len(ours.losses))} steps", *(f"{r.train_loss:.4f}" for r in results.values())),
    ]
    return ""
