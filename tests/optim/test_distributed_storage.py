"""Two processes over gloo: storage of shards, norms of whole parameters, numbers of a shard's elements."""

import pytest
import torch
from _ranks import WORLD, run_on_ranks, tensors
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

from gaudi3_rt.optim import FusedAdamW, FusedLAMB, FusedLARS
from gaudi3_rt.optim._sharding import shard_elements

SHAPES = [(6, 1024), (17, 512), (8192,), (5, 1024), (3, 2, 1024), (40, 8), (100, 50), (1, 8192)]
PLACEMENTS = [Shard(1), Shard(0), Shard(0), Replicate(), Shard(2), Shard(0), Replicate(), Shard(0)]  # one rank is empty


def coded_pair(mesh, dtype, shapes, placements):
    """Equal parameters, sharded and whole."""
    values = [value.to(dtype) for value in tensors(0, *shapes)]
    sharded = [torch.nn.Parameter(distribute_tensor(v, mesh, [p])) for v, p in zip(values, placements, strict=True)]
    return sharded, [torch.nn.Parameter(v.clone()) for v in values]


def step_both(mesh, a, b, seed):
    """Takes a step of both with equal gradients."""
    sharded, whole = (optimizer.param_groups[0]["params"] for optimizer in (a, b))
    for p, q, grad in zip(sharded, whole, tensors(seed, *(q.shape for q in whole)), strict=True):
        q.grad = grad.to(q.dtype)
        p.grad = distribute_tensor(q.grad, mesh, p.placements)
    a.step()
    b.step()


def assert_gathered(a, b):
    """What all ranks hold together is, byte by byte, what the optimizer of whole parameters holds."""
    for p, q in zip(a.param_groups[0]["params"], b.param_groups[0]["params"], strict=True):
        assert torch.equal(p.full_tensor(), q)
        assert list(a.state[p]) == list(b.state[q])
        for key, value in b.state[q].items():
            got = a.state[p][key]
            assert key == "step" or got.placements == p.placements
            gathered = got.to(torch.float32).full_tensor() if isinstance(got, DTensor) else got  # gloo has no int16
            assert torch.equal(gathered, value.to(torch.float32)), key


def sharded_codes(_rank):
    """Stochastic rounding and int8 blocks: columns, rows, uneven and replicated; also when loaded from float32."""
    mesh = init_device_mesh("cpu", (WORLD,))
    for dtype, options in (
        (torch.bfloat16, {"rounding": "stochastic", "moments_dtype": torch.int8, "ema_decay": 0.9, "seed": 4}),
        (torch.float32, {"moments_dtype": torch.bfloat16}),
        (torch.bfloat16, {"master": "split", "moments_dtype": torch.int8}),
        (torch.bfloat16, {"master": "float32", "moments_dtype": (torch.float32, torch.int8)}),
    ):
        sharded, whole = coded_pair(mesh, dtype, SHAPES, PLACEMENTS)
        a, b = FusedAdamW(sharded, lr=1e-2, **options), FusedAdamW(whole, lr=1e-2, **options)
        for seed in range(3):
            step_both(mesh, a, b, seed)
        assert_gathered(a, b)
    plain, coded = (
        [FusedAdamW(p, lr=1e-2, **o) for p in (sharded, whole)] for o in ({}, {"moments_dtype": torch.int8})
    )
    step_both(mesh, *plain, 9)
    for source, target in zip(plain, coded, strict=True):
        target.load_state_dict(source.state_dict())
    assert_gathered(*coded)
    step_both(mesh, *coded, 10)
    assert_gathered(*coded)


def codes_that_do_not_fit(_rank):
    """Shards that would cut blocks: a sentence that says what to do; nothing is changed."""
    mesh = init_device_mesh("cpu", (WORLD,))
    for shape, placement in (((8, 768), Shard(1)), ((5000,), Shard(0)), ((100, 50), Shard(0))):
        (p,), _ = coded_pair(mesh, torch.float32, [shape], [placement])
        before = p.to_local().clone()
        p.grad = distribute_tensor(torch.ones(shape), mesh, [placement])
        optimizer = FusedAdamW([p], moments_dtype=torch.int8)
        with pytest.raises(ValueError, match=r"whose last dimension is a multiple of 256; use torch\.bfloat16 moments"):
            optimizer.step()
        assert torch.equal(p.to_local(), before)
        assert not optimizer.state
        FusedAdamW([p], moments_dtype=torch.bfloat16).step()


