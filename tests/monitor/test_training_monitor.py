"""Steps as records: their parts, their figures; and what is refused."""

import math
import threading

import numpy as np
import pytest
import torch
from _watching import fail, of, watch

from gaudi3_rt import events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.monitor import TrainingMonitor


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
