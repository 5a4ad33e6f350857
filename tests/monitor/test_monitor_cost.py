"""What a monitored step takes of the training thread, in calls of torch on a tensor of one element."""

import time

import torch

from gaudi3_rt import events
from gaudi3_rt.monitor import TrainingMonitor

COUNT = 300
ROUNDS = 15
CALLS = 25  # of about a microsecond each; a step took 12 of them


def seconds(body):
    """Of this thread's own time, for many calls."""
    start = time.thread_time()
    for _ in range(COUNT):
        body()
    return time.thread_time() - start


def test_the_cost_of_a_step(tmp_path):
    """With three phases, a loss, the history, and another hook behind a queue."""
    loss = torch.tensor(0.5)
    with (
        TrainingMonitor(tmp_path) as monitor,
        events.subscribe(lambda _: None, events.StepCompleted, events.Anomaly),
    ):

        def step():
            with monitor.step(samples=8, tokens=4096) as one:
                for phase in ("forward", "backward", "optimizer"):
                    with one.phase(phase):
                        pass
                one.loss = loss

        def call():
            torch.add(loss, loss)

        rounds = [(seconds(step), seconds(call)) for _ in range(ROUNDS)]
    of_step, of_call = (min(times) for times in zip(*rounds, strict=True))
    assert of_step < CALLS * of_call
