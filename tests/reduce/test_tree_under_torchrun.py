"""The tree under torchrun's agent on 1, 2, 4 and 8 processes: whichever process holds a shard, the weights are equal.

The agent is the one that the command ``torchrun --standalone`` starts; here it runs in the process of the tests, and
its workers are forks of one process that has imported torch, so that 15 of them can be started.
"""

import random
import time

import pytest
import torch
import torch.distributed as dist
from _ranks import START, preload, prepare
from _reducing import N_SHARDS, GradientReducer, digest, network, train
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gaudi3_rt.optim import FusedAdamW

STEPS = 4


def weights(delay):
    """What each worker runs: its rank, and the SHA-256 of the weights after some steps with random delays."""
    prepare()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    chance = random.Random()  # another one in each process and run
    model = network()
    optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.05)
    with GradientReducer(model, algorithm="tree", bucket_bytes=300_000, logical_shards=N_SHARDS) as reducer:
        train(model, optimizer, reducer, STEPS, before_backward=lambda *_: time.sleep(delay * chance.random()))
        held = len(reducer.shards)
    dist.destroy_process_group()
    return rank, held, digest(model.parameters())


@pytest.fixture(scope="module")
def alone():
    """The weights of one process that no agent started, without torch.distributed."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.05)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with GradientReducer(model, algorithm="tree", logical_shards=N_SHARDS) as reducer:
            train(model, optimizer, reducer, STEPS)
    finally:
        torch.set_num_threads(threads)
    return digest(model.parameters())


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_weights(alone, world):
    """Their digests are those of a process without torch.distributed, on every rank."""
    preload()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world,
        run_id=f"tree-{world}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        start_method=START,
        monitor_interval=0.1,
    )
    results = elastic_launch(config, weights)(0.02)
    assert sorted(results.values()) == [(rank, N_SHARDS // world, alone) for rank in range(world)]
