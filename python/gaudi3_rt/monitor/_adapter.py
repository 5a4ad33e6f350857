"""A monitor driven by the callbacks of a training framework, where no block is around a step."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor._monitor import TrainingMonitor
from gaudi3_rt.monitor._step import Step
from gaudi3_rt.monitor._values import hold

_TOKENS = "input_ids"
"""Entry of a batch whose elements are tokens."""
_MAX_DEPTH = 4
_log = logging.getLogger(__name__)


class Adapter:
    """Opens a step, adds to it, and closes it when the framework has said everything about it.

    Args:
        run_dir: of the run; None: the framework's own folder for what it writes.
        options: of the :class:`TrainingMonitor`.
    """

    def __init__(self, run_dir: Any, options: Mapping[str, Any]) -> None:
        self._run_dir, self._options = run_dir, dict(options)
        TrainingMonitor(**self._options)  # refuses what is wrong now, not after an hour of loading
        self.monitor: TrainingMonitor | None = None
        """While training; None otherwise."""
        self.step: Step | None = None
        """Under way, or ended and not yet closed."""
        self._idle_since = 0.0
        self._samples = self._tokens = 0

    def begin(self, folder: Any, start_step: int, optimizers: Iterable[Any], *, timed: bool) -> None:
        """Training begins. One that has ended without saying so has failed."""
        self.end(Exception())
        monitor = TrainingMonitor(self._run_dir or folder, start_step=start_step, **self._options)
        self.monitor = monitor.__enter__()
        atexit.register(self._abandon)  # the framework does not tell of every error
        for optimizer in optimizers:
            self._watch(optimizer, timed=timed)
        self.touch()

    def _watch(self, optimizer: Any, *, timed: bool) -> None:
        if self.monitor is None:
            return
        try:
            self.monitor._watch(optimizer, timed=timed)
        except ParameterValidationError as error:  # a framework's own, such as DeepSpeed's
            _log.info("learning rate and skipped steps are not told: %s", error)

    def end(self, error: BaseException | None) -> None:
        """Training ends, with this error if there is one."""
        monitor = self.monitor
        if monitor is None:
            return
        self.close()
        self.monitor = None
        atexit.unregister(self._abandon)
        monitor.__exit__(None if error is None else type(error), error, None)

    def _abandon(self) -> None:
        self.end(getattr(sys, "last_value", None) or Exception())

    def touch(self) -> None:
        """What was done until now was no waiting for data."""
        if self.monitor is not None:
            self._idle_since = self.monitor._monotonic()

    def open(self) -> None:
        """A step begins; since the last touch, training has waited for its data."""
        self.close()
        if self.monitor is None:
            return
        self._samples = self._tokens = 0
        self.monitor._waited = self.monitor._monotonic() - self._idle_since
        self.step = self.monitor.step().__enter__()

    def stop(self) -> None:
        """The step under way has ended; more may be said of it."""
        if self.step is not None:
            self.step.samples = self._samples or None
            self.step.tokens = self._tokens or None
            self.step.stop()
        self.touch()

    def close(self) -> None:
        """Nothing more will be said of the step; one that has not ended does not count."""
        step, self.step = self.step, None
        if step is not None:
            has_ended = step._seconds is not None
            step.__exit__(None if has_ended else Exception, None, None)

    def current(self) -> Step | None:
        """The step under way, in its thread."""
        monitor, step = self.monitor, self.step
        if monitor is None or step is None or step._seconds is not None:
            return None
        return monitor._own_step()

    def switch(self, phase: str) -> None:
        """The step under way is in this phase from now on."""
        if (step := self.current()) is not None:
            step.switch(phase)

    def count(self, batch: Any) -> None:
        """Adds the samples and tokens of a batch to the step under way."""
        samples, tokens = _size(batch, 0)
        self._samples += samples
        self._tokens += tokens

    def add_suspect(self, loss: Any) -> None:
        """Of this loss only whether it is finite counts."""
        if (step := self.current()) is not None and isinstance(loss, Tensor) and loss.numel() == 1:
            held = hold("loss", loss)
            step._suspect = held if step._suspect is None or held is None else step._suspect + held

    def saved(self, step: int, seconds: float, path: Path | None) -> None:
        """A checkpoint was written."""
        if self.monitor is not None:
            self.monitor._saved(step, seconds, None if path is None else _bytes_of(path))
        self.touch()


def _size(batch: Any, depth: int) -> tuple[int, int]:
    """Samples and tokens of a batch: the first dimension of its first tensor, and the elements of ``input_ids``."""
    if isinstance(batch, Tensor):
        return (batch.shape[0] if batch.dim() else 0), 0
    if depth == _MAX_DEPTH:
        return 0, 0
    if isinstance(batch, Mapping):
        ids = batch.get(_TOKENS)
        if isinstance(ids, Tensor):
            return ids.shape[0], ids.numel()
        batch = batch.values()
    elif not isinstance(batch, list | tuple):
        return 0, 0
    for part in batch:
        if (found := _size(part, depth + 1))[0]:
            return found
    return 0, 0


def _bytes_of(path: Path) -> int | None:
    """Of a file, or of all files in a folder; None if there is nothing."""
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return None
