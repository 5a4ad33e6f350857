"""Steps as records: their parts, their figures, their ends; and what is refused."""

import importlib
import json
import math
import os
import sys
import threading

import numpy as np
import pytest
import torch

from gaudi3_rt import amp, events
from gaudi3_rt.errors import HPUNotAvailableError, ParameterValidationError, UnrecognizedError
from gaudi3_rt.monitor import TrainingMonitor
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.testing import FakeClock


@pytest.fixture
def clock():
    """Time that the test moves."""
    return FakeClock(1000.0)


@pytest.fixture
def seen():
    """Every event of the test."""
    with events.capture_events() as captured:
        yield captured


def watch(clock, **options):
    """A monitor without threads, on a clock of the test."""
    return TrainingMonitor(clock=clock, **{"stall_seconds": None, **options})


def fail(error):
    """As training code does."""
    raise error


def of(seen, kind):
    """The events of a class."""
    return [event for event in seen if isinstance(event, kind)]


def test_a_step_and_its_parts(clock, seen):
    """Phases may lie in one another, and with the rest their sum is the step; waiting for data belongs to it."""

    def batches():
        for batch in range(2):
            clock.advance(0.5)
            yield batch

    with watch(clock, run_id="a run") as monitor:
        for _ in monitor.data(batches()):
            clock.advance(100)  # between data and step: nobody's
            with monitor.step(samples=8, tokens=4096) as step:
                with step.phase("forward"):
                    clock.advance(1)
                    with step.phase("communication"):
                        clock.advance(0.25)
                clock.advance(0.125)
                with step.phase("forward"):
                    clock.advance(1)
                step.loss = torch.tensor(2.5, requires_grad=True)
                step.accuracy = np.float32(0.5)
    started, first, _, finished = seen
    assert started == events.RunStarted(
        time=started.time, run_id="a run", rank=0, local_rank=0, world_size=1, start_step=0
    )
    assert first == events.StepCompleted(
        time=1000 + 102.875,
        step=1,
        seconds=2.875,
        phases={"data": 0.5, "forward": 2.0, "communication": 0.25, "rest": 0.125},
        samples=8,
        tokens=4096,
        loss=2.5,
        accuracy=0.5,
    )
    assert (finished.step, finished.outcome, finished.error) == (2, "completed", None)


def test_data_inside_a_step(clock, seen):
    """With accumulation the step is around several batches; other threads' waits are not training's."""
    loader = torch.utils.data.DataLoader(list(range(6)), batch_size=2)
    with watch(clock) as monitor:
        data = monitor.data(loader)
        assert len(data) == 3
        assert data.batch_size == 2

        def slowly():
            yield clock.advance(3)

        with monitor.step() as step:
            with step.phase("forward"):
                list(monitor.data(slowly()))
                clock.advance(1)
            other = threading.Thread(target=lambda: list(monitor.data(slowly())))
            other.start()
            other.join()
            assert [batch.tolist() for batch in data] == [[0, 1], [2, 3], [4, 5]]
        with monitor.step():
            pass
    done, after = of(seen, events.StepCompleted)
    assert done.phases == {"forward": 1.0, "data": 3.0, "rest": 3.0}
    assert after.phases == {}


def test_figures_of_our_optimizer(clock, seen):
    """Norm, skipped steps and learning rate are what the kernel has found; a stale norm is not told again."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = FusedAdamW([param], lr=0.125, max_grad_norm=1.0)
    scaler = amp.GradScaler("cpu", init_scale=1.0)
    optimizer.register_step_pre_hook(lambda *_: clock.advance(2))
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for value in (2.0, math.inf, 2.0):
            with monitor.step(), torch.no_grad():
                clock.advance(1)
                param.grad = torch.full((3,), value)
                scaler.scale(torch.tensor(1.0))
                scaler.step(optimizer)
                scaler.update()
    steps = of(seen, events.StepCompleted)
    assert [step.skipped for step in steps] == [False, True, False]
    assert steps[0].gradient_norm == pytest.approx(math.sqrt(12))
    assert steps[1].gradient_norm == math.inf
    assert [step.learning_rate for step in steps] == [0.125] * 3
    (bad,) = of(seen, events.Anomaly)
    assert bad == events.NonFiniteGradient(time=bad.time, step=2, gradient_norm=math.inf, skipped=True)
    assert seen.index(bad) == seen.index(steps[1]) + 1
    optimizer.max_grad_norm = None
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        with monitor.step(), torch.no_grad():
            optimizer.step()
    last = of(seen, events.StepCompleted)[-1]
    assert (last.gradient_norm, last.skipped, list(last.phases)) == (None, False, ["rest", "optimizer"])


def test_stock_optimizers_are_timed(clock, seen):
    """Their steps are a phase; a scaler that skips them is seen; the hooks are gone when the monitor is."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([param], lr=torch.tensor(0.5))
    monitor = watch(clock)
    with monitor:
        monitor.watch(optimizer)

        def closure():
            clock.advance(2)
            return torch.tensor(1.0)

        with monitor.step():
            clock.advance(1)
            optimizer.step(closure)
        with monitor.step() as step:
            with step.phase("optimizer"):
                optimizer.step(closure)
            clock.advance(1)
        with monitor.step() as step:
            step.gradient_norm = torch.tensor(3.0)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    steps = of(seen, events.StepCompleted)
    assert [step.phases for step in steps] == [{"rest": 1.0, "optimizer": 2.0}, {"rest": 1.0, "optimizer": 2.0}, {}]
    assert of(seen, events.Anomaly) == []  # a skipped step is none, unless its gradients were looked at
    assert [(step.learning_rate, step.skipped) for step in steps] == [(0.5, False), (0.5, False), (None, True)]
    optimizer.step()
    with pytest.raises(ParameterValidationError, match=r"torch\.optim\.Optimizer"), watch(clock) as monitor:
        monitor.watch("adamw")


