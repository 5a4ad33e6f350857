"""Two processes over gloo: DTensor shards, FSDP, ZeroRedundancyOptimizer."""

import copy

import pytest
import torch
from _optimizers import EVERY_KERNEL
from _ranks import WORLD, run_on_ranks, tensors
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh

from gaudi3_rt.optim import FusedAdamW, FusedEMA, FusedMuon

SHAPES = [(5, 3), (1, 4), (7,), (6, 2), ()]
PLACEMENTS = [Shard(0), Shard(0), Shard(0), Shard(1), Replicate()]


def sharded_steps(rank):
    """Uneven shards, an empty shard (dim 0 of size 1 over two ranks), replicated and plain parameters in one step."""
    for case in EVERY_KERNEL.values():
        steps_of_shards(rank, case)


def steps_of_shards(rank, case):
    """The same for one optimizer."""
    mesh = init_device_mesh("cpu", (WORLD,))
    values = tensors(0, *SHAPES)
    sharded = [torch.nn.Parameter(distribute_tensor(v, mesh, [p])) for v, p in zip(values, PLACEMENTS, strict=True)] + [
        torch.nn.Parameter(torch.ones(3))
    ]
    whole = [torch.nn.Parameter(v.clone()) for v in values] + [torch.nn.Parameter(torch.ones(3))]
    if rank == 1:
        assert sharded[1].to_local().numel() == 0
    a = case.make(sharded, lr=1e-2, max_grad_norm=0.7)
    b = case.make(whole, lr=1e-2, max_grad_norm=0.7)
    for step in range(20):
        grads = tensors(step + 1, *SHAPES, (3,))
        for p, q, g in zip(sharded, whole, grads, strict=True):
            q.grad = g
            # A gradient may be placed unlike its parameter.
            placements = [Replicate()] if step % 2 and isinstance(p, DTensor) else getattr(p, "placements", None)
            p.grad = distribute_tensor(g, mesh, placements) if isinstance(p, DTensor) else g
        a.step()
        b.step()
        torch.testing.assert_close(a.last_grad_norm, b.last_grad_norm, rtol=1e-6, atol=0)
    for p, q in zip(sharded, whole, strict=True):
        full = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(full, q, rtol=0, atol=1e-6)
    for key in sorted(a.state[sharded[0]].keys() - {"step"}):  # collective calls: in the same order on every rank
        moment = a.state[sharded[0]][key]
        assert isinstance(moment, DTensor)
        assert moment.placements == sharded[0].placements
        torch.testing.assert_close(moment.full_tensor(), b.state[whole[0]][key])


def sharded_state_dict(_rank):
    """State of shards saved and loaded by torch.distributed.checkpoint's own functions goes on where it was."""
    mesh = init_device_mesh("cpu", (WORLD,))
    (value,) = tensors(0, (5, 3))
    first, second = (torch.nn.Parameter(distribute_tensor(value, mesh, [Shard(0)])) for _ in range(2))
    a, b = FusedAdamW([first], lr=1e-2), FusedAdamW([second], lr=1e-2)
    for step in range(6):
        (grad,) = tensors(step, (5, 3))
        first.grad = distribute_tensor(grad, mesh, [Shard(0)])
        second.grad = first.grad
        a.step()
        if step == 2:
            b.load_state_dict(copy.deepcopy(a.state_dict()))
            with torch.no_grad():
                second.copy_(first)
        elif step > 2:
            b.step()
    assert torch.equal(first.to_local(), second.to_local())


def sharded_averages(_rank):
    """Averages of shards are placed like them and are those of the whole parameter."""
    mesh = init_device_mesh("cpu", (WORLD,))
    whole = tensors(0, (5, 3))
    sharded = [torch.nn.Parameter(distribute_tensor(whole[0].clone(), mesh, [Shard(0)]))]
    a, b = FusedEMA(sharded, 0.9), FusedEMA(whole, 0.9)
    for step in range(3):
        (value,) = tensors(step + 1, (5, 3))
        whole[0].copy_(value)
        with torch.no_grad():
            sharded[0].copy_(distribute_tensor(value, mesh, [Shard(0)]))
        a.update()
        b.update()
    assert torch.equal(a.averages[0].full_tensor(), b.averages[0])
    with a.swap():
        assert torch.equal(sharded[0].full_tensor(), b.averages[0])
    assert torch.equal(sharded[0].full_tensor(), whole[0])


