"""A rank that dies, hangs or gives up: every survivor raises one and the same error, and keeps its own gradients."""

import datetime as dt
import json
import os
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _reducing import GradientReducer, digest, loss_of, network

from gaudi3_rt import events
from gaudi3_rt.errors import NetworkConnectionError
from gaudi3_rt.reduce._failure import Report, judge

WORLD = 4
TIMEOUT = 6.0
# How a rank fails, which one, the ranks of the group (a dead one takes part in nothing more), the algorithm.
CASES = [
    ("gives up", 3, (0, 1, 2, 3), "tree"),
    ("refuses", 1, (0, 1, 2, 3), "hierarchical"),
    ("hangs", 2, (0, 1, 2, 3), "tree"),
    ("hangs", 0, (0, 1, 2, 3), "all_reduce"),
    ("dies", 1, (0, 1, 2, 3), "ring"),
    ("dies", 3, (0, 2, 3), "all_reduce"),
    ("dies", 0, (0, 2), "tree"),
]


class BrokenError(Exception):
    """Why a rank gives up."""


def attempt(rank, group, case, directory):
    """One good step, and one in which a rank fails; what the others see of it."""
    how, culprit, ranks, algorithm = case
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"group_size": 2} if algorithm == "hierarchical" else {}
    reducer = GradientReducer(model, group, algorithm, bucket_bytes=300_000, **options)
    loss_of(model, rank, 0).backward()
    optimizer.step()
    optimizer.zero_grad()
    before = digest(model.parameters())
    if rank == culprit:
        fail(how, reducer, model, lambda: len(seen_in(directory, case)) == len(ranks) - 1)
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
    seen = {"message": error.message, **error.context, "retryable": error.retryable, "records": len(records)}
    path = directory / f"{CASES.index(case)}-{rank}.json"
    path.with_suffix(".part").write_text(json.dumps(seen))
    path.with_suffix(".part").rename(path)


def step(model, optimizer, rank):
    """The error comes from backward or from the step, depending on which bucket it is that does not arrive."""
    loss_of(model, rank, 1).backward()
    optimizer.step()


def fail(how, reducer, model, is_over):
    """What the culprit does."""
    if how == "dies":
        os._exit(0)  # with another status, the other processes would be ended as well
    if how == "hangs":
        while not is_over():
            time.sleep(0.05)  # a process of its own, which has nothing to wait for but files
    elif how == "refuses":
        model.bias.data = torch.zeros(3)
        with pytest.raises((RuntimeError, ValueError)):
            (model.bias.sum() * 2 + model.wide.sum() + model.turned.sum() + model.scale + model.spare.sum()).backward()
    else:
        with pytest.raises(BrokenError), reducer:
            raise BrokenError


def seen_in(directory, case):
    """What survivors of a case have written."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob(f"{CASES.index(case)}-*.json"))]


def start(rank, directory):
    """Entry point of each process: the cases one after the other, each in a group of its own."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # raised by torch's imports of its own modules
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=WORLD)
    groups = [dist.new_group(list(ranks), timeout=dt.timedelta(seconds=TIMEOUT)) for _, _, ranks, _ in CASES]
    for case, group in zip(CASES, groups, strict=True):
        if rank in case[2]:
            attempt(rank, group, case, Path(directory))
    sys.stdout.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the survivors of all cases have written what they saw."""
    path = tmp_path_factory.mktemp("failures")
    mp.spawn(start, (str(path),), nprocs=WORLD)
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
    bucket = -1 if how == "gives up" else 0
    assert (one["ranks"], one["bucket"], one["step"], one["retryable"]) == ([number], bucket, 1, False)
    assert one["silent_ranks"] == []
    kind, words = {
        "dies": ("lost", f"rank {number} died: the connection broke before bucket 0 ('"),
        "hangs": ("timeout", f"rank {number} did not deliver bucket 0 ('"),
        "gives up": ("own", f"rank {number} gave up in step 1: BrokenError. "),
        "refuses": ("own", f"rank {number} gave up in step 1 at bucket 0 ('"),
    }[how]
    assert one["kind"] == kind
    assert words in one["message"]


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
