"""Watches a training loop: one record for each step, anomalies, the history of the run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch.optim import Optimizer
from typing_extensions import Self

from gaudi3_rt import events
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import ParameterValidationError, classify
from gaudi3_rt.monitor._anomalies import FigureWatch
from gaudi3_rt.monitor._checks import check_options
from gaudi3_rt.monitor._data import TimedData
from gaudi3_rt.monitor._divergence import Divergence
from gaudi3_rt.monitor._finished import FinishedStep
from gaudi3_rt.monitor._history import HistoryWriter, history_path
from gaudi3_rt.monitor._optimizers import WatchedOptimizer
from gaudi3_rt.monitor._stall import Progress, StallWatch
from gaudi3_rt.monitor._step import REST, Checkpoint, Step
from gaudi3_rt.monitor._stragglers import RankTimes, own_seconds
from gaudi3_rt.monitor._world import find_run_id, find_world

_T = TypeVar("_T")
_DATA = "data"
_CHECKPOINT = "checkpoint"
_HISTORY_QUEUE = 1 << 16
"""Records that wait at most while the file system does not answer."""
_HISTORY_LINGER = 0.05
"""Seconds for which a record may wait for others: to wake a thread in each of many short steps costs them more."""
_log = logging.getLogger(__name__)
_running: list[TrainingMonitor] = []


class TrainingMonitor:
    """Tells what happens in a training loop, as events; a context manager around the loop.

    ``step()`` is a context manager around each optimizer step. It emits ``StepCompleted``, and anomalies as they come:
    ``NonFiniteLoss``, ``NonFiniteGradient``, ``LossDiverged``, ``TrainingStalled``, ``StragglerDetected``. A process
    has one running monitor; in a run of several ranks each rank has its own.

    Losses and other figures that are on a device are read once a second at most, at the end of a step, and not of that
    step but of those before: no step waits for its own result. Their records come as late.

    Args:
        run_dir: folder of the run; each rank appends to ``history-rank0.jsonl`` there. None: no history, and ranks are
            not compared.
        run_id: name of the run. By default torchrun's or Slurm's, else the name of ``run_dir``.
        start_step: steps that were completed before, if the run goes on from a checkpoint.
        stall_factor: a step has stalled if it takes so many times the median of the last 101,
        stall_seconds: and more than so many seconds; None: do not look.
        first_step_seconds: what the first step may take, in which graphs are compiled.
        divergence: when a loss counts as diverged; None: do not look.
        straggler_share: a rank is a straggler if the others wait for it for more than this share of a step; None: do
            not look.
        exchange_seconds: between two comparisons of ranks.
        read_seconds: between two readings of figures that are on a device.
        history_bytes: size of the history of a rank above which its older steps are thinned; None: never.
        clock: what time it is.

    Raises:
        ParameterValidationError: an argument is out of range.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str] | None = None,
        *,
        run_id: str | None = None,
        start_step: int = 0,
        stall_factor: float = 10.0,
        stall_seconds: float | None = 300.0,
        first_step_seconds: float = 1800.0,
        divergence: Divergence | None = Divergence(),  # noqa: B008 (frozen)
        straggler_share: float | None = 0.2,
        exchange_seconds: float = 10.0,
        read_seconds: float = 1.0,
        history_bytes: int | None = 1 << 28,
        clock: Clock = time,
    ) -> None:
        check_options(
            start_step,
            stall_factor,
            stall_seconds,
            first_step_seconds,
            straggler_share,
            exchange_seconds,
            read_seconds,
            history_bytes,
        )
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.start_step = start_step
        self._given_id = run_id
        self._stalls = (stall_factor, stall_seconds, first_step_seconds)
        self._divergence = divergence
        self._straggler_share, self._exchange_seconds = straggler_share, exchange_seconds
        self._read_seconds = read_seconds
        self._history_bytes = history_bytes
        self._clock = clock
        self._monotonic = clock.monotonic
        self._pid = 0  # not running
        self._thread = 0
        self._step: Step | None = None
        self._waited = 0.0
        self._watched: list[WatchedOptimizer] = []
        self._stack = contextlib.ExitStack()

    # The run

    def __enter__(self) -> Self:
        _running[:] = [monitor for monitor in _running if monitor._pid == os.getpid()]
        if _running:
            msg = "a TrainingMonitor is running in this process already; leave its with block first"
            raise ParameterValidationError(msg)
        self.world = find_world()
        self.run_id = find_run_id(self._given_id, self.run_dir, self._clock.time())
        self._progress = Progress(self.start_step, self._monotonic())
        self._figures = FigureWatch(self.world.rank, self._divergence)
        self._pending: deque[FinishedStep] = deque()
        self._last_read = -math.inf
        self._step, self._waited = None, 0.0
        with contextlib.ExitStack() as stack:
            self._start_history(stack)
            stack.push(self._finish)
            self._start_threads(stack)
            stack.callback(self._unwatch)
            self._pid, self._thread = os.getpid(), threading.get_ident()
            _running.append(self)
            events.emit(
                events.RunStarted,
                run_id=self.run_id,
                rank=self.world.rank,
                local_rank=self.world.local_rank,
                world_size=self.world.size,
                start_step=self.start_step,
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if os.getpid() == self._pid:  # else a forked child leaves the block; the run is its parent's
            self._stack.__exit__(kind, error, traceback)

    def _finish(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if not self._pid:  # it has not begun
            return
        self._pid, self._step = 0, None
        _running.remove(self)
        try:
            self._publish_pending(len(self._pending))
        except RuntimeError as lost:  # a device that has failed does not say what the loss was
            _log.warning("figures of the last %d steps could not be read: %s", len(self._pending), lost)
        interrupted = kind is not None and not issubclass(kind, Exception)
        failed = kind is not None and not interrupted
        events.emit(
            events.RunFinished,
            step=self.completed,
            outcome="interrupted" if interrupted else "failed" if failed else "completed",
            error=None if kind is None else kind.__name__,
            code=classify(kind.__name__ if error is None else error).code if kind is not None and failed else None,
            rank=self.world.rank,
        )

    def _start_history(self, stack: contextlib.ExitStack) -> None:
        if self.run_dir is None:
            return
        writer = HistoryWriter(history_path(self.run_dir, self.world.rank), self._history_bytes, self._monotonic)
        subscription = events.subscribe(writer, capacity=_HISTORY_QUEUE, linger=_HISTORY_LINGER)

        def end() -> None:
            if subscription.close():  # else the file system hangs, and the file is left to the hook's thread
                writer.close()

        stack.callback(end)

    def _start_threads(self, stack: contextlib.ExitStack) -> None:
        factor, floor, first = self._stalls
        rank, progress = self.world.rank, self._progress
        if floor is not None:
            watch = StallWatch(
                progress, factor=factor, floor=floor, first=first, rank=rank, where=self._where, clock=self._clock
            )
            watch.start()
            stack.callback(watch.stop)
        share = self._straggler_share
        self._compares = self.run_dir is not None and self.world.size > 1 and share is not None
        if self._compares and self.run_dir is not None and share is not None:
            times = RankTimes(
                self.run_dir,
                rank=rank,
                world_size=self.world.size,
                progress=progress,
                share=share,
                interval=self._exchange_seconds,
            )
            times.start()
            stack.callback(times.stop)

    def _where(self) -> str | None:
        step = self._step
        return None if step is None or step._current == REST else step._current

    # Steps

    @property
    def completed(self) -> int:
        """Number of the last completed step."""
        return self._progress.step

    def step(self, *, samples: Any = None, tokens: Any = None) -> Step:
        """The next optimizer step, as a context manager around all that belongs to it.

        With gradient accumulation that is several batches. A step whose block is left by an exception does not count.

        Args:
            samples: how many it trains on, on this rank; can also be set inside, ``step.samples = ...``.
            tokens: how many it trains on, on this rank; can also be set inside.

        Raises:
            ParameterValidationError: the monitor is not running in this process, or a step is under way.
        """
        self._require_running()
        return Step(self, self._monotonic, self.completed + 1, samples=samples, tokens=tokens)

    def beat(self) -> None:
        """Says that the process is alive although no step ends, for example in each batch of an evaluation."""
        self._progress.alive = self._monotonic()

    def data(self, data: Iterable[_T]) -> TimedData[_T]:
        """A data loader, or anything that is iterated over, whose waits are the phase ``data``.

        What training waits between two steps belongs to the next one.
        """
        return TimedData(data, self._monotonic, self._note_wait)

    def watch(self, optimizer: Optimizer) -> None:
        """Has an optimizer tell of its steps: time, learning rate, norm of the gradients, skipped steps.

        A step of training in which none of the watched optimizers took a step counts as skipped, as ``GradScaler``
        does it.

        Raises:
            ParameterValidationError: it is no ``torch.optim.Optimizer``, or the monitor is not running.
        """
        self._watch(optimizer, timed=True)

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[Checkpoint]:
        """A context manager around the writing of a checkpoint; emits ``CheckpointCompleted`` if that succeeds."""
        self._require_running()
        checkpoint = Checkpoint()
        step = self._own_step()
        start = self._monotonic()
        with contextlib.nullcontext() if step is None else step.phase(_CHECKPOINT):
            yield checkpoint
        self._saved(self.completed if step is None else step.number, self._monotonic() - start, checkpoint.bytes)

    def _saved(self, number: int, seconds: float, size: int | None) -> None:
        events.emit(events.CheckpointCompleted, step=number, seconds=seconds, bytes=size, rank=self.world.rank)
        self.beat()

    def _watch(self, optimizer: Optimizer, *, timed: bool) -> None:
        self._require_running()
        self._watched.append(WatchedOptimizer(optimizer, self._own_step, timed=timed))

    def _unwatch(self) -> None:
        for watched in self._watched:
            watched.remove()
        self._watched.clear()

    def _require_running(self) -> None:
        if os.getpid() == self._pid:
            return
        seen = "it belongs to the process that this one was forked from" if self._pid else "it is not running"
        msg = f"this TrainingMonitor cannot be used here: {seen}. Enter one of your own: with TrainingMonitor(...)"
        raise ParameterValidationError(msg)

    def _own_step(self) -> Step | None:
        """The step under way, if this is its thread."""
        step = self._step
        return step if step is not None and step._thread == threading.get_ident() else None

    def _note_wait(self, seconds: float) -> None:
        step = self._own_step()
        if step is not None:
            step._move(_DATA, seconds)
        elif self._step is None and self._thread == threading.get_ident():
            self._waited += seconds

    # What a step says of itself

    def _open(self, step: Step) -> float:
        if self._step is not None:
            msg = (
                f"step {step.number} begins while step {self._step.number} is under way: leave its with block first. "
                "With gradient accumulation, one step is around all batches"
            )
            raise ParameterValidationError(msg)
        if step._seconds is not None or step.number != self.completed + 1:
            msg = f"step {step.number} was entered before; each step is a new monitor.step()"
            raise ParameterValidationError(msg)
        self._step = step
        self._thread = threading.get_ident()
        for watched in self._watched:
            watched.stepped = False
        waited, self._waited = self._waited, 0.0
        return waited

    def _discard(self, step: Step) -> None:
        if self._step is step:
            self._step = None

    def _close(self, step: Step) -> None:
        self._step = None
        seconds = step._seconds or 0.0
        stepped = not self._watched
        for watched in self._watched:
            watched.tell(step)
            stepped |= watched.stepped
        progress = self._progress
        progress.durations.append(seconds)
        if self._compares:
            progress.own.append(own_seconds(seconds, step._phases))
        now = self._monotonic()
        progress.step, progress.alive = step.number, now
        finished = FinishedStep(step, self._clock.time(), stepped=stepped)
        if not self._pending and not finished.waits:
            self._publish(finished)
            return
        self._pending.append(finished)
        if now - self._last_read >= self._read_seconds:
            self._last_read = now
            self._publish_pending(len(self._pending) - finished.waits)

    def _publish_pending(self, count: int) -> None:
        while self._pending and count > 0:
            self._publish(self._pending[0])
            self._pending.popleft()
            count -= 1

    def _publish(self, finished: FinishedStep) -> None:
        loss, gradient_norm = finished.emit(self.world.rank)
        self._figures.look(finished.step.number, loss, gradient_norm, skipped=bool(finished.step.skipped))