def sharded_norms(rank):
    """LAMB and LARS scale by the norms of whole parameters, not of shards; one that is empty here counts too."""
    mesh = init_device_mesh("cpu", (WORLD,))
    shapes, placements = [(5, 3), (1, 4), (6, 2)], [Shard(0), Shard(0), Shard(1)]
    for cls, options in (
        (FusedLAMB, {"weight_decay": 0.1}),
        (FusedLARS, {"weight_decay": 0.1, "momentum": 0.9, "max_grad_norm": 0.5}),
    ):
        for dtype in (torch.float32, torch.float64):
            sharded, whole = coded_pair(mesh, dtype, shapes, placements)
            assert (sharded[1].to_local().numel() == 0) == (rank == 1)
            a, b = cls(sharded, lr=0.1, **options), cls(whole, lr=0.1, **options)
            for seed in range(10):
                step_both(mesh, a, b, seed)
                torch.testing.assert_close(a.last_grad_norm, b.last_grad_norm, rtol=1e-6, atol=0)
            for p, q in zip(sharded, whole, strict=True):
                torch.testing.assert_close(p.full_tensor(), q.detach(), rtol=0, atol=1e-6)


def overlapped_norm_and_replicas(rank):
    """DistributedDataParallel writes gradients after the hooks have read them: the norm is that of what it wrote."""
    for as_views in (False, True):
        torch.manual_seed(0)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(20, 5), gradient_as_bucket_view=as_views)
        optimizer = FusedAdamW(model.parameters(), max_grad_norm=1.0, norm="overlapped")
        for step in range(3):
            optimizer.zero_grad()
            model(tensors(10 * step + rank, (8, 20))[0]).square().sum().backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            optimizer.step()
            torch.testing.assert_close(optimizer.last_grad_norm, norm, rtol=1e-6, atol=0)


SCENARIOS = [sharded_codes, codes_that_do_not_fit, sharded_norms, overlapped_norm_and_replicas]


def test_two_processes(tmp_path):
    """Every scenario above, on two ranks."""
    run_on_ranks(SCENARIOS, tmp_path)


class Divided:
    """What is asked of a DTensor to number the elements of its shard."""

    device_mesh = placements = None

    def __init__(self, shape, offsets, sizes):
        """The part of a tensor of a shape that begins at some offsets and has some sizes."""
        self.shape, self.ndim = torch.Size(shape), len(shape)
        self.chunk = type("Chunk", (), {"offsets": torch.Size(offsets), "sizes": torch.Size(sizes)})

    def numel(self):
        """Of the whole tensor."""
        return self.shape.numel()

    def __create_chunk_list__(self):
        """As DTensor says where its shard is."""
        return [self.chunk]


@pytest.mark.parametrize(
    ("shape", "offsets", "sizes"),
    [
        ((6, 8), (0, 0), (6, 8)),
        ((6, 8), (3, 0), (3, 8)),
        ((6, 8), (0, 2), (6, 3)),
        ((6, 8), (4, 5), (2, 3)),
        ((4, 5, 6), (1, 0, 2), (2, 5, 3)),
        ((4, 5, 6), (0, 2, 0), (4, 2, 6)),
        ((4, 5, 6), (2, 1, 0), (2, 3, 6)),
        ((4, 5, 6), (0, 0, 5), (4, 5, 1)),
        ((4, 5, 6), (3, 2, 1), (1, 2, 3)),
        ((7,), (3,), (2,)),
    ],
)
def test_elements_of_a_shard_have_the_numbers_of_the_whole(shape, offsets, sizes):
    """Base, run and stride give, for each element of the shard, its place in the whole parameter."""
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    shard = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
    base, run, stride = shard_elements(Divided(shape, offsets, sizes))
    i = torch.arange(shard.numel())
    assert torch.equal(base + i // run * stride + i % run, shard.flatten())


def test_shards_that_cannot_be_numbered_are_refused():
    """Rows at unequal distances: two later dimensions divided at once."""
    with pytest.raises(NotImplementedError, match=r"divided along the dimensions \[1, 2\]; stochastic rounding and"):
        shard_elements(Divided((4, 5, 6), (0, 1, 2), (4, 2, 3)))
    with pytest.raises(NotImplementedError, match=r"divided along the dimensions \[0, 1, 2\]"):
        shard_elements(Divided((4, 5, 6), (0, 1, 2), (2, 2, 3)))
