"""A rank that the others wait for is found, without any rank ever waiting for the comparison."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gaudi3_rt import events
from gaudi3_rt.monitor import read_history
from gaudi3_rt.monitor._stall import Progress
from gaudi3_rt.monitor._stragglers import RankTimes, own_seconds

TRAINING = """
import os, signal, sys, threading, time
import torch
import torch.distributed as dist
from gaudi3_rt import events
from gaudi3_rt.monitor import TrainingMonitor

run_dir, rank = sys.argv[1], int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{run_dir}/rendezvous", rank=rank, world_size=3)
survivors = dist.new_group([0, 1])
told, flag = threading.Event(), torch.zeros(1)
with (
    events.subscribe(lambda event: told.set(), events.StragglerDetected, inline=True),
    TrainingMonitor(run_dir, exchange_seconds=0.05) as monitor,
):
    while not flag.item():
        if rank == 2 and monitor.completed == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        with monitor.step() as step:
            with step.phase("forward"):
                time.sleep(0.05 if rank == 1 else 0.005)
            with step.phase("backward"):  # here the fast rank waits for the slow one
                flag.fill_(told.is_set())
                if rank != 2:
                    dist.all_reduce(flag, group=survivors)
"""


def test_real_processes(tmp_path):
    """Steps take equally long, and yet the slow rank is named; one that dies changes nothing for the others."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    environment = {**os.environ, "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-c", TRAINING, run_dir],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(3)
    ]
    try:
        statuses = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert statuses == [0, 0, -signal.SIGKILL]
    history = read_history(run_dir)
    (found,) = history.of("StragglerDetected")
    assert (found["rank"], found["reported_by"], found["recorded_by"]) == (1, 0, 0)
    assert found["seconds"] >= 0.05
    assert found["seconds"] > found["usual_seconds"] >= 0.005  # by how much depends on what else the machine does
    assert history.ranks == (0, 1, 2)
    assert sorted(end["rank"] for end in history.of("RunFinished")) == [0, 1]


class Ranks:
    """Comparisons of ranks in one process, each of which the test asks for."""

    def __init__(self, run_dir, n_ranks, share=0.2):
        self.progress = [Progress(0, 0.0) for _ in range(n_ranks)]
        self.times = [
            RankTimes(run_dir, rank=rank, world_size=n_ranks, progress=progress, share=share, interval=1.0)
            for rank, progress in enumerate(self.progress)
        ]

    def compare(self, *own, times=1, seconds=1.0):
        """Each rank takes some steps of so many seconds of its own, and then all compare; None: it is dead."""
        for _ in range(times):
            for progress, of_rank in zip(self.progress, own, strict=True):
                if of_rank is None:
                    continue
                progress.own.extend([of_rank] * 101)
                progress.durations.extend([seconds] * 101)
                progress.step += 101
            for rank, of_rank in reversed(list(enumerate(own))):
                if of_rank is not None:
                    self.times[rank].exchange()


@pytest.fixture
def found():
    """The stragglers that were named."""
    with events.capture_events(events.StragglerDetected) as captured:
        yield captured


def test_told_once_while_it_lasts(tmp_path, found):
    """After three comparisons in a row; again only if it was as fast as the others in between."""
    ranks = Ranks(tmp_path, 3)
    ranks.compare(0.2, 0.2, 0.2)  # what may be left of an earlier run is not looked at
    ranks.compare(0.2, 0.45, 0.2, times=2)
    ranks.compare(0.2, 0.2, 0.2)
    ranks.compare(0.2, 0.45, 0.2, times=2)
    assert found == []
    ranks.compare(0.2, 0.45, 0.2, times=5)
    ranks.compare(0.2, 0.35, 0.2, times=5)
    assert [(event.rank, event.seconds, event.usual_seconds) for event in found] == [(1, 0.45, 0.2)]
    ranks.compare(0.2, 0.21, 0.2)
    ranks.compare(0.9, 0.2, 0.2, times=3)
    assert [event.rank for event in found] == [1, 0]


def test_what_nobody_notices_is_nothing(tmp_path, found):
    """Twice as slow in a part that is a tenth of the step; and a rank by itself."""
    ranks = Ranks(tmp_path, 2)
    ranks.compare(0.1, 0.2, times=10)
    ranks.compare(0.1, None, times=10)
    assert found == []


def test_ranks_that_are_gone_do_not_count(tmp_path, found):
    """Neither one that writes no more, nor what an earlier run has left; nor what is no record."""
    ranks = Ranks(tmp_path, 4)
    ranks.compare(0.2, 0.2, 0.2, 0.2)
    (tmp_path / "ranks" / "rank1.json").write_text('{"number": 7')
    (tmp_path / "ranks" / "rank2.json").write_text(json.dumps({"number": 9, "step": 5, "seconds": 1.0, "own": 0.9}))
    (tmp_path / "ranks" / "rank3.json").write_text("[]")
    ranks = Ranks(tmp_path, 4)
    ranks.compare(0.2, None, None, None, times=20)
    assert found == []


def test_a_folder_that_is_gone(tmp_path, found, caplog):
    """Said once; comparing goes on when it can."""
    ranks = Ranks(tmp_path / "run", 2)
    (tmp_path / "run").touch()
    ranks.compare(0.2, 0.9, times=3)
    assert len(caplog.messages) == 2  # one for each rank
    (tmp_path / "run").unlink()
    ranks.compare(0.2, 0.9, times=5)
    assert [event.rank for event in found] == [1]
    (tmp_path / "run" / "ranks" / "rank1.new").touch()  # as a full disk leaves it
    for times in ranks.times:
        times.stop()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("phases", "own"),
    [
        ({}, 10),
        ({"forward": 3, "backward": 5, "rest": 2}, 5),
        ({"data": 1, "optimizer": 2, "rest": 7}, 3),
        ({"forward": 3, "backward": 4, "communication": 1, "checkpoint": 1, "rest": 1}, 4),
    ],
)
def test_time_of_ones_own(phases, own):
    """Backward, and where it may hide, is shared."""
    assert own_seconds(10, phases) == own
