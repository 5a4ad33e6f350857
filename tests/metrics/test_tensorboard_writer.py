"""The same figures in TensorBoard, read back by TensorBoard itself."""

import math
import os
import sys
import threading

import pytest

from gaudi3_rt import events, metrics
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.metrics import CATALOGUE, PREFIX

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter


def scalars(folder):
    """Steps and values by tag without the prefix."""
    read = EventAccumulator(str(folder)).Reload()
    return {
        tag.removeprefix(PREFIX): [(one.step, pytest.approx(one.value, nan_ok=True)) for one in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def step(number, seconds=0.5, **fields):
    """A step is done."""
    events.emit(events.StepCompleted, step=number, seconds=seconds, **fields)


def start(start_step=0):
    """A run begins or goes on."""
    events.emit(events.RunStarted, run_id="run", rank=0, local_rank=0, world_size=1, start_step=start_step)


def test_a_run(tmp_path):
    """Values as they are, durations as they are, counters as sums; names are the catalogue's."""
    with metrics.TensorBoardWriter(tmp_path, rank=3) as writer:
        start()
        step(1, samples=8, loss=2.0, phases={"forward": 0.2, "rest": 0.3})
        events.emit(events.DeviceSampled, device="hpu:0", simulated=True, interval_seconds=5.0, power_watts=300.0)
        step(2, samples=8, loss=math.inf, skipped=True)
        events.emit(events.NonFiniteLoss, step=2, loss=math.inf)
        step(3, samples=8)
    assert [path.name for path in tmp_path.iterdir()] == ["rank3"]
    found = scalars(writer.folder)
    assert found == {
        "training_steps_total": [(1, 1), (2, 2), (3, 3)],
        "training_samples_total": [(1, 8), (2, 16), (3, 24)],
        "training_skipped_steps_total": [(2, 1), (3, 1)],
        "training_step_duration_seconds": [(1, 0.5), (2, 0.5), (3, 0.5)],
        "training_phase_duration_seconds/forward": [(1, 0.2)],
        "training_phase_duration_seconds/rest": [(1, 0.3)],
        "training_samples_per_second": [(1, 16), (2, 16), (3, 16)],
        "training_loss": [(1, 2.0), (2, math.inf)],
        "training_anomalies_total/non_finite_loss": [(2, 1)],
        "device_power_watts/hpu:0/true": [(1, 300.0)],
    }
    assert {PREFIX + tag.partition("/")[0] for tag in found} <= {metric.name for metric in CATALOGUE}


def test_a_run_that_goes_on_hides_what_was_undone(tmp_path):
    """Steps after the checkpoint are there once, as the resumed run made them; in another process or in this one."""
    for attempt in range(2):
        with metrics.TensorBoardWriter(tmp_path, rank=0) as writer:
            start(2 * attempt)
            for number in range(2 * attempt + 1, 5):
                step(number, loss=float(10 * attempt + number))
    assert scalars(writer.folder)["training_loss"] == [(1, 1), (2, 2), (3, 13), (4, 14)]
    with metrics.TensorBoardWriter(tmp_path, rank=0):
        start(4)
        step(5, loss=25.0)
        start(4)
        step(5, loss=35.0)
    assert scalars(writer.folder)["training_loss"] == [(1, 1), (2, 2), (3, 13), (4, 14), (5, 35)]


def test_some_steps_only(tmp_path):
    """All are counted."""
    with metrics.TensorBoardWriter(tmp_path, rank=0, every=3) as writer:
        for number in range(1, 8):
            step(number)
    assert scalars(writer.folder)["training_steps_total"] == [(3, 3), (6, 6)]
    for every in (0, 1.5, True):
        with pytest.raises(ParameterValidationError, match="must be a whole number of steps"):
            metrics.TensorBoardWriter(tmp_path, every=every)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_writes_nothing(tmp_path):
    """And does not wait for the thread that would."""
    with metrics.TensorBoardWriter(tmp_path, rank=0) as writer:
        step(1)
        assert writer._subscription.flush(30)
        child = os.fork()
        if child == 0:
            for number in range(100):
                step(number)
            ended = writer._subscription.flush(30)
            writer.__exit__(None, None, None)
            os._exit(0 if ended else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert scalars(writer.folder)["training_steps_total"] == [(1, 1)]


def test_without_tensorboard(tmp_path, monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "gaudi3_rt\[tensorboard\]"'):
        metrics.TensorBoardWriter(tmp_path)


def test_a_file_system_that_hangs_ends_no_training(tmp_path, monkeypatch, caplog):
    """The end waits for a while, and then leaves the file to the thread that is in the middle of writing it."""
    begun, goes_on = threading.Event(), threading.Event()
    add_scalar = SummaryWriter.add_scalar

    def hang(*given, **named):
        begun.set()
        assert goes_on.wait(30)
        add_scalar(*given, **named)

    monkeypatch.setattr(SummaryWriter, "add_scalar", hang)
    with metrics.TensorBoardWriter(tmp_path, rank=0) as writer:
        step(1)
        subscription = writer._subscription
        monkeypatch.setattr(subscription, "close", lambda close=subscription.close: close(0.001))
        assert not subscription.flush(0)
        assert begun.wait(30)
        thread, left = subscription._thread, writer._writer
        monkeypatch.setattr(left, "close", lambda: pytest.fail("it would hang, too"))
    assert f"the last scalars in {writer.folder} may be missing: the file system does not answer" in caplog.text
    monkeypatch.undo()
    goes_on.set()
    thread.join(30)
    left.close()


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, caplog):
    """It is said when the writer is left."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.close", full)
    with metrics.TensorBoardWriter(tmp_path, rank=0) as writer:
        events.emit(events.StepCompleted, step=1, seconds=1.0)
    assert f"the last scalars in {writer.folder} may be missing: [Errno 28] No space left on device" in caplog.text