def test_a_compiled_step(clock, seen):
    """It has taken a step, and its findings are told; time and learning rate are not."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = FusedAdamW([param], max_grad_norm=1.0)
    compiled = torch.compile(optimizer.step, backend="eager")
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for value in (1.0, 2.0, 2.0):
            with monitor.step():
                param.grad = torch.full((3,), value)
                compiled()
        with monitor.step():
            pass
    steps = of(seen, events.StepCompleted)
    assert [step.skipped for step in steps] == [False, False, False, True]
    norms = [math.sqrt(3), math.sqrt(12), math.sqrt(12)]
    assert [step.gradient_norm for step in steps] == [*map(pytest.approx, norms), None]
    assert {step.learning_rate for step in steps} == {None}


def test_a_step_that_fails_is_none(clock, seen):
    """The next one has its number; phases and data are its own."""
    with watch(clock, start_step=10) as monitor:
        with pytest.raises(RuntimeError, match="out of memory"), monitor.step() as step, step.phase("forward"):
            fail(RuntimeError("out of memory"))
        with monitor.step() as step:
            with pytest.raises(KeyError), step.phase("forward"), step.phase("backward"):
                clock.advance(1) or fail(KeyError())
            clock.advance(2)
    (done,) = of(seen, events.StepCompleted)
    assert (done.step, done.phases) == (11, {"forward": 0.0, "backward": 1.0, "rest": 2.0})
    assert seen[0].start_step == 10


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (ValueError("?"), "failed", UnrecognizedError.code),
        (ParameterValidationError("lr=-1"), "failed", ParameterValidationError.code),
        (
            RuntimeError("Device acquire failed. synStatus=20 [Device already acquired]"),
            "failed",
            HPUNotAvailableError.code,
        ),
        (KeyboardInterrupt(), "interrupted", None),
        (SystemExit(1), "interrupted", None),
    ],
)
def test_how_a_run_ends(clock, seen, error, outcome, code):
    """Said whatever happened, with what it means, and the next monitor can run."""
    with pytest.raises(type(error)), watch(clock) as monitor, monitor.step():
        raise error
    end = seen[-1]
    assert (end.outcome, end.error, end.code, end.step) == (outcome, type(error).__name__, code, 0)
    with watch(clock):
        pass
    assert (seen[-1].outcome, seen[-1].code) == ("completed", None)


def test_an_interrupt_while_a_run_begins(clock, seen, tmp_path):
    """Nothing of it is left: no thread, no hook, and the next monitor can run."""

    def interrupt(_):
        raise KeyboardInterrupt

    threads = threading.active_count()
    with events.subscribe(interrupt, events.RunStarted, inline=True), pytest.raises(KeyboardInterrupt):
        TrainingMonitor(tmp_path).__enter__()
    assert threading.active_count() == threads
    assert seen[-1].outcome == "interrupted"
    with watch(clock) as monitor, monitor.step():
        pass
    assert (seen[-1].outcome, seen[-1].step) == ("completed", 1)


def test_figures_that_make_no_sense_stop_no_training(clock, seen):
    """An optimizer without a learning rate, and a count that is not finite."""

    class Plain(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self):
            pass

    optimizer = Plain([torch.ones(1)])
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        with monitor.step(samples=float("nan"), tokens=torch.tensor(float("inf"))):
            optimizer.step()
    (step,) = of(seen, events.StepCompleted)
    assert (step.learning_rate, step.samples, step.tokens, step.skipped) == (None, None, None, False)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_of_torch_skips(clock, seen, fused):
    """It does not call the optimizer, or tells a fused one, which leaves the parameters as they were."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([param], fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    with watch(clock) as monitor:
        monitor.watch(optimizer)
        for factor in (1.0, float("inf"), 1.0):
            with monitor.step():
                optimizer.zero_grad()
                scaler.scale((param * factor).sum()).backward()
                before = param.detach().clone()
                scaler.step(optimizer)
                scaler.update()
            assert torch.equal(param, before) == (factor != 1.0)
    assert [step.skipped for step in of(seen, events.StepCompleted)] == [False, True, False]


