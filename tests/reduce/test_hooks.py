"""DDP's communication hooks, on three ranks: what arrives has the bits it should have, under every option of DDP."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from _ranks import run_on_ranks, tensors
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from gaudi3_rt import reduce
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.reduce import _ddp, hooks

WORLD = 3
TINY_BUCKETS = {"bucket_cap_mb": 1e-3}
OPTIONS = {
    "default": {},
    "tiny buckets": TINY_BUCKETS,
    "bucket view": {"gradient_as_bucket_view": True, **TINY_BUCKETS},
    "find unused": {"find_unused_parameters": True, **TINY_BUCKETS},
    "static graph": {"static_graph": True, "gradient_as_bucket_view": True, **TINY_BUCKETS},
}


class Network(nn.Module):
    """Layers of odd sizes, registered in another order than they run in, so that DDP rebuilds its buckets."""

    def __init__(self, *, unused=False):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(19, 3)
        self.first = nn.Linear(7, 37)
        self.unused = nn.Linear(5, 5) if unused else None
        self.only_on_rank_0 = nn.Linear(19, 3) if unused else None
        self.middle = nn.Sequential(nn.Linear(37, 41), nn.Tanh(), nn.Linear(41, 19))

    def forward(self, x, rank):
        """The extra layer is used by rank 0 alone."""
        hidden = self.middle(self.first(x).tanh())
        out = self.last(hidden)
        return out if self.only_on_rank_0 is None or rank != 0 else out + self.only_on_rank_0(hidden)


def batch(seed, rank):
    """What one rank sees."""
    return 3 * tensors(1000 * seed + rank, (5, 7))[0]


def loss_of(model, seed, rank):
    """Of one rank's batch."""
    x = batch(seed, rank).to(next(model.parameters()).dtype)
    return model(x, rank).float().square().mean()


def local_gradients(model, seed):
    """For each parameter the gradients of all ranks; None where a rank has none."""
    parameters = list(model.parameters())
    losses = [loss_of(model, seed, rank) for rank in range(WORLD)]
    return list(zip(*(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses), strict=True))


def summed(shards):
    """The tree over two or three shards, in float32."""
    total = shards[0].float() + shards[1].float()
    return total if len(shards) == 2 else total + shards[2].float()


def third(value, world=WORLD):
    """The mean's factor, rounded to float32 once."""
    return value * torch.tensor(1 / world)


DEFINITIONS = {
    "tree": lambda shards: third(summed(shards), len(shards)),
    "bf16": lambda shards: third(summed([s.bfloat16() for s in shards]), len(shards)).bfloat16().float(),
    "fp16": lambda shards: summed([third(s, len(shards)).half() for s in shards]).half().float(),
}
HOOKS = {
    "tree": hooks.tree_hook,
    "bf16": hooks.bf16_compress_hook,
    "fp16": hooks.fp16_compress_hook,
}


def distributed(model, hook, state=None, **options):
    """The model under DDP with a hook, which has to be called."""
    wrapped = DistributedDataParallel(copy.deepcopy(model), **options)
    if hook is not None:
        wrapped.register_comm_hook(state, hook)
    return wrapped


def gradients(wrapped):
    """As they are after backward."""
    return [None if p.grad is None else p.grad.clone() for p in wrapped.module.parameters()]


def assert_equal(got, expected, what):
    """To the bit."""
    for i, (mine, other) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(mine, other), f"{what}: gradient {i}: {(mine - other).abs().max()}"


def same_on_all_ranks(values):
    """Fails unless all ranks hold the same bits."""
    flat = torch.cat([value.reshape(-1).float() for value in values])
    everyone = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, flat)
    assert all(torch.equal(other, flat) for other in everyone)


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


def names_of_hooks(_rank):
    """Torch's bf16 hooks are refused without NCCL, by their names; ours are not."""
    for hook in (default_hooks.bf16_compress_hook, default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook)):
        with pytest.raises(TypeError, match="BF16 all reduce communication hook required"):
            distributed(Network(), hook)
    distributed(Network(), hooks.bf16_compress_hook)
    distributed(Network(), hooks.bf16_compress_wrapper(hooks.allreduce_hook))


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
    int8_loses_nothing,
    int8_without_feedback,
    few_elements,
    not_finite,
    memory_is_used_again,
    other_gradients_are_refused,
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
