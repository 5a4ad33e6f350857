"""The adapter for transformers, in trainings by its Trainer."""

import math

import pytest
import torch
import transformers

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor import read_history
from gaudi3_rt.monitor.huggingface import MonitorCallback
from gaudi3_rt.optim import FusedAdamW


class Model(torch.nn.Module):
    """Predicts the next of ten tokens; its loss is NaN in the calls that it is told."""

    def __init__(self, bad=()):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 10)
        self.calls, self.bad = 0, bad

    def forward(self, input_ids, labels):
        """Loss and logits."""
        self.calls += self.training
        logits = self.embedding(input_ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if self.training and self.calls in self.bad:
            loss = loss * math.nan
        return {"loss": loss, "logits": logits}


def trainer(folder, callback, model=None, data=None, **options):
    """Of eleven sequences of six tokens, in batches of four."""
    ids = torch.arange(66).reshape(11, 6) % 10
    data = data or [{"input_ids": row, "labels": (row + 1) % 10} for row in ids]
    model = model or Model()
    arguments = {
        "output_dir": folder,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    optimizer = FusedAdamW(model.parameters(), lr=0.125)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[callback],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    )


def of(seen, kind):
    """The events of a class."""
    return [event for event in seen if isinstance(event, kind)]


def test_a_training_and_its_continuation(tmp_path, capfd):
    """Every step with all that the Trainer knows; checkpoints; a resumed run goes on counting."""
    callback = MonitorCallback(stall_seconds=None)
    with events.capture_events() as seen:
        training = trainer(tmp_path, callback, eval_strategy="epoch")
        training.train()
        trainer(tmp_path, callback, num_train_epochs=3).train(resume_from_checkpoint=True)
    steps = of(seen, events.StepCompleted)
    assert [step.step for step in steps] == list(range(1, 10))
    assert [step.samples for step in steps] == [4, 4, 3] * 3
    assert [step.tokens for step in steps] == [24, 24, 18] * 3
    logged = [entry for entry in training.state.log_history if "loss" in entry]
    assert [step.loss for step in steps[:6]] == [entry["loss"] for entry in logged]
    assert [step.gradient_norm for step in steps[:6]] == [entry["grad_norm"] for entry in logged]
    assert {step.learning_rate for step in steps} == {0.125}
    assert {step.skipped for step in steps} == {False}
    for step in steps:
        assert step.phases.keys() == {"data", "forward", "backward", "optimizer", "rest"}
        assert min(step.phases.values()) > 0
        assert sum(step.phases.values()) == pytest.approx(step.seconds)
    saved = of(seen, events.CheckpointCompleted)
    assert [event.step for event in saved] == [3, 6, 9]
    assert all(event.bytes > 400 and event.seconds > 0 for event in saved)
    assert seen.index(saved[0]) > seen.index(steps[2])
    assert [(event.outcome, event.step) for event in of(seen, events.RunFinished)] == [
        ("completed", 6),
        ("completed", 9),
    ]
    assert [event.start_step for event in of(seen, events.RunStarted)] == [0, 6]
    assert len(read_history(tmp_path).steps()) == 9
    assert not training.model._forward_hooks
    capfd.readouterr()


def test_accumulation_and_a_loss_that_the_trainer_hides(tmp_path, capfd):
    """One step is all batches of an optimizer step; what the Trainer's filter hides is seen."""
    with events.capture_events() as seen:
        callback = MonitorCallback(tmp_path / "run", stall_seconds=None)
        training = trainer(
            tmp_path, callback, Model(bad=(2,)), gradient_accumulation_steps=2, save_strategy="no", max_grad_norm=0.0
        )
        training.train()
    steps = of(seen, events.StepCompleted)
    assert [(step.samples, step.step) for step in steps] == [(8, 1), (3, 2), (8, 3), (3, 4)]
    (bad,) = of(seen, events.NonFiniteLoss)
    assert bad.step == 1
    assert math.isfinite(next(entry["loss"] for entry in training.state.log_history if "loss" in entry))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["history-rank0.jsonl"]
    capfd.readouterr()


def test_a_training_that_fails(tmp_path, capfd):
    """The Trainer does not tell; it is known when the next one begins, and the next one is not disturbed."""
    callback = MonitorCallback(stall_seconds=None)
    data = [{"input_ids": torch.full((6,), token), "labels": torch.zeros(6, dtype=torch.long)} for token in (1, 99)]
    with events.capture_events() as seen:
        with pytest.raises(IndexError):
            trainer(tmp_path, callback, data=data * 10, save_strategy="no").train()
        trainer(tmp_path, callback, save_strategy="no").train()
    assert [event.outcome for event in of(seen, events.RunFinished)] == ["failed", "completed"]
    with pytest.raises(ParameterValidationError, match="stall_factor"):
        MonitorCallback(stall_factor=0)
    capfd.readouterr()
