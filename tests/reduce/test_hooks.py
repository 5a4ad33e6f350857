"""DDP's communication hooks, on three ranks: what arrives has the bits it should have, under every option of DDP."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from _hooked import (
    DEFINITIONS,
    HOOKS,
    TINY_BUCKETS,
    WORLD,
    Network,
    assert_equal,
    distributed,
    gradients,
    local_gradients,
    loss_of,
    summed,
    third,
)
from _ranks import run_on_ranks, tensors
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from gaudi3_rt import reduce
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.reduce import _ddp, hooks

OPTIONS = {
    "default": {},
    "tiny buckets": TINY_BUCKETS,
    "bucket view": {"gradient_as_bucket_view": True, **TINY_BUCKETS},
    "find unused": {"find_unused_parameters": True, **TINY_BUCKETS},
    "static graph": {"static_graph": True, "gradient_as_bucket_view": True, **TINY_BUCKETS},
}


def defined_bits(rank):
    """Every float hook under every option, over the rebuild of buckets: one order of ranks, few roundings."""
    model = Network()
    for name, options in OPTIONS.items():
        for kind, hook in HOOKS.items():
            wrapped = distributed(model, hook, **options)
            for seed in range(3):
                wrapped.zero_grad()
                loss_of(wrapped, seed, rank).backward()
                expected = [DEFINITIONS[kind](shards) for shards in local_gradients(model, seed)]
                assert_equal(gradients(wrapped), expected, f"{kind}, {name}, backward {seed}")


def buckets_are_rebuilt(rank):
    """The model above makes DDP change its buckets; without that, half of this file would show nothing."""
    layouts = []

    def recording(state, bucket):
        layouts[-1].append([id(p) for p in bucket.parameters()])
        return hooks.tree_hook(state, bucket)

    wrapped = distributed(Network(), recording, **TINY_BUCKETS)
    for seed in range(2):
        layouts.append([])
        loss_of(wrapped, seed, rank).backward()
    assert len(layouts[1]) > 2
    assert layouts[0] != layouts[1]


def all_reduce_as_without_hook(rank):
    """allreduce_hook gives the bits of DDP without a hook."""
    mine, theirs = distributed(Network(), hooks.allreduce_hook), distributed(Network(), None)
    for seed in range(2):
        for wrapped in (mine, theirs):
            wrapped.zero_grad()
            loss_of(wrapped, seed, rank).backward()
        assert_equal(gradients(mine), gradients(theirs), f"backward {seed}")


def wrappers(rank):
    """bf16 around the tree is the bf16 hook; around all_reduce it is near it; they nest, and take torch's hooks."""
    expected = [DEFINITIONS["bf16"](shards) for shards in local_gradients(Network(), 0)]
    for hook, exact in (
        (hooks.bf16_compress_wrapper(hooks.tree_hook), True),
        (hooks.bf16_compress_wrapper(hooks.allreduce_hook), False),
        (hooks.fp16_compress_wrapper(default_hooks.allreduce_hook), False),
        (hooks.bf16_compress_wrapper(hooks.fp16_compress_wrapper(hooks.tree_hook)), False),
    ):
        wrapped = distributed(Network(), hook, gradient_as_bucket_view=True, **TINY_BUCKETS)
        loss_of(wrapped, 0, rank).backward()
        got = gradients(wrapped)
        assert all(g.dtype == torch.float32 for g in got)
        if exact:
            assert_equal(got, expected, "wrapper")
        for mine, other in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0.02 * other.abs().max().item())


def futures(rank):
    """What a hook's future holds is the bucket itself, in its dtype, for every hook."""
    seen = []

    def checked(hook):
        def checking_hook(state, bucket):
            buffer = bucket.buffer()

            def note(done):
                value = done.value()
                seen.append(
                    (value.dtype, value.shape, value.data_ptr()) == (buffer.dtype, buffer.shape, buffer.data_ptr())
                )
                return value

            return hook(state, bucket).then(note)

        return checking_hook

    states = {hooks.int8_compress_hook: hooks.Int8CompressState()}
    around = [hooks.bf16_compress_wrapper(hooks.allreduce_hook), hooks.fp16_compress_wrapper(hooks.tree_hook)]
    for hook in (hooks.allreduce_hook, hooks.int8_compress_hook, *HOOKS.values(), *around):
        wrapped = distributed(Network(), checked(hook), states.get(hook), **TINY_BUCKETS)
        for seed in range(2):
            loss_of(wrapped, seed, rank).backward()
    assert len(seen) > 2 * 7
    assert all(seen)


def accumulation(rank):
    """Two micro-batches under no_sync and one that reduces: the sum of what each rank has accumulated."""
    model = Network()
    for kind, hook in HOOKS.items():
        wrapped = distributed(model, hook, gradient_as_bucket_view=True, **TINY_BUCKETS)
        for seed in range(3):
            with wrapped.no_sync() if seed < 2 else nullcontext():
                loss_of(wrapped, seed, rank).backward()
        shards = zip(*(local_gradients(model, seed) for seed in range(3)), strict=True)
        expected = [DEFINITIONS[kind]([(a + b) + c for a, b, c in zip(*three, strict=True)]) for three in shards]
        assert_equal(gradients(wrapped), expected, kind)


