"""Watches a ``transformers.Trainer``: ``Trainer(..., callbacks=[MonitorCallback()])``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    msg = (
        "monitor.huggingface needs transformers and accelerate; install them with: pip install transformers accelerate"
    )
    raise ImportError(msg) from error

from gaudi3_rt.monitor._adapter import Adapter

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):
    """Events and history of a ``Trainer``'s training, as of a :class:`gaudi3_rt.monitor.TrainingMonitor`.

    Loss, norm of the gradients and learning rate are what the Trainer logs, at its logging steps: ``logging_steps=1``
    for each. That the loss of the model is not finite is seen in every step, also where the Trainer's
    ``logging_nan_inf_filter`` hides it. Samples and tokens are counted in the inputs of the model. ``backward`` is
    what lies between the model and the optimizer, with the clipping of gradients. A model that is compiled
    (``torch_compile``) is not looked into: samples, tokens, forward and backward are not told.

    Args:
        run_dir: where the history is written; by default the Trainer's ``output_dir``.
        **options: of :class:`gaudi3_rt.monitor.TrainingMonitor`.

    Raises:
        ParameterValidationError: an option is out of range.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self._adapter = Adapter(run_dir, options)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 (transformers)
        """Starts the monitor."""
        self._remove_hooks()
        optimizer, model = kwargs.get("optimizer"), kwargs.get("model")
        optimizers = [] if optimizer is None else [optimizer]
        self._adapter.begin(args.output_dir, state.global_step, optimizers, timed=True)
        if model is not None and not args.torch_compile:
            self._hooks = [
                model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                model.register_forward_hook(self._after_forward),
            ]

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Ends it."""
        self._remove_hooks()
        self._adapter.end(None)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """What comes now is waiting for data."""
        self._adapter.touch()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Opens a step."""
        self._adapter.open()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """One of several batches is done."""
        self._adapter.switch("rest")

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Backward and clipping are done."""
        self._adapter.switch("rest")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Ends the step; its figures are logged afterwards."""
        self._adapter.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Figures of the step that has just ended."""
        step = self._adapter.step
        if step is not None and step._seconds is not None and logs and "loss" in logs:
            step.loss = logs["loss"]
            for name, logged in (("gradient_norm", "grad_norm"), ("learning_rate", "learning_rate")):
                if logged in logs:
                    setattr(step, name, logs[logged])
        self._adapter.touch()

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """An evaluation is under way."""
        if self._adapter.monitor is not None:
            self._adapter.monitor.beat()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """An evaluation is done."""
        self._adapter.touch()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 (transformers)
        """A checkpoint was written since the last callback."""
        adapter = self._adapter
        if adapter.monitor is None:
            return
        seconds = adapter.monitor._monotonic() - adapter._idle_since
        adapter.close()
        path = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        adapter.saved(state.global_step, seconds, path if state.is_world_process_zero else None)

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _before_forward(self, model: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if model.training and self._adapter.current() is not None:
            self._adapter.count(kwargs or args)
            self._adapter.switch("forward")

    def _after_forward(self, model: torch.nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002 (torch)
        if model.training and self._adapter.current() is not None:
            self._adapter.add_suspect(output.get("loss") if hasattr(output, "get") else None)
            self._adapter.switch("backward")
