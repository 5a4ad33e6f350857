"""Buckets and accumulation: casts, scales and sums in one pass over a list."""

import itertools

import pytest
import torch
from _shards import DTYPES, Engine, assert_same_bits, check_transfers, numbers
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core
from gaudi3_rt.reduce import accumulate_, pack_, unpack_

CHUNK = _core.CHUNK


def test_bits_are_the_definition(isa):
    """All transfers, dtypes in and out, ragged tiles."""
    check_transfers(Engine(isa))


def test_special_values_on_every_build(transfer, dtype):
    """Infinities, NaNs, denormals, signed zeros, over several chunks and threads."""
    source = numbers(2 * CHUNK + 77, dtype, 1, special=0.1)
    target = numbers(2 * CHUNK + 77, torch.float32, 2, special=0.1)
    product = source.float() * torch.tensor(0.3)
    want = target + product if transfer == "accumulate" else product
    for isa, n_threads, exchange in itertools.product(_core.isas(), [1, 3], [True, False]):
        got = target.clone()
        Engine(isa, n_threads, exchange=exchange).transfer(transfer, source, got, 0.3)
        assert_same_bits(got, want, f"{isa}, {n_threads}")


@given(data=st.data())
def test_buckets_hold_their_tensors(data):
    """Any list of shapes, dtypes and layouts, there and back; a power of two as scale loses nothing."""
    shapes = data.draw(st.lists(st.lists(st.integers(0, 20), max_size=3), max_size=6))
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in shapes]
    tensors = [
        numbers(torch.Size(shape).numel(), dtype, i).reshape(shape)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    tensors = [x.mT.contiguous().mT if x.dim() > 1 and data.draw(st.booleans()) else x for x in tensors]
    total = sum(x.numel() for x in tensors)
    for bucket_dtype in DTYPES:
        bucket = torch.full((total,), -7.0, dtype=bucket_dtype)
        assert pack_(bucket, tensors, scale=0.25) is bucket
        want = torch.cat([torch.empty(0), *((x.float() * 0.25).reshape(-1) for x in tensors)]).to(bucket_dtype)
        assert_same_bits(bucket, want)
        back = [torch.full_like(x, -7.0) for x in tensors]
        unpack_(iter(back), bucket, scale=4.0)
        for got, expected in zip(back, want.split([x.numel() for x in tensors]), strict=True):
            assert_same_bits(got, (expected.float() * 4).to(got.dtype))


def test_a_view_with_gaps_is_unpacked():
    """What lies between its elements stays."""
    memory = torch.zeros(10, 6)
    unpack_([memory[:, ::2], torch.zeros(2)], torch.arange(32.0))
    assert torch.equal(memory[:, ::2].reshape(-1), torch.arange(30.0))
    assert not memory[:, 1::2].any()


def test_neighbours_may_be_written_together():
    """Columns of one matrix, whose stretches of memory overlap, and in place."""
    memory, grads = torch.arange(40.0).view(4, 10), torch.ones(4, 10)
    want = memory * 2 + grads
    left, right = memory[:, :3], memory[:, 3:]
    accumulate_([left, right], [left, right])
    accumulate_([left, right], [grads[:, :3], grads[:, 3:]])
    assert torch.equal(memory, want)
    unpack_([left, right], torch.zeros(40))
    assert not memory.any()


@pytest.mark.parametrize("call", [lambda x: pack_(x, [1.0]), lambda x: pack_([1.0], [x]), lambda x: unpack_([1.0], x)])
def test_what_is_no_tensor_is_refused(call):
    """By its place and type."""
    with pytest.raises(TypeError, match=r"(tensor 0|the bucket) is of type (float|list); expected a tensor"):
        call(torch.zeros(1))


def test_a_factor_may_be_a_tensor():
    """One that is on the CPU and has one element; without a warning."""
    main = torch.zeros(6)
    accumulate_(main[::2], torch.ones(3), scale=torch.tensor(0.5))
    assert main.tolist() == [0.5, 0, 0.5, 0, 0.5, 0]


def test_micro_batches_are_added_in_float32():
    """300 gradients in bfloat16: the error is that of float32, where a sum in bfloat16 stops growing."""
    grads = [torch.full((100,), 1.0, dtype=torch.bfloat16) for _ in range(300)]
    main, naive = torch.zeros(100), torch.zeros(100, dtype=torch.bfloat16)
    for grad in grads:
        accumulate_(main, grad)
        naive += grad
    assert (main == 300).all()
    assert (naive == 256).all()


def test_lists_and_layouts_are_accumulated():
    """Pairs of one layout by the kernel, others by torch, with the same bits; parameters without a graph."""
    mains = [numbers(60, seed=1).reshape(6, 10), torch.nn.Parameter(numbers(60, seed=2).reshape(6, 10)), torch.zeros(0)]
    grads = [
        numbers(60, torch.float16, 3).reshape(10, 6).t(),
        numbers(60, torch.bfloat16, 4).reshape(6, 10),
        torch.zeros(0),
    ]
    want = [m.detach() + g.float() * torch.tensor(1 / 3) for m, g in zip(mains, grads, strict=True)]
    accumulate_(mains, grads, scale=1 / 3)
    for got, expected in zip(mains, want, strict=True):
        assert_same_bits(got, expected)


BAD = {
    "too short": (lambda x: pack_(x[:10], [x.clone()]), "as long as they are"),
    "2-d bucket": (lambda x: pack_(x.view(8, 5), [x.clone()]), "1-d"),
    "bucket with gaps": (lambda x: unpack_([x.clone()[:20]], x[::2]), "contiguous"),
    "float64": (lambda x: pack_(x, [x.double()]), "float32, bfloat16 or float16"),
    "integers": (lambda x: unpack_([x.int()], x), "float32, bfloat16 or float16"),
    "overlap": (lambda x: pack_(x[:20], [x[10:30]]), "shares memory"),
    "written twice": (lambda x: unpack_([x[:10], x[5:15]], torch.ones(20)), "shares memory"),
    "list too short": (lambda x: accumulate_([x, x.clone()], [x.clone()]), "one for each"),
    "other shape": (lambda x: accumulate_(x, x.clone().view(8, 5)), "alike"),
    "other device": (lambda x: accumulate_(x, x.to("meta")), "alike"),
    "main gradient in half": (lambda x: accumulate_(x.half(), x), "main gradient 0"),
    "expanded main gradient": (lambda x: accumulate_([x, torch.zeros(1).expand(5)], [x, torch.ones(5)]), "expanded"),
    "gradients overlap": (lambda x: accumulate_(x[:20], x[1:21]), "shares memory"),
    "gaps over what is written": (lambda x: accumulate_([x, torch.zeros(20)], [x.clone(), x[::2]]), "shares memory"),
    "gaps written twice": (lambda x: accumulate_([x[::2], x[2::2]], [torch.ones(20), torch.ones(19)]), "shares memory"),
    "gaps into their bucket": (lambda x: pack_(x[:20], [x[::2]]), "shares memory"),
    "gaps from their bucket": (lambda x: unpack_([x[::2]], x[:20]), "shares memory"),
    "gaps unpacked twice": (lambda x: unpack_([x[::2], x[30:]], torch.ones(30)), "shares memory"),
    "sparse": (lambda x: pack_(x, [torch.eye(4).to_sparse()]), "layout torch.sparse_coo"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(case):
    """Lengths, dtypes, layouts and memory."""
    call, message = BAD[case]
    x = numbers(40, seed=1)
    before = x.clone()
    with pytest.raises(ValueError, match=message):
        call(x)
    assert torch.equal(x, before)
