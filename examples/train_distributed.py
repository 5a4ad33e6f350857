"""Does a training give the same bits on one process and on several?

The global batch is a fixed number of *logical shards*. Each process computes the gradients of its shards, one after the
other, and ``GradientReducer(algorithm="tree")`` adds them up in float32 along one tree over the shards, whichever
process holds them. So these print the same lines, to the last digit:

    python examples/train_distributed.py
    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py

and with ``--shards 4`` so do 1, 2, 3 and 4 processes. A line has a step and its loss, with all digits; the last one has
a digest of the weights. How many trained is said on stderr. The model and the text are those of ``train_stdlib.py``.

The gradients of one shard have to have the same bits everywhere too: ``--threads`` is the same number for each process
on purpose, because torch's matrix products may depend on it, and all processes have to run on CPUs of one kind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from stdlib_model import LONGEST_CONTEXT, Transformer, read_text
from stdlib_training import decay_groups, draw_batch, positive, schedule, whole
from torch import Tensor, nn

from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.reduce import GradientReducer

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    steps: int
    shards: int
    batch_size: int
    context: int
    width: int
    layers: int
    heads: int
    lr: float
    max_grad_norm: float
    seed: int
    threads: int


@contextlib.contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Rank and number of processes: those that torchrun started, else this one alone."""
    if not dist.is_torchelastic_launched():
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def batches(text: Tensor, settings: Settings, step: int) -> list[tuple[Tensor, Tensor]]:
    """The batch of each logical shard: it depends on the seed and the step alone, not on who draws it."""
    generator = torch.Generator().manual_seed(1_000_003 * settings.seed + step)
    return [draw_batch(text, settings.batch_size, settings.context, generator) for _ in range(settings.shards)]


def train(text: Tensor, settings: Settings, rank: int, world: int) -> None:
    """Trains, and prints on rank 0."""
    torch.manual_seed(settings.seed)
    model = Transformer(settings.width, settings.layers, settings.heads)
    optimizer = FusedAdamW(decay_groups(model), settings.lr, BETAS, max_grad_norm=settings.max_grad_norm)
    scheduler = schedule(optimizer, settings.steps)
    with GradientReducer(model, algorithm="tree", logical_shards=settings.shards) as reducer:
        mine = reducer.shards
        for step in range(1, settings.steps + 1):
            drawn = batches(text, settings, step)
            losses = torch.zeros(settings.shards)
            for shard in mine:
                loss = model(*drawn[shard])
                loss.backward()
                losses[shard] = loss.item()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            report(step, losses, rank, world)
    if rank == 0:
        print(f"weights {digest(model)}")


def report(step: int, losses: Tensor, rank: int, world: int) -> None:
    """Prints the mean loss over all shards; each is known to one rank, and added to zeros."""
    if world > 1:
        dist.all_reduce(losses)
    mean = losses.double().mean().item()
    if not math.isfinite(mean):
        sys.exit(f"the loss is {mean} at step {step}; try a smaller --lr")
    if rank == 0:
        print(f"step {step:4}  loss {mean!r}", flush=True)


def digest(model: nn.Module) -> str:
    """SHA-256 over the bits of all parameters."""
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def parse(arguments: list[str] | None = None) -> Settings:
    """Reads the command line; leaves with one clear sentence if it cannot be."""
    parser = argparse.ArgumentParser(
        description="Train a small transformer on any number of processes, with the same bits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=whole(1), default=50, help="optimizer steps")
    add("--shards", type=whole(2, 64), default=2, help="logical shards of the global batch; at least one a process")
    add("--batch-size", type=whole(1), default=4, help="sequences per shard")
    add("--context", type=whole(1, LONGEST_CONTEXT), default=64, help="characters per sequence")
    add("--width", type=whole(1), default=96, help="size of the model's stream")
    add("--layers", type=whole(1), default=2, help="transformer blocks")
    add("--heads", type=whole(1), default=4, help="attention heads per block")
    add("--lr", type=positive, default=2e-3, help="learning rate after warm-up")
    add("--max-grad-norm", type=positive, default=1.0, help="gradients are clipped to this norm")
    add("--seed", type=whole(0), default=0, help="of the first weights and of the batches")
    add("--threads", type=whole(1, os.cpu_count() or 1), default=1, help="threads of torch in each process")
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.width % (2 * settings.heads):
        parser.error(
            f"--width {settings.width} with --heads {settings.heads}: the width must be a multiple of "
            f"2 x heads = {2 * settings.heads}"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > settings.shards:
        parser.error(f"--shards {settings.shards} for {world} processes: each needs at least one")
    return settings


def main() -> int:
    """Returns the exit code."""
    settings = parse()
    torch.set_num_threads(settings.threads)
    text, _ = read_text()
    with processes() as (rank, world):
        if rank == 0:
            print(f"{settings.shards} logical shards on {world} process{'es' * (world > 1)}", file=sys.stderr)
        train(text, settings, rank, world)
    return 0


if __name__ == "__main__":
    sys.exit(main())
