"""How far are sums of shards from those in float64? The tree and rings, in float32 and on a bfloat16 wire; a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gaudi3_rt import reduce

COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
COMMON = 0.1  # size of what the gradients of all shards share; the noise of each is 1


def tree(shards: Sequence[Tensor]) -> Tensor:
    """Ours: float32 along the tree."""
    return reduce.reduce_shards(shards, op="sum")


def ring(shards: Sequence[Tensor]) -> Tensor:
    """Float32, one shard after the other: the order of a ring, which begins with another rank for each slice."""
    total = shards[0].clone()
    for shard in shards[1:]:
        total += shard
    return total


def tree_bf16(shards: Sequence[Tensor]) -> Tensor:
    """Ours on a bfloat16 wire: what is sent is rounded, then the sum."""
    return reduce.reduce_shards([shard.bfloat16() for shard in shards], op="sum")


def ring_bf16(shards: Sequence[Tensor]) -> Tensor:
    """A ring on a bfloat16 wire: what is sent is rounded, then the sum at every hop."""
    return ring([shard.bfloat16() for shard in shards])


CURVES: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "tree (ours)": tree,
    "ring": ring,
    "tree, two roundings (ours)": tree_bf16,
    "ring, rounds at every hop": ring_bf16,
}


def measure(numel: int) -> dict[str, list[float]]:
    """Relative error of the sum, ``norm(sum - exact) / norm(exact)``, for each curve and each of ``COUNTS``."""
    generator = torch.Generator().manual_seed(0)
    common = COMMON * torch.randn(numel, generator=generator)
    shards = [common + torch.randn(numel, generator=generator) for _ in range(max(COUNTS))]
    exact = {n: torch.stack(shards[:n]).double().sum(0) for n in COUNTS}
    return {
        name: [float((add(shards[:n]).double() - exact[n]).norm() / exact[n].norm()) for n in COUNTS]
        for name, add in CURVES.items()
    }


def write(errors: dict[str, list[float]], stem: Path, caption: str) -> None:
    """Writes the numbers as JSON and the chart as PNG."""
    facts = {"shards": COUNTS, "relative_error": errors, "machine": caption}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    curves = list(errors.items())
    for axes, title, pair in zip(
        figure.subplots(1, 2), ("float32", "bfloat16 wire"), (curves[:2], curves[2:]), strict=True
    ):
        for (name, values), color in zip(pair, ("#1f6fb4", "#c44e52"), strict=True):
            axes.plot(COUNTS, values, color=color, marker="o", ms=4, lw=1.8, label=f"{name}: {values[-1]:.1e} with 64")
        axes.set(title=title, xscale="log", ylim=(0, None), xlabel="shards", ylabel="relative error of the sum")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set_xticks(COUNTS, [str(n) for n in COUNTS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(loc="upper left", frameon=False)
    figure.suptitle(
        f"The sum of n gradients, each {COMMON:g} times a common one plus noise, against float64\n{caption}",
        fontsize=9,
    )
    figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=110)
