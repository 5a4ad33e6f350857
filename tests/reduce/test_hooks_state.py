"""What hooks keep between buckets and steps, on three ranks: residuals of int8, buffers, nothing of a NaN."""

import copy

import pytest
import torch
import torch.distributed as dist
from _hooked import (
    HOOKS,
    TINY_BUCKETS,
    WORLD,
    Network,
    distributed,
    gradients,
    local_gradients,
    loss_of,
    summed,
)
from _ranks import run_on_ranks
from torch import nn

from gaudi3_rt.reduce import _ddp, hooks


def same_on_all_ranks(values):
    """Fails unless all ranks hold the same bits."""
    flat = torch.cat([value.reshape(-1).float() for value in values])
    everyone = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, flat)
    assert all(torch.equal(other, flat) for other in everyone)


def mean_residual(state):
    """Of all ranks: what has not been delivered yet."""
    residuals = state.state_dict()["residuals"]
    for value in residuals.values():
        dist.all_reduce(value)
    return {name: value / WORLD for name, value in residuals.items()}


def int8_loses_nothing(rank):
    """What is delivered and what the residuals hold are together the gradients: over the rebuild, and a restart."""
    model = Network()
    true = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    delivered = copy.deepcopy(true)
    state, wrapped = None, None
    for step in range(12):
        if step % 4 == 0:  # as after a restart: new buckets, and residuals from a checkpoint
            saved = None if state is None else copy.deepcopy(state.state_dict())
            wrapped = distributed(model, None, gradient_as_bucket_view=True, **TINY_BUCKETS)
            state = hooks.Int8CompressState(named_parameters=wrapped.module.named_parameters())
            if saved is not None:
                assert saved["residuals"].keys() == true.keys()
                state.load_state_dict(saved)
            wrapped.register_comm_hook(state, hooks.int8_compress_hook)
        wrapped.zero_grad()
        loss_of(wrapped, step, rank).backward()
        same_on_all_ranks([p.grad for p in wrapped.parameters()])
        for (name, p), shards in zip(wrapped.module.named_parameters(), local_gradients(model, step), strict=True):
            true[name] += summed(shards) / WORLD
            delivered[name] += p.grad
        lost = mean_residual(state)
        for name, value in true.items():
            largest = value.abs().max().item()
            torch.testing.assert_close(delivered[name] + lost[name], value, rtol=0, atol=1e-5 * largest)
            assert lost[name].abs().max() > 1e-4 * largest / (step + 1)  # there is something that could be lost


def int8_without_feedback(rank):
    """Each value is off by half a code of what is sent and half a code of the mean; the state keeps nothing."""
    model = Network()
    state = hooks.Int8CompressState(use_error_feedback=False, named_parameters=model.named_parameters())
    wrapped = distributed(model, hooks.int8_compress_hook, state, **TINY_BUCKETS)
    loss_of(wrapped, 0, rank).backward()
    found = local_gradients(model, 0)
    largest = max(g.abs().max().item() for shards in found for g in shards)
    for p, shards in zip(gradients(wrapped), found, strict=True):
        error = (p - summed(shards) / WORLD).abs().max().item()
        assert 0 < error <= 1.01 * largest / 127
    assert state.state_dict()["residuals"] == {}


def few_elements(rank):
    """A bucket with fewer elements than there are ranks: some ranks have nothing to sum."""
    states = {hooks.int8_compress_hook: hooks.Int8CompressState()}
    for hook in (*HOOKS.values(), hooks.int8_compress_hook):
        wrapped = distributed(nn.Linear(1, 1, bias=False), hook, states.get(hook))
        (wrapped(torch.ones(1, 1)) * (rank + 2)).backward()  # 2, 3, 4
        assert wrapped.module.weight.grad.item() == pytest.approx(3.0, rel=0.01)


def not_finite(rank):
    """One rank's NaN is seen by all, under every hook, and the next gradients and residuals are finite again."""
    states = {hooks.int8_compress_hook: hooks.Int8CompressState()}
    for hook in (hooks.int8_compress_hook, hooks.allreduce_hook, *HOOKS.values()):
        wrapped = distributed(Network(), hook, states.get(hook), **TINY_BUCKETS)
        for seed in range(3):
            wrapped.zero_grad()
            factor = float("nan") if seed == 1 and rank == 2 else 1.0
            (factor * loss_of(wrapped, seed, rank)).backward()
            assert all(bool(p.grad.isfinite().all()) == (seed != 1) for p in wrapped.parameters())


def memory_is_used_again(rank):
    """After the buckets have been rebuilt, no step takes memory that the one before did not have."""
    queue = _ddp.BucketQueue.of(None)
    assert queue is _ddp.BucketQueue.of(dist.group.WORLD)
    states = {hooks.int8_compress_hook: hooks.Int8CompressState()}
    for hook in (hooks.bf16_compress_hook, hooks.tree_hook, hooks.int8_compress_hook):
        queue.memory = _ddp.Memory()
        wrapped = distributed(Network(), hook, states.get(hook), **TINY_BUCKETS)
        seen = []
        for seed in range(5):
            loss_of(wrapped, seed, rank).backward()
            seen.append({buffer.data_ptr() for buffer in queue.memory._free})
        assert seen[3] == seen[4]
        assert 2 <= len(seen[4]) < 20


def other_gradients_are_refused(rank):
    """By one sentence on every rank, before anything is sent: the next reduction works."""
    wrapped = distributed(nn.Linear(2, 2).double(), hooks.tree_hook)
    with pytest.raises(
        TypeError, match=r"gradients of torch.float64, .* have to be dense float32, bfloat16 or float16"
    ):
        wrapped(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    wrapped = distributed(nn.Embedding(5, 2, sparse=True), hooks.bf16_compress_hook)
    with pytest.raises(TypeError, match=r"gradients of torch.float32, torch.sparse_coo: have to be dense"):
        wrapped(torch.tensor([1])).sum().backward()
    few_elements(rank)


SCENARIOS = [
    int8_loses_nothing,
    int8_without_feedback,
    few_elements,
    not_finite,
    memory_is_used_again,
    other_gradients_are_refused,
]


def test_state_on_three_processes(tmp_path):
    """Every scenario above, on three ranks."""
    run_on_ranks(SCENARIOS, tmp_path, WORLD)


def test_saved_residuals_of_another_model_are_refused():
    """By name and shape, and without names at all; what was there stays."""
    model, other = nn.Linear(2, 3), nn.Linear(2, 4)
    state = hooks.Int8CompressState(named_parameters=model.named_parameters())
    state.load_state_dict({"use_error_feedback": True, "residuals": {"weight": torch.ones(3, 2)}})
    for residuals, words in (
        ({"bias": torch.zeros(3), "weight": torch.zeros(4, 2)}, r"'weight', of shape \(4, 2\), .* of shape \(3, 2\)"),
        ({"gamma": torch.zeros(3)}, "'gamma'.* not among the named parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            state.load_state_dict({"use_error_feedback": False, "residuals": residuals})
    assert state.use_error_feedback
    assert state.state_dict()["residuals"].keys() == {"weight"}
    assert torch.equal(state.state_dict()["residuals"]["weight"], torch.ones(3, 2))
    with pytest.raises(ValueError, match="named_parameters=model"):
        hooks.Int8CompressState().state_dict()
    assert other.weight.shape == (4, 2)
