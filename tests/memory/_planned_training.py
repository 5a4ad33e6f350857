"""Trainings in processes of their own: each prints its plan, and by how much its resident memory has grown in truth.

They are forks of one that has imported everything and has started no thread.
"""

import functools
import json
import os
import sys

import torch
import torch._dynamo  # the first optimizer would import it
from torch import nn

from gaudi3_rt import memory
from gaudi3_rt._process_memory import process_memory_stats, reset_peak
from gaudi3_rt.optim import FusedAdamW

OPTIMIZERS = {
    "FusedAdamW": FusedAdamW,
    "FusedAdamW-int8": functools.partial(FusedAdamW, moments_dtype=torch.int8),
    "torch.AdamW": torch.optim.AdamW,
    "torch.AdamW-foreach": functools.partial(torch.optim.AdamW, foreach=True),
    "activations": torch.optim.SGD,
}


def blocks(what):
    """50 M parameters, or few of them with large activations."""
    if what == "activations":
        return nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(8)))
    return nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(12)))


def train(model, optimizer, batch):
    """Two steps."""
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        model(batch).sum().backward()
        optimizer.step()


def measure(what):
    """Warms up on a small model, so that threads and libraries are there, then measures."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(64, 64), nn.GELU())
    train(small, OPTIMIZERS[what](small.parameters()), torch.randn(64, 64))
    rows, width = (8192, 512) if what == "activations" else (1, 2048)
    batch = torch.randn(rows, width)
    with torch.device("meta"):
        planned = memory.plan(blocks(what), OPTIMIZERS[what], batch=batch)
    reset_peak()
    before = process_memory_stats().allocated
    model = blocks(what)
    optimizer = OPTIMIZERS[what](model.parameters())
    train(model, optimizer, batch)
    after = process_memory_stats()
    return {"plan": planned.to_dict(), "kept": after.allocated - before, "peak": after.peak - before}


def main():
    """A line for each, one after the other."""
    for what in OPTIMIZERS:
        child = os.fork()
        if child == 0:
            sys.stdout.write(f"{what} {json.dumps(measure(what))}\n")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{what} failed")


main()
