"""Four processes over gloo: whole trainings with FSDP2 and ZeRO-1, on four ranks and on pairs, against unsharded ones.

Bits are equal wherever the sum of gradients is the same: of two ranks always, of four where the sums are exact (whole
numbers) or formed along the tree of ``gaudi3_rt.reduce``. Elsewhere the bound is stated.
"""

import copy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from _ranks import run_on_ranks, tensors
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from gaudi3_rt import grads, reduce
from gaudi3_rt.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedLion, FusedMuon, FusedSGD
from gaudi3_rt.reduce import hooks

WORLD = 4
FULL = StateDictOptions(full_state_dict=True)
TO_ALL = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)


def network(*, bias=True):
    """Rows that neither two nor four ranks share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7, bias=bias), nn.Tanh(), nn.Linear(7, 3, bias=bias))


def loss_of(model, step, rank):
    """Of one rank's batch."""
    return model(tensors(100 * step + rank, (4, 6))[0]).square().mean()


def mean_gradients(model, step, ranks):
    """What unsharded training steps with: the mean over some ranks' batches, along the tree."""
    parameters = list(model.parameters())
    found = [torch.autograd.grad(loss_of(model, step, rank), parameters) for rank in ranks]
    for parameter, shards in zip(parameters, zip(*found, strict=True), strict=True):
        parameter.grad = reduce.reduce_shards(shards, op="mean")


def assert_equal(sharded, whole):
    """All parameters, to the bit; a DTensor is gathered."""
    for p, q in zip(sharded.parameters(), whole.parameters(), strict=True):
        full = p.full_tensor() if hasattr(p, "full_tensor") else p
        assert torch.equal(full, q), (full - q).abs().max()


def pairs():
    """Two meshes of two ranks; this rank is in one of them."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


def of_pair(rank):
    """The ranks of this rank's pair."""
    return range(rank // 2 * 2, rank // 2 * 2 + 2)


def fsdp_on_two(rank):
    """Optimizers that go by elements, and Muon: ten steps of fully_shard on two ranks have the unsharded bits."""
    for make in (FusedAdamW, FusedAdam, FusedLion, FusedSGD, FusedAdagrad, FusedMuon):
        whole = network(bias=make is not FusedMuon)
        model = copy.deepcopy(whole)
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=pairs()["shard"])
        a, b = make(model.parameters(), lr=1e-2), make(whole.parameters(), lr=1e-2)
        for step in range(10):
            a.zero_grad()
            loss_of(model, step, rank).backward()
            a.step()
            mean_gradients(whole, step, of_pair(rank))
            b.step()
        assert_equal(model, whole)


def fsdp_on_four(rank):
    """Whole numbers as gradients, whose sum is exact in any order: equal bits with clipping, also replicated."""
    for mesh in (init_device_mesh("cpu", (WORLD,)), pairs()):
        torch.manual_seed(0)
        whole = nn.Linear(5, 9)
        model = fully_shard(copy.deepcopy(whole), mesh=mesh)
        a, b = (FusedAdamW(m.parameters(), lr=1e-2, max_grad_norm=3.0) for m in (model, whole))
        for step in range(10):
            batches = [tensors(100 * step + r, (4, 5), (4, 9)) for r in range(WORLD)]
            rounded = [(x.mul(4).round(), weight.mul(4).round()) for x, weight in batches]
            a.zero_grad()
            x, weight = rounded[rank]
            (model(x) * weight).sum().backward()
            a.step()
            b.zero_grad()
            sum((whole(x) * weight).sum() / WORLD for x, weight in rounded).backward()
            b.step()
            assert torch.equal(a.last_grad_norm, b.last_grad_norm)
            assert a.last_grad_norm > 3
        assert_equal(model, whole)


