"""The adapter for Lightning, under both of its names, in trainings by its Trainer."""

import importlib
import math
import subprocess
import sys

import pytest
import torch

from gaudi3_rt import events
from gaudi3_rt.monitor import read_history

NAMES = ("lightning.pytorch", "pytorch_lightning")
ALONE = """
import sys
from gaudi3_rt.monitor.lightning import MonitorCallback
assert not {"lightning.pytorch", "pytorch_lightning"} <= sys.modules.keys()
"""
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of several kinds


@pytest.fixture(params=NAMES)
def pl(request):
    """The package, under one of its names."""
    return pytest.importorskip(request.param, reason=f"{request.param.partition('.')[0]} is not installed")


def module(pl, fails_at=None, validates=False):
    """A linear model."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(5, 1)
            with torch.no_grad():
                self.layer.weight.fill_(1.0)
                self.layer.bias.zero_()

        def training_step(self, batch, index):
            if index == fails_at:
                raise ArithmeticError
            return {"loss": self.layer(batch[0]).square().mean()}

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.125)

    if validates:
        Module.validation_step = lambda *_: None
    return Module()


def fit(pl, folder, callback, model, **options):
    """Ten batches of four samples of five numbers."""
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        **options,
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(40, 5)), batch_size=4)
    trainer.fit(model, loader, loader)
    return trainer


def callback_of(pl, **options):
    """Made after the package was imported."""
    sys.modules.pop("gaudi3_rt.monitor.lightning", None)
    adapter = importlib.import_module("gaudi3_rt.monitor.lightning")
    callback = adapter.MonitorCallback(stall_seconds=None, **options)
    assert isinstance(callback, pl.Callback)
    return callback


def of(seen, kind):
    """The events of a class."""
    return [event for event in seen if isinstance(event, kind)]


def test_a_training(pl, tmp_path, capfd):
    """Every step with its parts, its loss and its samples; the checkpoint at the end; evaluations are no steps."""
    with events.capture_events() as seen:
        trainer = fit(pl, tmp_path, callback_of(pl), module(pl, validates=True))
    steps = of(seen, events.StepCompleted)
    assert [step.step for step in steps] == list(range(1, 11))
    assert {step.samples for step in steps} == {4}
    assert steps[0].loss > steps[-1].loss > 0
    assert {step.learning_rate for step in steps} == {0.125}
    assert {step.skipped for step in steps} == {False}
    for step in steps:
        assert step.phases.keys() == {"data", "forward", "backward", "optimizer", "rest"}
        assert sum(step.phases.values()) == pytest.approx(step.seconds)
    (saved,) = of(seen, events.CheckpointCompleted)
    assert (saved.step, saved.bytes > 500) == (10, True)
    assert "save_checkpoint" not in vars(trainer)
    assert of(seen, events.RunFinished)[0].outcome == "completed"
    assert len(read_history(tmp_path).steps()) == 10
    capfd.readouterr()


def test_accumulation(pl, tmp_path, capfd):
    """One step is all batches of an optimizer step, and its loss is their mean."""
    with events.capture_events() as seen:
        fit(pl, tmp_path, callback_of(pl), module(pl), accumulate_grad_batches=4, enable_checkpointing=False)
    steps = of(seen, events.StepCompleted)
    assert [step.samples for step in steps] == [16, 16, 8]
    assert steps[0].loss == pytest.approx(25.0)
    capfd.readouterr()


def test_a_training_that_fails(pl, tmp_path, capfd):
    """It says so, with the error; a loss that is not finite is told."""
    model = module(pl, fails_at=5)
    with torch.no_grad():
        model.layer.bias.fill_(math.inf)
    with events.capture_events() as seen, pytest.raises(ArithmeticError):
        fit(pl, tmp_path, callback_of(pl), model, enable_checkpointing=False)
    (finished,) = of(seen, events.RunFinished)
    assert (finished.outcome, finished.error, finished.step) == ("failed", "ArithmeticError", 5)
    assert of(seen, events.NonFiniteLoss)[0].step == 1
    capfd.readouterr()


@pytest.mark.usefixtures("pl")
def test_one_package_is_enough():
    """Without either imported, only one is."""
    done = subprocess.run([sys.executable, "-c", ALONE], check=False, timeout=200, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