def test_what_is_refused(clock):
    """Each says what to do instead."""
    idle = watch(clock)
    with pytest.raises(ParameterValidationError, match="not running"):
        idle.step()
    with watch(clock) as monitor:
        with pytest.raises(ParameterValidationError, match="already"), idle:
            pass
        with monitor.step() as step:
            with pytest.raises(ParameterValidationError, match="one step is around all batches"), monitor.step():
                pass
            errors = []

            def elsewhere():
                try:
                    with step.phase("forward"):
                        pass
                except ParameterValidationError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert "thread" in errors[0]
            for value in (torch.ones(2), "2.5", 1j, torch.tensor(1j), torch.empty((), device="meta")):
                with pytest.raises(ParameterValidationError, match="loss"):
                    step.loss = value
        with pytest.raises(ParameterValidationError, match="entered before"), step:
            pass
        assert monitor.completed == 1


@pytest.mark.parametrize(
    "options",
    [
        {"start_step": -1},
        {"stall_factor": 0.5},
        {"stall_seconds": 0.0},
        {"first_step_seconds": math.nan},
        {"straggler_share": 0.0},
        {"exchange_seconds": math.inf},
        {"read_seconds": -1.0},
    ],
)
def test_options_out_of_range(options):
    """The message begins with the option."""
    with pytest.raises(ParameterValidationError, match=f"^{next(iter(options))}="):
        TrainingMonitor(**options)


def test_ranks_of_a_launcher(clock, seen, monkeypatch, tmp_path):
    """Numbers and name of the run are torchrun's; the name is the folder's without one."""
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    with watch(clock, run_dir=tmp_path / "my run", straggler_share=None):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    with watch(clock):
        pass
    first, second = of(seen, events.RunStarted)
    assert (first.rank, first.local_rank, first.world_size, first.run_id) == (3, 1, 8, "my run")
    assert second.run_id == "job 7"
    assert [path.name for path in (tmp_path / "my run").iterdir()] == ["history-rank3.jsonl"]


def test_checkpoints(clock, seen):
    """Inside a step they are a phase, outside of one they are not; one that fails is none."""
    with watch(clock) as monitor:
        with monitor.step(), monitor.checkpoint() as checkpoint:
            clock.advance(3)
            checkpoint.bytes = 1 << 20
        with monitor.checkpoint():
            clock.advance(4)
        with pytest.raises(OSError, match="full"), monitor.checkpoint():
            fail(OSError("full"))
    saved = of(seen, events.CheckpointCompleted)
    assert [(event.step, event.seconds, event.bytes) for event in saved] == [(1, 3.0, 1 << 20), (1, 4.0, None)]
    assert of(seen, events.StepCompleted)[0].phases == {"rest": 0.0, "checkpoint": 3.0}


def test_a_forked_child_is_not_the_rank(clock, tmp_path):
    """It is told so, writes nothing, and may run a monitor of its own."""
    with watch(clock, run_dir=tmp_path / "run") as monitor:
        with monitor.step():
            pass
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(ParameterValidationError, match="forked"):
                    monitor.step()
                monitor.__exit__(None, None, None)
                with watch(clock, run_dir=tmp_path / "other") as own, own.step():
                    pass
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = [
        [json.loads(line)["event"] for line in file.read_text().splitlines()]
        for file in sorted(tmp_path.rglob("*.jsonl"))
    ]
    assert lines == [["RunStarted", "StepCompleted", "RunFinished"]] * 2


@pytest.mark.parametrize(
    ("adapter", "missing", "install"),
    [
        ("huggingface", ("transformers",), "pip install transformers accelerate"),
        ("lightning", ("lightning", "lightning.pytorch", "pytorch_lightning"), "pip install lightning"),
    ],
)
def test_a_framework_that_is_not_installed(monkeypatch, adapter, missing, install):
    """Is named, with how to get it."""
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"gaudi3_rt.monitor.{adapter}", raising=False)
    with pytest.raises(ImportError, match=install):
        importlib.import_module(f"gaudi3_rt.monitor.{adapter}")