def fsdp_on_four_in_general(rank):
    """With any numbers the sums of four may differ in their last bits: parameters do by 1e-5 of the way they went."""
    whole = network()
    start = copy.deepcopy(whole)
    model = fully_shard(copy.deepcopy(whole), mesh=init_device_mesh("cpu", (WORLD,)))
    a, b = (FusedSGD(m.parameters(), lr=0.1, momentum=0.9, max_grad_norm=0.2) for m in (model, whole))
    for step in range(20):
        a.zero_grad()
        loss_of(model, step, rank).backward()
        a.step()
        mean_gradients(whole, step, range(WORLD))
        b.step()
        torch.testing.assert_close(a.last_grad_norm, b.last_grad_norm, rtol=1e-5, atol=0)
    for p, q, first in zip(model.parameters(), whole.parameters(), start.parameters(), strict=True):
        assert (p.full_tensor() - q).norm() <= 1e-5 * (q - first).norm()
        assert (q - first).norm() > 0.01


def fsdp_state_goes_anywhere(rank):
    """Trained sharded, saved whole: goes on unsharded, and then sharded again, with the bits of no interruption."""
    whole = network()
    model = fully_shard(copy.deepcopy(whole), mesh=pairs()["shard"])
    a, b = (FusedAdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (model, whole))

    def train_sharded(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            loss_of(model, step, rank).backward()
            optimizer.step()

    def train_whole(model, optimizer, steps):
        for step in steps:
            mean_gradients(model, step, of_pair(rank))
            optimizer.step()

    train_sharded(model, a, range(4))
    train_whole(whole, b, range(4))

    second = network()
    c = FusedAdamW(second.parameters(), lr=0.5)
    weights, state = get_model_state_dict(model, options=FULL), get_optimizer_state_dict(model, a, options=FULL)
    pair = [None, None]  # torch gives a whole state dict to the first rank only
    dist.all_gather_object(pair, (weights, state), group=pairs()["shard"].get_group())
    weights, state = pair[0]
    set_model_state_dict(second, weights, options=TO_ALL)
    set_optimizer_state_dict(second, c, state, options=TO_ALL)
    assert c.param_groups[0]["lr"] == 1e-2
    train_whole(second, c, range(4, 8))
    train_whole(whole, b, range(4, 8))
    assert_equal(second, whole)

    third = fully_shard(network(), mesh=pairs()["shard"])
    d = FusedAdamW(third.parameters(), lr=0.5)
    set_model_state_dict(third, get_model_state_dict(second, options=FULL), options=TO_ALL)
    set_optimizer_state_dict(third, d, get_optimizer_state_dict(second, c, options=FULL), options=TO_ALL)
    train_sharded(third, d, range(8, 12))
    train_whole(whole, b, range(8, 12))
    assert_equal(third, whole)


class Checkpoint:
    """A scenario that needs a folder; picklable, as a closure is not."""

    __name__ = "fsdp_checkpoint"

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, rank):
        """Saved by four ranks with torch.distributed.checkpoint, loaded by pairs: all state is there, to the bit."""
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (WORLD,)))
        a = FusedAdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            a.zero_grad()
            loss_of(model, step, rank).backward()
            a.step()
        saved = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, a)}
        dcp.save(saved, checkpoint_id=self.folder)

        other = fully_shard(network(), mesh=pairs()["shard"])
        b = FusedAdamW(other.parameters(), lr=0.5)
        loaded = {"model": get_model_state_dict(other), "optimizer": get_optimizer_state_dict(other, b)}
        dcp.load(loaded, checkpoint_id=self.folder)
        set_model_state_dict(other, loaded["model"])
        set_optimizer_state_dict(other, b, loaded["optimizer"])
        assert b.param_groups[0]["lr"] == 1e-2
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p.full_tensor(), q.full_tensor())
            assert a.state[p].keys() == b.state[q].keys() >= {"exp_avg", "exp_avg_sq"}
            assert torch.equal(a.state[p]["step"], b.state[q]["step"])
            for key in sorted(a.state[p].keys() - {"step"}):
                assert torch.equal(a.state[p][key].full_tensor(), b.state[q][key].full_tensor())
        assert model[0].weight.to_local().shape != other[0].weight.to_local().shape


