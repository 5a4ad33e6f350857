"""Which operators wait, and where a lazy HPU would have executed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal")
"""Operators that need a value on the host: a lazy HPU executes before them."""


@dataclass(frozen=True)
class Graph:
    """Operators that were executed together.

    Attributes:
        step: during which this happened.
        reason: ``mark_step``, ``synchronize``, or the operator that read a value.
        operators: their names, in order.
    """

    step: int
    reason: str
    operators: tuple[str, ...]


class Queue:
    """Operators in order, until something executes them.

    Attributes:
        waiting: names of operators that wait.
        graphs: what was executed so far.
    """

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.graphs: list[Graph] = []
        self._step = 0
        self._active = False

    def add(self, operator: str, count: int = 1) -> None:
        """The operator waits."""
        self.waiting += [operator] * count

    def execute(self, reason: str, step: int | None = None) -> None:
        """Nothing waits any more; without waiting operators there is no graph."""
        self._step = self._step if step is None else step
        self._active = True
        if self.waiting:
            self.graphs.append(Graph(self._step, reason, tuple(self.waiting)))
            self.waiting = []

    def take_activity(self) -> bool:
        """Whether the device was told to execute since the last call."""
        active, self._active = self._active, False
        return active

    def clear(self) -> None:
        """Nothing waits, and nothing of it was executed."""
        self.waiting = []

    @property
    def breaks(self) -> list[Graph]:
        """Graphs that ended because a value was read."""
        return [graph for graph in self.graphs if graph.reason not in {"mark_step", "synchronize"}]

    def recipes(self) -> dict[tuple[str, ...], int]:
        """How often each sequence of operators was executed; a new one is compiled, the others are in the cache."""
        counts: dict[tuple[str, ...], int] = {}
        for graph in self.graphs:
            counts[graph.operators] = counts.get(graph.operators, 0) + 1
        return counts


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a queue of every operator."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue = queue

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.replace("::", ".")
        if name in READS:
            self._queue.execute(name)
        else:
            self._queue.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def recording(queue: Queue) -> Iterator[None]:
    """Every torch operator of this thread goes into the queue while the block runs."""
    with _Recorder(queue):
        yield
