"""What the scripts share that train on the standard library: batches, schedule, validation, command line, report."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from stdlib_model import windows
from torch import Tensor, nn

import gaudi3_rt

VALIDATION_WINDOWS = 256

# The training


def draw_batch(text: Tensor, batch_size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets of windows at random places."""
    starts = torch.randint(len(text) - context, (batch_size,), generator=generator)
    return windows(text, starts, context)


def decay_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices, none for biases and norms."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the first twentieth, then half a cosine down to a tenth."""
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def validate(loss: Callable[[Tensor, Tensor], Tensor], text: Tensor, context: int) -> float:
    """The mean loss over windows that are spread evenly over the text."""
    starts = torch.linspace(0, len(text) - context - 1, VALIDATION_WINDOWS).long()
    losses = [loss(*windows(text, part, context)) for part in torch.split(starts, 32)]
    return torch.stack(losses).mean().item()


# The report


def machine() -> dict[str, object]:
    """What ran, for the files with numbers."""
    build = gaudi3_rt.build_info()
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gaudi3_rt": gaudi3_rt.__version__,
        "isa": build.isa,
        "compiler": build.compiler,
    }


def clear_frame(axes: Axes) -> None:
    """A faint grid, and no frame on the sides that carry no numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


# The command line


def whole(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """A converter for argparse."""

    def convert(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        allowed = f">= {low}" if high == 2**63 - 1 else f"from {low} to {high}"
        msg = f"{text!r} given, must be a whole number {allowed}"
        raise argparse.ArgumentTypeError(msg)

    return convert


def positive(text: str) -> float:
    """A converter for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    msg = f"{text!r} given, must be a finite number > 0"
    raise argparse.ArgumentTypeError(msg)


def make_folder(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Makes the folder of ``--out``, or leaves with one sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {folder}: not a folder that can be written to ({error.strerror})")