def zero_1(rank):
    """ZeroRedundancyOptimizer behind DDP with the tree hook: the bits of one process, on four ranks and on two."""
    pair_groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    for group, ranks in ((None, range(WORLD)), (pair_groups[rank // 2], of_pair(rank))):
        whole = network()
        model = DistributedDataParallel(copy.deepcopy(whole), process_group=group, gradient_as_bucket_view=True)
        model.register_comm_hook(group, hooks.tree_hook)
        options = {"lr": 1e-2, "weight_decay": 0.1}
        a = ZeroRedundancyOptimizer(model.parameters(), FusedAdamW, process_group=group, **options)
        b = FusedAdamW(whole.parameters(), **options)

        def step_both(model, a, whole, b, step, ranks=ranks):
            a.zero_grad()
            loss_of(model, step, rank).backward()
            grads.clip_grad_norm_(model.parameters(), 0.1)
            a.step()
            mean_gradients(whole, step, ranks)
            grads.clip_grad_norm_(whole.parameters(), 0.1)
            b.step()

        for step in range(8):
            step_both(model, a, whole, b, step)
        assert_equal(model, whole)
        held = sum(len(state) > 0 for state in a.optim.state.values())
        assert held < len(list(model.parameters()))  # each rank has the state of some parameters only

        # Saved whole on the first rank, loaded unsharded and sharded: both go on as if nothing had been.
        a.consolidate_state_dict(to=0)  # the first of the group
        box = [a.state_dict() if rank == ranks[0] else None]
        dist.broadcast_object_list(box, src=ranks[0], group=group)
        fresh = FusedAdamW(whole.parameters(), lr=0.5)
        fresh.load_state_dict(copy.deepcopy(box[0]))
        assert fresh.param_groups[0]["lr"] == 1e-2
        again = ZeroRedundancyOptimizer(model.parameters(), FusedAdamW, process_group=group, lr=0.5)
        again.load_state_dict(copy.deepcopy(box[0]))
        for step in range(8, 12):
            step_both(model, again, whole, fresh, step)
        assert_equal(model, whole)


def zero_1_by_hand(rank):
    """One flat tensor, a slice of it a rank: summed by the tree, stepped by its rank, gathered; the unsharded bits."""
    whole = network()
    model = copy.deepcopy(whole)
    parameters = list(model.parameters())
    numel = sum(p.numel() for p in parameters)
    share = -(-numel // WORLD)
    flat, grad = torch.zeros(WORLD * share), torch.zeros(WORLD * share)
    reduce.pack_(flat[:numel], parameters)
    for p, part in zip(parameters, flat[:numel].split([p.numel() for p in parameters]), strict=True):
        p.data = part.view(p.shape)
    mine = nn.Parameter(flat[rank * share : (rank + 1) * share])
    a = FusedAdamW([mine], lr=1e-2, weight_decay=0.1)
    b = FusedAdamW(whole.parameters(), lr=1e-2, weight_decay=0.1)
    rows = torch.empty(WORLD, share)
    for step in range(10):
        found = torch.autograd.grad(loss_of(model, step, rank), parameters)
        reduce.pack_(grad[:numel], found)
        dist.all_to_all_single(rows.view(-1), grad)
        mine.grad = reduce.reduce_shards(rows, op="mean")
        a.step()
        dist.all_gather(list(flat.split(share)), mine.detach().clone())
        mean_gradients(whole, step, range(WORLD))
        b.step()
        assert_equal(model, whole)
    assert a.state[mine]["exp_avg"].numel() == share


SCENARIOS = [
    fsdp_on_two,
    fsdp_on_four,
    fsdp_on_four_in_general,
    fsdp_state_goes_anywhere,
    zero_1,
    zero_1_by_hand,
]


def test_four_processes(tmp_path):
    """Every scenario above, on four ranks."""
    run_on_ranks([*SCENARIOS, Checkpoint(tmp_path / "checkpoint")], tmp_path, WORLD)
    assert any(Path(tmp_path / "checkpoint").iterdir())
