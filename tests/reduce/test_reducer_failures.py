"""A rank that dies, hangs or gives up: every survivor raises one and the same error, and keeps its own gradients."""

import datetime as dt
import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from _ranks import leave, prepare, start_processes
from _reducing import GradientReducer, digest, loss_of, network

from gaudi3_rt import events
from gaudi3_rt.errors import NetworkConnectionError
from gaudi3_rt.reduce import _failure
from gaudi3_rt.reduce._failure import Court, Report, judge
from gaudi3_rt.testing import FakeClock

WORLD = 4
TIMEOUT = 10.0  # a quarter of it is for the verdict: more than ranks of one machine are apart
# How a rank fails, which one, the ranks of the group (a dead one takes part in nothing more), the algorithm.
CASES = [
    ("gives up", 3, (0, 1, 2, 3), "tree"),
    ("refuses", 1, (0, 1, 2, 3), "hierarchical"),
    ("hangs", 2, (0, 1, 2, 3), "tree"),
    ("hangs", 0, (0, 1, 2, 3), "all_reduce"),
    ("is not there", 1, (0, 1, 2, 3), "tree"),
    ("dies", 1, (0, 1, 2, 3), "ring"),
    ("dies in backward", 3, (0, 2, 3), "all_reduce"),
    ("dies before the end", 0, (0, 2), "tree"),
]


class BrokenError(Exception):
    """Why a rank gives up."""


def attempt(rank, group, case, directory):
    """One good step, and one in which a rank fails; what the others see of it."""
    how, culprit, ranks, algorithm = case
    dist.barrier(group)  # earlier cases ended at different times, and time counts from a rank's own start
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"group_size": 2} if algorithm == "hierarchical" else {}
    if how == "is not there":
        if rank == culprit:
            wait_until(lambda: len(seen_in(directory, case)) == len(ranks) - 1)
            return
        with events.capture_events(events.ReductionFailed) as records, pytest.raises(NetworkConnectionError) as caught:
            GradientReducer(model, group, algorithm)
        write(rank, case, directory, caught.value, records)
        return
    reducer = GradientReducer(model, group, algorithm, bucket_bytes=300_000, **options)
    loss_of(model, rank, 0).backward()
    optimizer.step()
    optimizer.zero_grad()
    before = digest(model.parameters())
    dist.barrier(group)
    if rank == culprit:
        fail(how, rank, reducer, model, optimizer, lambda: len(seen_in(directory, case)) == len(ranks) - 1)
        return
    with events.capture_events(events.ReductionFailed) as records, pytest.raises(NetworkConnectionError) as caught:
        step(model, optimizer, rank)
    params = [model.wide, model.bias, model.turned, model.scale]
    for p, grad in zip(params, torch.autograd.grad(loss_of(model, rank, 1), params), strict=True):
        assert p.grad is None or torch.equal(p.grad, grad)  # None if backward did not come that far
    assert digest(model.parameters()) == before
    error = caught.value
    for use in (reducer.wait, optimizer.step):
        with pytest.raises(NetworkConnectionError) as again:
            use()
        assert again.value is error
    reducer.close()
    write(rank, case, directory, error, records)


def write(rank, case, directory, error, records):
    """What a survivor has seen."""
    seen = {"message": error.message, **error.context, "retryable": error.retryable, "records": len(records)}
    path = directory / f"{CASES.index(case)}-{rank}.json"
    path.with_suffix(".part").write_text(json.dumps(seen))
    path.with_suffix(".part").rename(path)


def step(model, optimizer, rank):
    """The error comes from backward or from the step, depending on which bucket it is that does not arrive."""
    loss_of(model, rank, 1).backward()
    optimizer.step()


def die():
    """As by a kill -9; with another status than 0, the other processes would be ended as well."""
    os._exit(0)


def wait_until(is_over):
    """Hangs, in a process of its own, which has nothing to wait for but files."""
    while not is_over():
        time.sleep(0.05)


def fail(how, rank, reducer, model, optimizer, is_over):
    """What the culprit does."""
    if how == "dies":
        die()
    if how == "dies in backward":
        model.wide.register_hook(lambda _: die())  # its bucket is the last, and the others were sent
        step(model, optimizer, rank)
    if how == "dies before the end":
        reducer._pipeline.close_step = die
        step(model, optimizer, rank)
    if how == "refuses":
        model.bias.data = torch.zeros(3)
        with pytest.raises((RuntimeError, ValueError)):
            (model.bias.sum() * 2 + model.wide.sum() + model.turned.sum() + model.scale + model.spare.sum()).backward()
    elif how == "gives up":
        with pytest.raises(BrokenError), reducer:
            raise BrokenError
    wait_until(is_over)


def seen_in(directory, case):
    """What survivors of a case have written."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob(f"{CASES.index(case)}-*.json"))]


def start(rank, directory):
    """Entry point of each process: the cases one after the other, each in a group of its own."""
    prepare()
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=WORLD)
    groups = [dist.new_group(list(ranks), timeout=dt.timedelta(seconds=TIMEOUT)) for _, _, ranks, _ in CASES]
    for case, group in zip(CASES, groups, strict=True):
        if rank in case[2]:
            attempt(rank, group, case, Path(directory))
    leave()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the survivors of all cases have written what they saw."""
    path = tmp_path_factory.mktemp("failures")
    start_processes(start, (str(path),), WORLD)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]}")
