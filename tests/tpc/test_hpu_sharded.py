"""DTensors on an "hpu" device: sums of shards are completed on the device, by one collective call for all of them."""

import pytest
import torch
from _hpu import Waits, assert_close
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from gaudi3_rt import grads
from gaudi3_rt.optim import FusedAdamW, FusedLAMB

RANKS = 2
BOUND = 14 * 2.0**-24


@pytest.fixture
def mesh(calls, monkeypatch):
    """Two ranks, the other one of which has the same shards as this one: a sum over both is twice this one's."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)

    def all_reduce(tensor, *_, **__):
        calls.append(("all_reduce", [tensor.device.type, tuple(tensor.shape)]))
        tensor.mul_(RANKS)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    yield init_device_mesh("hpu", (RANKS,))
    torch.distributed.destroy_process_group()


def parameters(mesh):
    """Shards on the device, and the whole of them on the CPU."""
    generator = torch.Generator().manual_seed(0)
    sharded, whole = [], []
    for shape in ((4, 6), (700,)):
        local = [torch.randn(shape, generator=generator) for _ in ("parameter", "gradient")]
        p, g = (DTensor.from_local(x.to("hpu"), mesh, [Shard(0)], run_check=False) for x in local)
        sharded.append(torch.nn.Parameter(p))
        sharded[-1].grad = g
        whole.append(torch.nn.Parameter(torch.cat([local[0]] * RANKS)))
        whole[-1].grad = torch.cat([local[1]] * RANKS)
    return sharded, whole


def collectives(calls):
    """What was summed up over the ranks."""
    return [inputs for name, inputs in calls if name == "all_reduce"]


def assert_halves(sharded, whole, what, bound):
    """The shards are the first halves of the whole tensors."""
    for p, q in zip(sharded, whole, strict=True):
        a, b = what(p).to_local(), what(q)
        assert_close(a, b[: a.shape[0]], rtol=2.0**-22, atol=bound)


def test_clip_grad_norm(mesh, calls):
    """The norm of all shards; one number travels, and the host waits for nothing."""
    sharded, whole = parameters(mesh)
    with Waits() as waits:
        norm = grads.clip_grad_norm_(sharded, 0.5)
    assert waits.count == 0
    assert_close(norm, grads.clip_grad_norm_(whole, 0.5), rtol=9 * 2.0**-24, atol=0)
    assert collectives(calls) == [["hpu", (1,)]]
    assert_halves(sharded, whole, lambda p: p.grad, BOUND * 0.5)


def test_unscale(mesh, calls):
    """found_inf takes all shards into account."""
    sharded, _ = parameters(mesh)
    sharded[1].grad.to_local()[3] = torch.inf
    found = torch.zeros(()).to("hpu")
    with Waits() as waits:
        grads.unscale_([p.grad for p in sharded], torch.tensor(0.5).to("hpu"), found)
    assert waits.count == 0
    assert float(found) == 1
    assert collectives(calls) == [["hpu", (1,)]]


@pytest.mark.parametrize("optimizer_type", [FusedAdamW, FusedLAMB])
def test_a_step_with_clipping(optimizer_type, mesh, calls):
    """One norm for all parameters; LAMB's two norms of each parameter besides."""
    sharded, whole = parameters(mesh)
    before = [p.detach().clone() for p in whole]
    optimizers = [optimizer_type(ps, lr=0.1, eps=1.0, max_grad_norm=0.5) for ps in (sharded, whole)]
    with Waits() as waits:
        optimizers[0].step()
    assert waits.count == 0
    optimizers[1].step()
    sums = 1 + (2 * len(sharded) if optimizer_type is FusedLAMB else 0)
    assert collectives(calls) == [["hpu", (1,)]] * sums
    assert_close(optimizers[0].last_grad_norm, optimizers[1].last_grad_norm, rtol=9 * 2.0**-24, atol=0)
    moved = max(float((q.detach() - old).abs().max()) for q, old in zip(whole, before, strict=True))
    assert_halves(sharded, whole, lambda p: p.detach(), 3 * BOUND * moved)
