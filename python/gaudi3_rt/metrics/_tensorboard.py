"""The same figures for TensorBoard: one scalar for each of the catalogue's, over the steps of the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from typing_extensions import Self

from gaudi3_rt import _config, events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics._catalogue import PREFIX
from gaudi3_rt.metrics._store import Labels, Store
from gaudi3_rt.metrics._translate import KINDS, translate

FOR_ALERTS = {
    "training_step",
    "training_stalled",
    "training_last_step_timestamp_seconds",
    "training_last_checkpoint_timestamp_seconds",
}
"""What TensorBoard shows of itself: each scalar has a step and a time."""
LINGER = 1.0
"""Seconds for which an event may wait to be written."""

_log = logging.getLogger(__name__)


class TensorBoardWriter:
    """Writes what events say as scalars, while its block runs: names are the catalogue's, labels follow after a slash.

    Durations are written as they are, counters as their sums so far, in a thread of the subscription. A run that goes
    on after step N hides what was written beyond N before, as TensorBoard does for resumed runs. What is not of a step,
    such as a temperature, has the step that was completed last. A forked child writes nothing.

    Args:
        folder: of the run; each rank writes into ``rank<R>`` in it.
        rank: of this process; None for what torchrun or Slurm says.
        every: of so many steps one is written; all are counted.
        capacity: how many events may wait to be written. Those beyond are lost and show in ``events_dropped_total``.

    Raises:
        ImportError: tensorboard is not installed.
        ParameterValidationError: ``every`` is no whole number of at least 1.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, rank: int | None = None, every: int = 1, capacity: int = 4096
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            msg = f"every={every!r}: must be a whole number of steps, at least 1"
            raise ParameterValidationError(msg)
        self.folder = Path(folder) / f"rank{_config.rank() if rank is None else rank}"
        self._make_writer = _summary_writer()
        self._every = every
        self._capacity = capacity
        self._store = Store()
        self._writer: Any = None
        self._event = events.Event()
        self._step = 0
        self._pid = 0
        self._subscription: events.Subscription | None = None

    def __enter__(self) -> Self:
        if self._subscription is not None:
            msg = "this writer is already writing; make another one, or leave its with block first"
            raise ParameterValidationError(msg)
        self._pid = os.getpid()
        self._subscription = events.subscribe(self._take, *KINDS, capacity=self._capacity, linger=LINGER)
        return self

    def __exit__(self, *_: object) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and os.getpid() == self._pid:
            if not subscription.close():  # the file is left to the hook's thread, which is in the middle of it
                _log.warning("the last scalars in %s may be missing: the file system does not answer", self.folder)
                return
            try:
                self._close()
            except Exception as error:  # noqa: BLE001 (a full disk, for example, ends no training)
                _log.warning("the last scalars in %s may be missing: %s", self.folder, error)

    def _take(self, event: events.Event) -> None:
        if os.getpid() != self._pid:
            return  # its thread that writes is the parent's
        if isinstance(event, events.RunStarted):
            self._step = event.start_step
            self._close()
            self._open(purge_step=self._step + 1)
        elif isinstance(event, events.StepCompleted):
            self._step = event.step
        if self._writer is None:
            self._open()
        self._event = event
        translate(event, self)

    def _open(self, purge_step: int | None = None) -> None:
        self._writer = self._make_writer(str(self.folder), purge_step=purge_step)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    # What an event says

    def add(self, name: str, amount: float, /, *labels: str) -> None:
        """A counter's sum so far; what has not happened is not written."""
        kept = self._store.add(name, amount, *labels)
        if kept is not None and kept[1]:
            self._write(name, *kept)

    def put(self, name: str, value: float | None, /, *labels: str) -> None:
        """A value."""
        kept = self._store.put(name, value, *labels)
        if kept is not None and name not in FOR_ALERTS:
            self._write(name, *kept)

    def observe(self, name: str, value: float, /, *labels: str) -> None:
        """A duration."""
        kept = self._store.observe(name, value, *labels)
        if kept is not None:
            self._write(name, *kept)

    def _write(self, name: str, labels: Labels, value: float) -> None:
        if isinstance(self._event, events.StepCompleted) and self._step % self._every:
            return
        tag = "/".join((PREFIX + name, *labels))
        self._writer.add_scalar(tag, value, self._step, walltime=self._event.time)


def _summary_writer() -> Any:
    """Torch's class, which needs tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (tensorboard)
    except ImportError as error:
        msg = 'TensorBoardWriter needs tensorboard; install it with: pip install "gaudi3_rt[tensorboard]"'
        raise ImportError(msg) from error
    return SummaryWriter
