"""Training that no longer goes on is told of once, and so is that it goes on again."""

import threading

import pytest

from gaudi3_rt import events
from gaudi3_rt.monitor import TrainingMonitor
from gaudi3_rt.monitor._stall import Progress, StallWatch
from gaudi3_rt.testing import FakeClock

LONG = 30.0


class Training:
    """A watch whose thread is the test."""

    def __init__(self, *durations, phase=None, floor=10.0):
        self.clock = FakeClock()
        self.progress = Progress(0, 0.0)
        self.progress.durations.extend(durations)
        self.watch = StallWatch(
            self.progress, factor=10, floor=floor, first=100, rank=2, where=lambda: phase, clock=self.clock
        )

    def wait(self, seconds):
        """Lets time pass, with a look each second."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.watch.look()

    def end_step(self):
        """A step ends now."""
        self.progress.step += 1
        self.progress.alive = self.clock.monotonic()


@pytest.fixture
def seen():
    """Every event of the test."""
    with events.capture_events() as captured:
        yield captured


def test_told_once_and_when_it_goes_on(seen):
    """With the phase in which it hangs, and how long it took."""
    training = Training(3.0, 3.0, 90.0, phase="backward")
    training.end_step()
    training.wait(30)
    assert seen == []
    training.wait(40)
    (stalled,) = seen
    assert (stalled.step, stalled.rank, stalled.phase, stalled.kind) == (1, 2, "backward", "stall")
    assert (stalled.seconds, stalled.limit_seconds) == (31.0, 30.0)
    training.end_step()
    training.wait(40)
    assert seen[1] == events.TrainingResumed(time=seen[1].time, step=2, seconds=70.0, rank=2)
    assert [type(event) for event in seen[2:]] == [events.TrainingStalled]


@pytest.mark.parametrize(("durations", "limit"), [((), 100), ((0.1,), 10), ((0.1, 5.0, 5.0), 50)])
def test_the_limit(seen, durations, limit):
    """The first step may take longer; later ones a multiple of the median, and never less than the floor."""
    training = Training(*durations)
    training.wait(limit)
    assert seen == []
    training.wait(1)
    assert [event.limit_seconds for event in seen] == [limit]


def test_a_stopped_process_has_not_stalled(seen):
    """Time in which the watch itself could not look does not count; what comes after does."""
    training = Training(1.0)
    training.wait(5)
    training.clock.advance(3600)  # as by SIGSTOP
    training.wait(5)
    assert seen == []
    training.wait(10)
    (stalled,) = seen
    assert stalled.seconds < 20


def test_a_real_thread_sees_a_real_hang():
    """The step hangs until its stall is told; the phase is the one that it hangs in."""
    told = threading.Event()
    with (
        events.capture_events(events.TrainingStalled, events.TrainingResumed, events.RunFinished) as seen,
        events.subscribe(lambda event: event.phase == "data" and told.set(), events.TrainingStalled, inline=True),
        TrainingMonitor(stall_seconds=0.05, stall_factor=1, first_step_seconds=0.05) as monitor,
    ):
        with monitor.step():
            pass
        with monitor.step() as step, step.phase("data"):
            told.clear()  # a slow machine may have stalled before
            monitor.beat()
            assert told.wait(LONG)
    hung = max(number for number, event in enumerate(seen) if getattr(event, "phase", None) == "data")
    stalled, resumed, finished = *seen[hung : hung + 2], seen[-1]
    assert (stalled.step, stalled.phase, resumed.step, finished.step) == (1, "data", 2, 2)
    assert stalled.seconds > 0.05


def test_a_beat_is_a_sign_of_life(seen):
    """An evaluation is no stall as long as its batches end."""
    clock = FakeClock()
    with TrainingMonitor(stall_seconds=None, clock=clock) as monitor:
        watch = StallWatch(monitor._progress, factor=10, floor=10, first=10, rank=0, where=lambda: None, clock=clock)
        for _ in range(5):
            for _ in range(9):
                clock.advance(1)
                watch.look()
            monitor.beat()
        assert not any(isinstance(event, events.TrainingStalled) for event in seen)