def unused_parameters(rank):
    """One that no rank uses keeps no gradient; one that a single rank uses gets a third of that rank's."""
    model = Network(unused=True)
    for kind, hook in HOOKS.items():
        wrapped = distributed(model, hook, find_unused_parameters=True, **TINY_BUCKETS)
        for seed in range(2):
            wrapped.zero_grad()
            loss_of(wrapped, seed, rank).backward()
            found = local_gradients(model, seed)
            for p, shards, (name, _) in zip(gradients(wrapped), found, model.named_parameters(), strict=True):
                if name.startswith("unused"):
                    assert p is None
                    continue
                given = [torch.zeros_like(shards[0]) if s is None else s for s in shards]
                assert_equal([p], [DEFINITIONS[kind](given)], f"{kind}, {name}")


def two_models(rank):
    """Buckets of two models come in turns in one backward: neither waits for the other for ever, nor mixes with it."""
    models = [Network(), Network()]
    wrapped = [distributed(models[0], hooks.bf16_compress_hook, **TINY_BUCKETS)]
    wrapped += [distributed(models[1], hooks.tree_hook, **TINY_BUCKETS)]
    for seed in range(2):
        for w in wrapped:
            w.zero_grad()
        (loss_of(wrapped[0], seed, rank) + loss_of(wrapped[1], seed + 10, rank)).backward()
        for w, kind, first in zip(wrapped, ("bf16", "tree"), (seed, seed + 10), strict=True):
            expected = [DEFINITIONS[kind](shards) for shards in local_gradients(models[0], first)]
            assert_equal(gradients(w), expected, kind)


def part_of_the_ranks(rank):
    """The state says which process group: here two of the three ranks."""
    pair = dist.new_group([1, 2])
    if rank == 0:
        return
    model = Network()
    for kind, hook in HOOKS.items():
        wrapped = distributed(model, hook, pair, process_group=pair, **TINY_BUCKETS)
        loss_of(wrapped, 0, rank).backward()
        expected = [DEFINITIONS[kind](shards[1:]) for shards in local_gradients(model, 0)]
        assert_equal(gradients(wrapped), expected, kind)


def bfloat16_model(rank):
    """Gradients that are bfloat16 already are rounded once, as a mean; the bf16 hook is then the tree."""
    model = Network().bfloat16()
    for hook in (hooks.tree_hook, hooks.bf16_compress_hook):
        wrapped = distributed(model, hook, **TINY_BUCKETS)
        loss_of(wrapped, 0, rank).backward()
        expected = [third(summed(shards)).bfloat16() for shards in local_gradients(model, 0)]
        assert_equal(gradients(wrapped), expected, "bfloat16")


def training(rank):
    """Ten steps of DDP with the tree have the bits of one process that sums the three shards."""
    model = Network()
    wrapped = distributed(model, hooks.tree_hook, gradient_as_bucket_view=True, **TINY_BUCKETS)
    a, b = (FusedAdamW(m.parameters(), lr=1e-2, max_grad_norm=0.5) for m in (wrapped, model))
    for seed in range(10):
        a.zero_grad()
        loss_of(wrapped, seed, rank).backward()
        a.step()
        for p, shards in zip(model.parameters(), local_gradients(model, seed), strict=True):
            p.grad = reduce.reduce_shards(shards, op="mean")
        b.step()
    assert_equal(list(wrapped.module.parameters()), list(model.parameters()), "weights")


def names_of_hooks(_rank):
    """Torch's bf16 hooks are refused without NCCL, by their names; ours are not."""
    for hook in (default_hooks.bf16_compress_hook, default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook)):
        with pytest.raises(TypeError, match="BF16 all reduce communication hook required"):
            distributed(Network(), hook)
    distributed(Network(), hooks.bf16_compress_hook)
    distributed(Network(), hooks.bf16_compress_wrapper(hooks.allreduce_hook))


SCENARIOS = [
    names_of_hooks,
    defined_bits,
    buckets_are_rebuilt,
    all_reduce_as_without_hook,
    wrappers,
    futures,
    accumulation,
    unused_parameters,
    two_models,
    part_of_the_ranks,
    bfloat16_model,
    training,
]


def test_three_processes(tmp_path):
    """Every scenario above, on three ranks."""
    run_on_ranks(SCENARIOS, tmp_path, WORLD)


def tree(shards):
    """The sum by the definition of the tree, top down."""
    if len(shards) == 1:
        return shards[0].float()
    half = 1
    while 2 * half < len(shards):
        half *= 2
    return tree(shards[:half]) + tree(shards[half:])


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 66, 128, 130, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_ranks_than_a_kernel_takes(n, dtype):
    """Rows of any number are one tree; a mean of ranks beyond 64 is no mean of means."""
    rows = tensors(n, (n, 33))[0].to(dtype)
    got = _ddp.sum_rows(rows.clone(), torch.empty(33, dtype=dtype), 1 / n)
    assert torch.equal(got, third(tree(list(rows)), n).to(dtype))
    if dtype == torch.float32 and n > 2:
        assert not torch.equal(tree(list(rows)), rows.cumsum(0)[-1])
