"""Figures that are on an HPU: the monitor reads them once a second at most, and never in the step that gave them."""

import math

import torch
from _hpu import Waits

from gaudi3_rt import events
from gaudi3_rt.monitor import TrainingMonitor
from gaudi3_rt.testing import FakeClock


def test_no_step_waits_for_its_loss(graph_compiler):  # noqa: ARG001 (the device)
    """Records come late, complete and in order, with the losses as they were when they were given."""
    clock = FakeClock()
    loss = torch.zeros((), device="hpu")
    waits_after, records_after = [], []
    with (
        events.capture_events(events.StepCompleted, events.NonFiniteLoss) as seen,
        TrainingMonitor(stall_seconds=None, clock=clock) as monitor,
        Waits() as waits,
    ):
        for number in range(1, 9):
            with monitor.step() as step:
                loss.fill_(math.nan if number == 5 else float(number))
                step.loss = loss
                loss.fill_(-1.0)  # by the next replay of a graph, for example
                clock.advance(0.4)
            waits_after.append(waits.count)
            records_after.append([event.step for event in seen if isinstance(event, events.StepCompleted)])
        with monitor.step():  # without a figure: it must not overtake
            clock.advance(0.4)
    # The first reading has nothing to read; the others are 1.2 seconds apart.
    assert waits_after == [0, 0, 0, 3, 3, 3, 6, 6]
    assert records_after[3] == [1, 2, 3]
    assert records_after[6] == [1, 2, 3, 4, 5, 6]
    steps = [event for event in seen if isinstance(event, events.StepCompleted)]
    assert [event.step for event in steps] == list(range(1, 10))
    assert [event.loss for event in steps if event.step != 5] == [1, 2, 3, 4, 6, 7, 8, None]
    assert all(math.isclose(event.time, 0.4 * event.step) for event in steps)
    (bad,) = (event for event in seen if isinstance(event, events.NonFiniteLoss))
    assert bad.step == 5
    assert seen.index(bad) == 5
