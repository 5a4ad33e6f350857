"""What does watching memory cost a training?"""

from __future__ import annotations

from bench_training import Trainer
from harness import OURS, Lab, Rival, Row, Wanted

from gaudi3_rt.memory import MemoryMonitor

STEP = "training step"
FULL = 2048
"""Samples after which the timeline is full: looking for leaks costs most from then on."""


def test_memory_sample(lab: Lab) -> None:
    """One sample of this process against one training step.

    At one sample a second the share of a training is the time of a sample over a second, whatever a step takes: 1 ms
    is 0.1 %. A round takes 8 samples, because every eighth looks for leaks.
    """
    monitor = MemoryMonitor()
    for _ in range(FULL):
        monitor.step()
        monitor.sample()
    trainer = Trainer(lab.scale, OURS)

    def eight_samples() -> None:
        for _ in range(8):
            monitor.sample()

    lab.benchmark.group = "memory"
    rounds = lab.race({OURS: Rival(eight_samples), STEP: Rival(trainer.step)})
    assert monitor.failures == 0
    samples = {OURS: [seconds / 8 for seconds in rounds[OURS]], STEP: rounds[STEP]}
    lab.rows.append(Row("memory sample, 1 a second", "", samples, rival=STEP, wanted=[Wanted("ms", 1.0)]))
