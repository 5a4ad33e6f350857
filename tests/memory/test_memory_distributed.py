"""Of what is sharded, this rank's part counts: in plans and in reports."""

import functools

import torch
from _ranks import WORLD, run_on_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh

from gaudi3_rt import memory
from gaudi3_rt.memory._storages import Count, tensors_in
from gaudi3_rt.optim import FusedAdamW

OPTIMIZERS = (
    FusedAdamW,
    functools.partial(FusedAdamW, moments_dtype=torch.int8),
    torch.optim.AdamW,
    functools.partial(torch.optim.SGD, momentum=0.9),
)


def sharded_model():
    """Two layers under FSDP, one of them with an uneven number of rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 33))
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def plans_of_shards(_rank):
    """A plan made before the first step equals what the rank has after it."""
    for make in OPTIMIZERS:
        model = sharded_model()
        found = memory.plan(model, make)
        optimizer = make(model.parameters())
        model(torch.randn(4, 256)).sum().backward()
        optimizer.step()
        count = Count()
        assert found.bytes_of("optimizer state") == sum(count.add(t) for t in tensors_in(optimizer.state)), make
        params = list(model.parameters())
        local = sum(param.to_local().untyped_storage().nbytes() for param in params)
        assert found.bytes_of("parameters") == local
        assert local < sum(param.numel() * 4 for param in params)
        assert found.bytes_of("gradients") == sum(4 * param.to_local().numel() for param in params)
        again = memory.plan(model, optimizer)
        assert again.bytes_of("optimizer state") == found.bytes_of("optimizer state")


def reports_of_shards(_rank):
    """Local shapes and bytes, by the parameter's name."""
    model = sharded_model()
    optimizer = FusedAdamW(model.parameters(), moments_dtype=torch.int8)
    model(torch.randn(4, 256)).sum().backward()
    optimizer.step()
    found = {one.label: one for one in memory.report(model=model, optimizer=optimizer).holdings}
    weight = found["parameter: 0.weight"]
    assert weight.shape == (256 // WORLD, 256)
    assert weight.bytes == 4 * 256 // WORLD * 256
    assert found["optimizer state: exp_avg_codes of 0.weight"].bytes == 256 // WORLD * 256


def test_shards(tmp_path):
    """In two processes."""
    run_on_ranks([plans_of_shards, reports_of_shards], tmp_path)
