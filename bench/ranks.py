"""Ways to reduce gradients over local processes, all in the same processes, one at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from entrants import RivalError, RivalProcess, one_line
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from gaudi3_rt import reduce
from gaudi3_rt.reduce import hooks
from gaudi3_rt.reduce._ddp import BucketQueue, Stages

WORLD = 2
ROWS = 8  # of a batch: a small one, because the reduction is what is timed
STEPS_BEFORE = 4  # the first rebuilds DDP's buckets; PowerSGD begins with the third
SECONDS = 120.0  # a way that needs longer for these does not end

Way = Callable[[nn.Module], tuple[nn.Module, Callable[[], Any]]]
"""Takes a model; gives what is to be called forward, and what joins the reduction after backward."""


def _nothing() -> None:
    pass


def _alone(model: nn.Module) -> tuple[nn.Module, Any]:
    return model, _nothing


def _ddp(model: nn.Module, *, hook: Any = None, state: Any = None, **options: Any) -> tuple[nn.Module, Any]:
    wrapped = DistributedDataParallel(model, **options)
    if hook is not None:
        wrapped.register_comm_hook(None if state is None else state(), hook)
    return wrapped, _nothing


def _reducer(model: nn.Module, algorithm: str, wire: str | None = None) -> tuple[nn.Module, Any]:
    reducer = reduce.GradientReducer(model, algorithm=algorithm, wire=wire)
    return model, reducer.wait


def _power_sgd() -> powerSGD_hook.PowerSGDState:
    return powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)


# By its own name, DDP refuses it where the backend is not NCCL or XCCL.
_TORCH_BF16 = lambda group, bucket: default_hooks.bf16_compress_hook(group, bucket)  # noqa: E731, PLW0108


def _bf16_bytes(_group, bucket):
    """As much as the bf16 hook sends, by the same calls, and nothing done with it."""
    queue, buffer = BucketQueue.of(None), bucket.buffer()
    sent = buffer.view(torch.bfloat16)[: buffer.numel()]

    def exchange() -> Stages:
        slices = queue.slices(sent.numel(), 1)
        rows, awaited = queue.scatter(sent, slices)
        yield awaited
        queue.memory.give(rows)
        yield queue.gather(sent, slices)

    return queue.start(exchange(), buffer, is_last=bucket.is_last())


ALONE, BYTES = "backward alone", "bf16 bytes alone"
VIEW = {"gradient_as_bucket_view": True}
ALGORITHMS = ("all_reduce", "ring", "reduce_scatter", "hierarchical", "parameter_server", "tree")
WAYS: dict[str, Way] = {
    ALONE: _alone,
    BYTES: partial(_ddp, hook=_bf16_bytes, **VIEW),
    "DDP": _ddp,
    "DDP, bucket view": partial(_ddp, **VIEW),
    "torch fp16 hook": partial(_ddp, hook=default_hooks.fp16_compress_hook, **VIEW),
    "torch bf16 hook": partial(_ddp, hook=_TORCH_BF16, **VIEW),
    # With several buckets its callbacks wait for one another for ever.
    "PowerSGD, one bucket": partial(
        _ddp, hook=powerSGD_hook.powerSGD_hook, state=_power_sgd, bucket_cap_mb=1000, **VIEW
    ),
    "bf16 hook": partial(_ddp, hook=hooks.bf16_compress_hook, **VIEW),
    "fp16 hook": partial(_ddp, hook=hooks.fp16_compress_hook, **VIEW),
    "int8 hook": partial(_ddp, hook=hooks.int8_compress_hook, state=hooks.Int8CompressState, **VIEW),
    "tree hook": partial(_ddp, hook=hooks.tree_hook, **VIEW),
    **{f"reducer, {name}": partial(_reducer, algorithm=name) for name in ALGORITHMS},
    **{f"reducer, tree, {wire}": partial(_reducer, algorithm="tree", wire=wire) for wire in ("bfloat16", "int8")},
}


# In each process


class Rank:
    """One rank: all ways, each with a model of its own whose weights are those of all."""

    def __init__(self, rank: int, store: Path, matrices: tuple[int, int]) -> None:
        """Joins the other ranks."""
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORLD))
        timeout = timedelta(seconds=2 * SECONDS)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=timeout)
        count, width = matrices
        torch.manual_seed(0)
        self._weights = [torch.randn(width, width) / width**0.5 for _ in range(count)]
        self._batch = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(rank))
        self._made: dict[str, tuple[nn.Module, nn.Module, Callable[[], Any]]] = {}

    def make(self, name: str) -> str | None:
        """Makes a way and takes its first steps; returns its error in a line if it has one."""
        model = self._model()
        try:
            self._made[name] = (model, *WAYS[name](model))
            for _ in range(STEPS_BEFORE):
                self.run(name)
                self.clear(name)
        except Exception as error:  # noqa: BLE001 (a rival that fails is listed, whatever its error)
            return one_line(error)
        return None

    def _model(self) -> nn.Module:
        """Nobody writes weights, so all models have the same memory."""
        layers = []
        for weight in self._weights:
            layer = nn.Linear(*weight.shape, bias=False, device="meta")
            layer.weight = nn.Parameter(weight)
            layers.append(layer)
        return nn.Sequential(*layers)

    def run(self, name: str) -> float:
        """Seconds of forward, backward and reduction."""
        begin = time.perf_counter()
        _, called, join = self._made[name]
        called(self._batch).square().mean().backward()
        join()
        return time.perf_counter() - begin

    def clear(self, name: str) -> None:
        """Frees the gradients, as a training does after its step."""
        model, _, _ = self._made[name]
        model.zero_grad(set_to_none=True)

    def gradients(self, name: str) -> list[Tensor]:
        """Of one more backward."""
        self.run(name)
        model, _, _ = self._made[name]
        found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        self.clear(name)
        return found


# Outside


@dataclass
class Ranks:
    """Both processes, with every way that works."""

    directory: Path
    matrices: tuple[int, int]
    errors: dict[str, str] = field(default_factory=dict)
    ways: list[str] = field(default_factory=list)

    _processes: list[RivalProcess] = field(default_factory=list)

    def start(self) -> None:
        """Starts them; again, without it, after a way that does not end."""
        self._start()
        for name in WAYS:
            self._make(name)

    def _make(self, name: str) -> None:
        try:
            found = self.ask("make", name)
        except RivalError as error:
            self.errors[name] = str(error)
            self.close()
            self._start()
            for other in self.ways:
                self.ask("make", other)
            return
        if found[0] is None:
            self.ways.append(name)
        else:
            self.errors[name] = found[0]

    def _start(self) -> None:
        store = self.directory / f"ranks-{len(self.errors)}"
        store.unlink(missing_ok=True)
        context = get_context("spawn")
        makes = [partial(Rank, rank, store, self.matrices) for rank in range(WORLD)]
        self._processes = [RivalProcess(context, make, self.directory / "ranks.log") for make in makes]
        for process in self._processes:  # imported
            process.wait(SECONDS)

    def ask(self, method: str, name: str) -> list[Any]:
        """Calls a method of both; what each answers."""
        for process in self._processes:
            process.send(method, name)
        return [process.wait(SECONDS) for process in self._processes]

    def close(self) -> None:
        """Ends them."""
        for process in self._processes:
            process.close()
        self._processes = []