def test_is_one_error(case, folder):
    """It names rank and bucket, is the same on all survivors, and was emitted by one of them."""
    how, culprit, ranks, _ = case
    seen = seen_in(folder, case)
    assert len(seen) == len(ranks) - 1
    assert sum(one.pop("records") for one in seen) == 1
    assert all(one == seen[0] for one in seen)
    (one, *_) = seen
    number = ranks.index(culprit)  # in the group
    last = how in ("gives up", "is not there", "dies before the end")
    bucket = -1 if last else 0
    if how == "dies in backward":
        assert one["bucket"] in (0, 1)  # the first was sent, but not by all of its hops
        bucket = one["bucket"]
    step = 0 if how == "is not there" else 1
    assert (one["ranks"], one["bucket"], one["step"], one["retryable"]) == ([number], bucket, step, False)
    assert one["silent_ranks"] == []
    kind, words = {
        "is not there": ("timeout", f"rank {number} did not deliver the comparison of parameters of step 0 within"),
        "dies": ("lost", f"rank {number} died: the connection broke before bucket 0 ('"),
        "dies in backward": ("lost", f"rank {number} died: the connection broke before bucket {bucket} ('"),
        "dies before the end": ("lost", f"rank {number} died: the connection broke before the numbers after all"),
        "hangs": ("timeout", f"rank {number} did not deliver bucket 0 ('"),
        "gives up": ("own", f"rank {number} gave up in step 1: BrokenError. "),
        "refuses": ("own", f"rank {number} gave up in step 1 at bucket 0 ('"),
    }[how]
    assert one["kind"] == kind
    assert words in one["message"]


class StuckStore:
    """Kept by a rank that hangs."""

    def __init__(self):
        self.released = threading.Event()

    def set(self, *_):
        """Does not return before the test has ended."""
        self.released.wait()
        raise OSError


def test_a_store_that_does_not_answer(monkeypatch):
    """The survivor judges by what it saw itself, and does not wait for ever."""
    monkeypatch.setattr(_failure, "AGREEING_SECONDS", 0.05)
    store = StuckStore()
    court = Court(store, 0, 3, 0.01, time)
    assert court.accuse(report(0, accused=[1]), time.monotonic()).ranks == (1,)
    store.released.set()


class Later(FakeClock):
    """Others do something while somebody waits."""

    def __init__(self, do):
        super().__init__()
        self.do = do

    def sleep(self, seconds):
        """Time passes."""
        super().sleep(seconds)
        self.do(self.monotonic())


def test_a_victim_that_reports_a_little_later():
    """A collective of three: one died, and the other has closed its connections, too, before it says so."""
    store = dist.HashStore()
    victim = Court(store, 1, 3, 100.0, time)
    clock = Later(lambda now: victim.publish(report(1, "lost", accused=[2])) if now > began + 1.0 else None)
    began = clock.monotonic()
    verdict = Court(store, 0, 3, 100.0, clock).accuse(report(0, "lost", accused=[1, 2]), began)
    assert (verdict.ranks, clock.monotonic() < began + 2.0) == ((2,), True)


def test_two_that_die_together():
    """Are named long before the timeout."""
    clock = FakeClock()
    began = clock.monotonic()
    verdict = Court(dist.HashStore(), 0, 3, 1000.0, clock).accuse(report(0, "lost", accused=[1, 2]), began)
    assert verdict.ranks == (1, 2)
    assert clock.monotonic() < began + 2 * _failure.VICTIM_SECONDS


def report(rank, kind="timeout", accused=(), bucket=0, step=0):
    """A report."""
    return Report(rank, step, bucket, kind, tuple(accused), f"seen by {rank}")


@pytest.mark.parametrize(
    ("reports", "ranks", "bucket", "silent"),
    [
        ([report(0, accused=[1], bucket=2), report(2, accused=[1], bucket=1)], [1], 1, []),
        ([report(0, accused=[3]), report(3, accused=[2]), report(1, accused=[0])], [2], 0, []),  # around a ring
        ([report(0), report(1)], [2, 3], 0, []),  # a collective, whose error names nobody
        ([report(0, accused=[1]), report(2, accused=[1])], [1], 0, [3]),
        ([report(0, accused=[1], bucket=3), report(1, "own", bucket=5)], [1], 5, []),
        ([report(0, accused=[1]), report(1, accused=[0])], [0, 1], 0, []),  # the link between two that live
        ([report(0, accused=[1], bucket=-1, step=1), report(2, accused=[1], bucket=4, step=1)], [1], 4, []),
    ],
)
def test_verdict(reports, ranks, bucket, silent):
    """Who is accused and does not report is to blame; the bucket is the first that was waited for in vain."""
    world = 1 + max([*silent, *ranks, *(one.rank for one in reports)])
    verdict = judge(reports, world, 0)
    assert (list(verdict.ranks), verdict.bucket, list(verdict.silent)) == (ranks, bucket, silent)
