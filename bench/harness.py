"""Workloads, the interleaved race of rivals over them, and what is computed from its samples."""

from __future__ import annotations

import gc
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

OURS = "ours"
TORCH = "torch"
LIMIT = "limit"


@dataclass(frozen=True)
class Workload:
    """The tensors that an optimizer steps."""

    name: str
    shapes: Sequence[tuple[int, ...]]
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of one array: all parameters, or all gradients."""
        return self.dtype.itemsize * sum(torch.Size(shape).numel() for shape in self.shapes)

    def make(self, spread: float, seed: int) -> list[Tensor]:
        """Normal random tensors; a tile is repeated, because the values do not matter to the time."""
        generator = torch.Generator().manual_seed(seed)
        tile = torch.empty((1 << 20) + 1).normal_(std=spread, generator=generator).to(self.dtype)
        tensors = []
        for shape in self.shapes:
            tensor = torch.empty(shape, dtype=self.dtype)
            for piece in tensor.view(-1).split(tile.numel()):
                piece.copy_(tile[: piece.numel()])
            tensors.append(tensor)
        return tensors


def excess(ours: Tensor, theirs: Tensor, rtol: float) -> float:
    """Largest difference of two tensors beyond ``rtol`` of the second; NaN if either has one."""
    theirs = theirs.detach()
    return (ours.detach() - theirs).abs_().sub_(theirs.abs().mul_(rtol)).max().item()


def _gpt2(vocabulary: int, context: int, width: int, layers: int) -> list[tuple[int, ...]]:
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(vocabulary, width), (context, width), *(layers * [*norm, *attention, *norm, *mlp]), *norm]


@dataclass(frozen=True)
class Scale:
    """How large the workloads are and how long they are timed."""

    workloads: Mapping[str, Workload]
    seconds: float  # of timing per benchmark, within the rounds below
    rounds: tuple[int, int]  # at least, at most
    imports: int
    width: int  # of the transformer that is trained
    layers: int
    tokens: tuple[int, int]  # batch, length
    shard: int  # elements of a shard that is reduced
    matrices: tuple[int, int]  # of the model that is trained on two processes: how many, and how wide

    def rounds_for(self, seconds_per_round: float) -> int:
        """How many rounds to run."""
        least, most = self.rounds
        return max(least, min(most, int(self.seconds / seconds_per_round)))


def _workloads(a: int, b: Sequence[tuple[int, ...]], c: Sequence[tuple[int, ...]]) -> dict[str, Workload]:
    found = (Workload("a", [(a,)]), Workload("b", b), Workload("c", c), Workload("b bf16", b, torch.bfloat16))
    return {workload.name: workload for workload in found}


SCALES = {
    "full": Scale(
        workloads=_workloads(32 << 20, _gpt2(50257, 1024, 768, 12), 2000 * [(1024,)]),
        seconds=7.0,
        rounds=(7, 60),
        imports=5,
        width=256,
        layers=4,
        tokens=(8, 64),
        shard=16 << 20,
        matrices=(25, 1024),
    ),
    "tiny": Scale(
        workloads=_workloads(1 << 14, _gpt2(97, 16, 32, 2), 20 * [(64,)]),
        seconds=0.05,
        rounds=(2, 5),
        imports=1,
        width=32,
        layers=1,
        tokens=(2, 8),
        shard=1 << 14,
        matrices=(4, 64),
    ),
}


# Timing


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Rival:
    """One way to do the work; ``restore``, which is not timed, undoes what would make the next round differ."""

    run: Callable[[], Any]
    restore: Callable[[], Any] = _nothing


@dataclass(frozen=True)
class Lab:
    """What every benchmark needs."""

    benchmark: Any  # the fixture of pytest-benchmark
    scale: Scale
    rows: list[Row]  # of the table at the end; a benchmark adds its own
    notes: list[str]  # lines below it, of rivals that did not run

    def race(self, rivals: Mapping[str, Rival]) -> dict[str, list[float]]:
        """Times all rivals in turn and returns the seconds of every round, by rival."""
        samples = race(self.benchmark, rivals, self.scale)
        self.note(samples)
        return samples

    def note(self, samples: Mapping[str, Sequence[float]]) -> None:
        """Adds all samples' quantiles to what pytest-benchmark saves."""
        self.benchmark.extra_info.update({name: quantiles(seconds) for name, seconds in samples.items()})


