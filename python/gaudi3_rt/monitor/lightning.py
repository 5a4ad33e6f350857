"""Watches a Lightning ``Trainer``: ``Trainer(..., callbacks=[MonitorCallback()])``.

For both names of the package, ``lightning`` and ``pytorch_lightning``: the callback is one of each that is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gaudi3_rt.monitor._adapter import Adapter

__all__ = ["MonitorCallback"]

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _callback_classes() -> tuple[type, ...]:
    """Of the packages that are imported already; else of the first that is installed."""
    imported = [module for name in _NAMES if (module := sys.modules.get(name))]
    for name in _NAMES:
        if not imported:
            with contextlib.suppress(ModuleNotFoundError):
                imported = [importlib.import_module(name)]
    if not imported:
        msg = "monitor.lightning needs Lightning; install it with: pip install lightning"
        raise ImportError(msg)
    return tuple(module.Callback for module in imported)


_Base: Any = type("_Base", _callback_classes(), {})


class MonitorCallback(_Base):  # type: ignore[misc]  # whichever package is there
    """Events and history of a Lightning training, as of a :class:`gaudi3_rt.monitor.TrainingMonitor`.

    A step is what ends in an optimizer step, so with ``accumulate_grad_batches`` it has several batches. Its loss is
    the sum of what Lightning gives for each, which has divided them by their number. Samples are the first dimension
    of the first tensor of a batch, tokens the elements of its ``input_ids``.

    Args:
        run_dir: where the history is written; by default the Trainer's ``log_dir``, else its ``default_root_dir``.
        **options: of :class:`gaudi3_rt.monitor.TrainingMonitor`.

    Raises:
        ParameterValidationError: an option is out of range.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__()
        self._adapter = Adapter(run_dir, options)
        self._global_step = 0
        self._trainer: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning)
        """Starts the monitor."""
        self._global_step = trainer.global_step
        folder = trainer.log_dir or trainer.default_root_dir  # asks all ranks
        self._adapter.begin(folder, trainer.global_step, trainer.optimizers, timed=False)
        self._time_checkpoints(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Ends it."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Ends it."""
        self._end(exception)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """What comes now is waiting for data."""
        self._adapter.touch()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Opens a step, unless it has more batches."""
        if self._adapter.current() is None:
            self._adapter.open()
        self._adapter.count(batch)
        self._adapter.switch("forward")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:  # noqa: ARG002
        """Forward is done."""
        self._adapter.switch("backward")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Backward is done."""
        self._adapter.switch("rest")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002
        """The optimizer begins, with the clipping of gradients."""
        self._adapter.switch("optimizer")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Ends the step, unless it has more batches."""
        step = self._adapter.current()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if step is not None and isinstance(loss, Tensor) and loss.numel() == 1:
            held = loss.detach()
            step.loss = held if step.loss is None else step.loss + held
        self._adapter.switch("rest")
        if trainer.global_step != self._global_step:
            self._global_step = trainer.global_step
            self._adapter.stop()
            self._adapter.close()
        self._adapter.touch()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """An evaluation is under way."""
        if self._adapter.monitor is not None:
            self._adapter.monitor.beat()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """An evaluation is done."""
        self._adapter.touch()

    def _end(self, error: BaseException | None) -> None:
        self._adapter.end(error)
        if self._trainer is not None:
            del self._trainer.save_checkpoint
            self._trainer = None

    def _time_checkpoints(self, trainer: Any) -> None:
        """Puts a clock around the Trainer's method that writes checkpoints, for which there is no callback."""
        if self._trainer is not None:
            return
        save = trainer.save_checkpoint

        def timed(filepath: Any, *args: Any, **kwargs: Any) -> None:
            monitor = self._adapter.monitor
            if monitor is None:
                save(filepath, *args, **kwargs)
                return
            start = monitor._monotonic()
            save(filepath, *args, **kwargs)
            path = Path(filepath) if trainer.is_global_zero else None
            self._adapter.saved(monitor.completed, monitor._monotonic() - start, path)

        trainer.save_checkpoint = timed
        self._trainer = trainer