def refusals(_rank):
    """Partial sums and mixtures of sharded and plain tensors: a sentence, and nothing changed."""
    mesh = init_device_mesh("cpu", (WORLD,))
    p = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
    p.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    with pytest.raises(TypeError, match="neither may be a partial sum"):
        FusedAdamW([p]).step()
    q = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    q.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    optimizer = FusedAdamW([q])
    optimizer.step()
    before = q.to_local().clone()
    optimizer.state[q]["exp_avg"] = torch.zeros(4)
    with pytest.raises(TypeError, match="the parameter is a DTensor, but its gradient or state is a Tensor"):
        optimizer.step()
    assert torch.equal(q.to_local(), before)


def fully_sharded(rank):
    """fully_shard with clipping in the step follows the unsharded model with torch's clip and step."""
    torch.manual_seed(0)
    whole = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    model = copy.deepcopy(whole)
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    a = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.05)
    b = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    for step in range(10):
        batches = [tensors(100 * step + r, (4, 6))[0] for r in range(WORLD)]
        a.zero_grad()
        model(batches[rank]).square().mean().backward()
        a.step()
        b.zero_grad()
        (sum(whole(batch).square().mean() for batch in batches) / WORLD).backward()
        norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.05)
        b.step()
        torch.testing.assert_close(a.last_grad_norm, norm, rtol=1e-5, atol=0)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=0, atol=1e-5)


def zero_redundancy(_rank):
    """ZeroRedundancyOptimizer over our class gives what it gives over torch's, also through its state_dict."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    other = copy.deepcopy(model)
    a = ZeroRedundancyOptimizer(model.parameters(), FusedAdamW, lr=1e-2, weight_decay=0.1)
    b = ZeroRedundancyOptimizer(other.parameters(), torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    for step in range(20):
        (x,) = tensors(step, (4, 6))
        for network, optimizer in ((model, a), (other, b)):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=5e-6)
    with pytest.raises(ValueError, match="would clip each rank's parameters by the norm of that rank's"):
        ZeroRedundancyOptimizer(model.parameters(), FusedAdamW, lr=1e-2, max_grad_norm=1.0)


def sharded_matrices(rank):
    """Muon over shards by rows, by columns, uneven and empty ones, has the bits of Muon over whole matrices."""
    mesh = init_device_mesh("cpu", (WORLD,))
    shapes, placements = [(5, 3), (1, 4), (6, 2), (3, 7)], [Shard(0), Shard(0), Shard(1), Replicate()]
    values = tensors(0, *shapes)
    sharded = [torch.nn.Parameter(distribute_tensor(v, mesh, [p])) for v, p in zip(values, placements, strict=True)]
    whole = [torch.nn.Parameter(v.clone()) for v in values]
    if rank == 1:
        assert sharded[1].to_local().numel() == 0
    a, b = FusedMuon(sharded, lr=1e-2, max_grad_norm=1e6), FusedMuon(whole, lr=1e-2, max_grad_norm=1e6)
    for step in range(10):
        for p, q, g in zip(sharded, whole, tensors(step + 1, *shapes), strict=True):
            q.grad = g
            p.grad = distribute_tensor(g, mesh, [Replicate()] if step % 2 else p.placements)
        a.step()
        b.step()
        torch.testing.assert_close(a.last_grad_norm, b.last_grad_norm, rtol=1e-6, atol=0)
    for p, q in zip(sharded, whole, strict=True):
        assert torch.equal(p.full_tensor(), q)
        assert a.state[p]["momentum_buffer"].placements == p.placements
        assert torch.equal(a.state[p]["momentum_buffer"].full_tensor(), b.state[q]["momentum_buffer"])


SCENARIOS = [
    sharded_steps,
    sharded_averages,
    sharded_state_dict,
    refusals,
    fully_sharded,
    zero_redundancy,
    sharded_matrices,
]


def test_two_processes(tmp_path):
    """Every scenario above, on two ranks."""
    run_on_ranks(SCENARIOS, tmp_path)