def race(benchmark: Any, rivals: Mapping[str, Rival], scale: Scale) -> dict[str, list[float]]:
    """Times all rivals once per round, in an order shuffled anew each round.

    The machine's speed drifts, so only times of the same round are comparable; and who runs after whom decides what
    is in the cache. pytest-benchmark keeps the statistics of ``OURS``: those who come before it in a round run in its
    setup, the others in its teardown.

    Returns:
        Seconds of every round, by rival.
    """
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals)
    shuffle = random.Random(0).shuffle  # noqa: S311 (no secret)

    def timed(name: str) -> None:
        begin = time.perf_counter()
        rivals[name].run()
        samples[name].append(time.perf_counter() - begin)
        rivals[name].restore()

    def those_before() -> None:
        shuffle(order)
        for name in order[: order.index(OURS)]:
            timed(name)

    def those_after() -> None:
        for name in order[order.index(OURS) + 1 :]:
            timed(name)

    gc.collect()
    for _ in range(2):  # the first makes state and faults pages in, the second tells how long a round takes
        begin = time.perf_counter()
        those_before()
        timed(OURS)
        those_after()
        seconds_per_round = time.perf_counter() - begin
    for warm_up in samples.values():
        warm_up.clear()
    benchmark.pedantic(
        timed,
        args=(OURS,),
        setup=those_before,
        teardown=lambda _: those_after(),
        rounds=scale.rounds_for(seconds_per_round),
    )
    if not benchmark.enabled:  # --benchmark-disable: one round, whose end pedantic leaves out
        those_after()
    return samples


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps so many other processes computing."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        while len(processes) < count:
            processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        time.sleep(0.2)  # until they spin
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


# Results


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Least, 20th, 50th and 80th percentile."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "min": ordered[0],
        "p20": ordered[round(0.2 * last)],
        "p50": statistics.median(ordered),
        "p80": ordered[round(0.8 * last)],
    }


@dataclass(frozen=True)
class Spread:
    """Median and range of a figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises one value per round."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Wanted:
    """A figure that is hoped for; missing it is reported and fails nothing."""

    figure: Literal["speed", "share", "ms"]
    bound: float
    rival: str = TORCH  # whom ours is to be faster than

    def __str__(self) -> str:
        """As in the table."""
        return {
            "speed": f">= {self.bound:.2f}x {self.rival}",
            "share": f">= {self.bound:.2f} of limit",
            "ms": f"<= {self.bound:.0f} ms",
        }[self.figure]


@dataclass(frozen=True)
class Row:
    """One comparison of a race: ours with a rival, and with the memory limit where there is one."""

    question: str
    workload: str
    samples: Mapping[str, Sequence[float]]
    ours: str = OURS
    rival: str = TORCH
    moved_bytes: int | None = None  # what an ideal implementation reads and writes
    wanted: Sequence[Wanted] = field(default=())

    def _pairs(self, numerator: str, denominator: str) -> Spread | None:
        if not {numerator, denominator} <= self.samples.keys():
            return None
        return Spread.of([n / d for n, d in zip(self.samples[numerator], self.samples[denominator], strict=True)])

    @property
    def speed(self) -> Spread | None:
        """How many times faster ours is than the rival."""
        return self._pairs(self.rival, self.ours)

    @property
    def share(self) -> Spread | None:
        """Which share of the memory limit's speed ours reaches."""
        return self._pairs(LIMIT, self.ours)

    @property
    def possible_speed(self) -> Spread | None:
        """How many times faster than the rival the memory limit is."""
        return self._pairs(self.rival, LIMIT)

    @property
    def gigabytes_per_second(self) -> float | None:
        """Bytes that have to be moved over the time of ours."""
        return None if self.moved_bytes is None else self.moved_bytes / statistics.median(self.samples[self.ours]) / 1e9

    def reached(self, wanted: Wanted) -> bool:
        """Whether the median reaches a wanted figure."""
        if wanted.figure == "ms":
            return 1e3 * statistics.median(self.samples[self.ours]) <= wanted.bound
        spread = self.speed if wanted.figure == "speed" else self.share
        return spread is not None and spread.median >= wanted.bound
