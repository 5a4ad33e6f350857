"""Sums of shards: the bits of one tree on every build, for every cut, cover and number of threads."""

import itertools
import math

import numpy as np
import pytest
import torch
from _cases import for_all
from _shards import DTYPES, Engine, assert_same_bits, check_tree, leaves, numbers, tree_sum
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core, reduce
from gaudi3_rt.reduce import _shards as shards_module
from gaudi3_rt.reduce import merge_counts, node_cover, reduce_shards, reduce_shards_measured

CHUNK = _core.CHUNK
THREADS = [1, 2, 3, 8]


def test_bits_are_the_definition(isa):
    """All dtypes in and out, long and short trees, special values, ragged tiles."""
    check_tree(Engine(isa))


@for_all(n_shards=range(2, 65))
def test_every_number_of_shards(n_shards):
    """From 2 to 64, on all builds."""
    dtype = DTYPES[n_shards % 3]
    nodes = [numbers(600, dtype, seed, special=0.02) for seed in range(n_shards)]
    want = tree_sum(nodes, leaves(n_shards), 1 / n_shards, torch.float32)
    for isa in _core.isas():
        out = torch.empty(600)
        Engine(isa).tree_sum(nodes, leaves(n_shards), 1 / n_shards, out)
        assert_same_bits(out, want, isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_build_or_threads(dtype):
    """Several chunks with a ragged end, large enough to be written past the caches in one dtype."""
    n = 17 * CHUNK + 777
    nodes = [numbers(n, dtype, seed) for seed in range(3)]
    want = tree_sum(nodes, leaves(3), 0.5, dtype)
    wide = tree_sum(nodes, leaves(3), 0.5, torch.float32)
    sums = _core.reduce("scalar", torch.Tensor, "sum_squares", list(want.split(CHUNK)), 1)
    for isa, n_threads in itertools.product(_core.isas(), THREADS):
        out = torch.empty(n, dtype=dtype)
        assert Engine(isa, n_threads).tree_sum(nodes, leaves(3), 0.5, out) == sums, f"{isa}, {n_threads}"
        assert_same_bits(out, want, f"{isa}, {n_threads} threads")
        out = torch.empty(n)
        assert _core.reduce_nodes(isa, torch.Tensor, [out], [nodes], leaves(3), 0.5, None, n_threads)
        assert_same_bits(out, wide, f"{isa}, {n_threads} threads, float32")


@given(data=st.data())
def test_bits_depend_on_the_elements_alone(data):
    """Wherever memory begins, whatever the lengths, mixed dtypes of nodes included, out among the shards or not."""
    n_shards = data.draw(st.integers(2, 9))
    sizes = data.draw(st.lists(st.integers(0, 1500), min_size=1, max_size=3))
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=n_shards, max_size=n_shards))
    if data.draw(st.booleans()):
        dtypes = dtypes[:1] * n_shards
    inside = data.draw(st.integers(0, n_shards))  # the shard that takes the sum; n_shards: none
    out_dtype = dtypes[inside] if inside < n_shards else data.draw(st.sampled_from(DTYPES))
    offset = data.draw(st.integers(0, 5))

    def moved(values):
        return torch.empty(values.numel() + offset, dtype=values.dtype)[offset:].copy_(values)

    segments = [[moved(numbers(n, dtype, seed, special=0.02)) for seed, dtype in enumerate(dtypes)] for n in sizes]
    want = [tree_sum(nodes, leaves(n_shards), 1.25, out_dtype) for nodes in segments]
    for isa in _core.isas():
        copies = [[moved(node) for node in nodes] for nodes in segments]
        outs = [
            nodes[inside] if inside < n_shards else moved(torch.zeros(nodes[0].numel(), dtype=out_dtype))
            for nodes in copies
        ]
        assert _core.reduce_nodes(isa, torch.Tensor, outs, copies, leaves(n_shards), 1.25, None, 2)
        for got, expected in zip(outs, want, strict=True):
            assert_same_bits(got, expected, isa)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("n_shards", [8, 6, 13])
def test_covers_of_ranks_give_the_bits_of_the_whole(n_ranks, n_shards):
    """Each rank sums its shards to nodes, in float32, and the nodes of all give what one process gets."""
    shards = [numbers(2000, torch.bfloat16, seed) for seed in range(n_shards)]
    want = reduce_shards(shards, torch.empty(2000), op="mean")
    cuts = [round(n_shards * rank / n_ranks) for rank in range(n_ranks + 1)]
    nodes, sums = [], []
    for begin, end in itertools.pairwise(cuts):
        for first, last in node_cover(begin, end, n_shards):
            part = torch.empty(2000)
            shards_module.reduce_nodes([part], [shards[first:last]], leaves(last - first))
            nodes.append((first, last))
            sums.append(part)
    got = torch.empty(2000)
    shards_module.reduce_nodes([got], [sums], merge_counts(nodes, n_shards), scale=1 / n_shards)
    assert_same_bits(got, want)


@given(data=st.data())
def test_chunk_sums_of_any_slices_fold_to_the_sum_of_the_whole(data):
    """Slices at multiples of a chunk, in one call or in one each: the fold has the bits of `sum_squares`."""
    length = data.draw(st.integers(1, 4 * CHUNK))
    shards = [numbers(length, torch.bfloat16, seed) for seed in range(2)]
    cuts = data.draw(st.sets(st.integers(1, max(1, length // CHUNK)), max_size=3))
    slices = [
        slice(a, b) for a, b in itertools.pairwise([0, *sorted(c * CHUNK for c in cuts if c * CHUNK < length), length])
    ]
    whole = reduce_shards_measured(shards, torch.empty(length))
    assert whole.sum_squares == reduce.sum_squares([whole.out])
    out, sums = torch.empty(length), torch.empty(-(-length // CHUNK), dtype=torch.float64)
    nodes = [[shard[part] for shard in shards] for part in slices]
    if data.draw(st.booleans()):
        shards_module.reduce_nodes([out[part] for part in slices], nodes, [0, 1], chunk_sums=sums)
    else:
        for part, segment in zip(slices, nodes, strict=True):
            own = sums[part.start // CHUNK : -(-part.stop // CHUNK)]
            shards_module.reduce_nodes([out[part]], [segment], [0, 1], chunk_sums=own)
    assert _core.fold("sum_squares", sums.tolist()) == whole.sum_squares
    assert_same_bits(out, whole.out)


def test_no_zero_is_added():
    """Sums of -0.0 alone stay -0.0 for all numbers of shards, and a lone denormal survives."""
    for n in range(2, 18):
        assert reduce_shards([torch.tensor([-0.0])] * n).signbit().item(), n
        shards = [torch.tensor([-0.0]) for _ in range(n)]
        shards[n // 2] = torch.tensor([-1e-45])
        assert reduce_shards(shards).item() == torch.tensor(-1e-45).item()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_elements_are_counted(dtype, value):
    """Each that is stored, overflow of the sum or of the conversion too; the sum of squares is not finite then."""
    shards = [numbers(70_001, dtype, seed) for seed in range(5)]
    clean = reduce_shards_measured(shards)
    assert (clean.nonfinite, math.isfinite(clean.sum_squares)) == (0, True)
    for i in (0, 1, 40_000, 70_000):
        shards[i % 5][i] = value
    got = reduce_shards_measured(shards)
    assert got.nonfinite == 4
    assert not math.isfinite(got.sum_squares)
    largest = torch.finfo(dtype).max
    overflow = reduce_shards_measured([torch.full((3,), largest, dtype=dtype)] * 2)
    assert (overflow.nonfinite, overflow.sum_squares) == (3, math.inf)


@pytest.mark.parametrize("pattern", [0x7FC00000, 0x7FFFFFFF, -1, 0x7F800001])
def test_any_nan_as_a_factor_gives_nan(dtype, pattern):
    """Whatever its lower bits are, which rounding to bfloat16 must not carry into the exponent."""
    scale = float(torch.tensor(pattern, dtype=torch.int32).view(torch.float32))
    for isa in _core.isas():
        out = torch.zeros(600, dtype=dtype)
        Engine(isa).tree_sum([torch.ones(600, dtype=dtype)] * 2, leaves(2), scale, out)
        assert out.isnan().all(), isa


def test_mean_rounds_its_factor_once():
    """The factor is scale / n in double, then float32; the sum of thirds is not formed."""
    shards = [numbers(999, torch.float32, seed) for seed in range(3)]
    total = tree_sum(shards, leaves(3), 1.0, torch.float32)
    assert_same_bits(reduce_shards(shards, op="mean", scale=0.7), total * torch.tensor(0.7 / 3, dtype=torch.float32))
    assert_same_bits(reduce_shards(shards, scale=0.7), total * torch.tensor(0.7, dtype=torch.float32))
    assert_same_bits(reduce_shards(torch.stack(shards)), total)


def test_reference_is_the_definition():
    """In double: the float32 kernel is within its roundings of it."""
    nodes = [numbers(500, torch.float32, seed) for seed in range(6)]
    want = np.empty(500)
    _core.reduce_nodes_reference([node.double().numpy() for node in nodes], leaves(6), 0.3, want)
    assert np.allclose(want, 0.3 * sum(node.double().numpy() for node in nodes), rtol=1e-14, atol=1e-13)
    got = reduce_shards(nodes, scale=0.3).double().numpy()
    bound = 4 * 2.0**-24 * 0.3 * sum(node.double().abs().numpy() for node in nodes)
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("n_shards", [2, 3, 4, 8, 16, 32, 64])
def test_error_is_below_that_of_a_ring_in_bfloat16(n_shards):
    """A ring rounds the running sum to bfloat16 at each hop, the tree once: its error stays at that of one."""
    shards = [numbers(20_000, torch.bfloat16, seed) for seed in range(n_shards)]
    exact = torch.stack(shards).double().mean(0)
    ring = shards[0]
    for shard in shards[1:]:
        ring = ring + shard
    ring = (ring / n_shards).double()
    ours = reduce_shards(shards, op="mean").double()
    rounded = exact.to(torch.bfloat16).double()
    assert (ours - exact).norm() <= 1.01 * (rounded - exact).norm()
    if n_shards > 2:
        assert (ours - exact).norm() < 0.9 * (ring - exact).norm()


@pytest.mark.parametrize("flush", [False, True])
def test_flushing_of_denormals_is_the_callers(flush):
    """In all threads and on all builds alike."""
    shards = [torch.full((200_000,), 1e-39), torch.full((200_000,), 2e-39)]
    torch.set_flush_denormal(flush)
    results = []
    for isa, n_threads in itertools.product(_core.isas(), [1, 2]):
        out = torch.empty(200_000)
        Engine(isa, n_threads).tree_sum(shards, [0, 1], 1.0, out)
        results.append(out)
    torch.set_flush_denormal(False)
    want = torch.zeros(()) if flush else torch.tensor(1e-39) + torch.tensor(2e-39)
    assert all((out == want).all() for out in results)


# What the kernels do not reach, and what is refused


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_layouts_have_the_same_bits(dtype):
    """Views with gaps and mixed orders of dimensions go through torch, permuted ones all alike through the kernel."""
    plain = [numbers(24 * 50, dtype, seed, special=0.02).reshape(24, 50) for seed in range(5)]
    want = reduce_shards_measured(plain, op="mean")
    gaps = [torch.zeros(24, 100, dtype=dtype)[:, ::2].copy_(x) for x in plain]
    permuted = [x.t().contiguous().t() for x in plain]
    for shards in (gaps, permuted, [plain[0], *permuted[1:]]):
        got = reduce_shards_measured(shards, op="mean")
        assert_same_bits(got.out, want.out)
        assert got.nonfinite == want.nonfinite
    plain = [numbers(2 * CHUNK + 50, dtype, seed) for seed in range(2)]
    gaps = torch.zeros(2 * CHUNK + 50, 2, dtype=dtype)[:, 0]
    measured = reduce_shards_measured(plain, gaps)
    assert measured.sum_squares == reduce_shards_measured(plain).sum_squares == reduce.sum_squares([gaps])
    plain = [numbers(24 * 50, dtype, seed, special=0.02).reshape(24, 50) for seed in range(5)]
    result = torch.zeros(24, 100, dtype=dtype)
    assert_same_bits(reduce_shards(plain, result[:, 1::2], op="mean"), want.out)
    assert not result[:, ::2].any()
    meta = reduce_shards([x.to("meta") for x in plain])
    assert (meta.device.type, meta.shape, meta.dtype) == ("meta", (24, 50), dtype)


def test_parameters_and_empty_tensors():
    """Leaves of autograd are summed without a graph; nothing is summed to nothing."""
    shards = [torch.nn.Parameter(numbers(100, seed=i)) for i in range(2)]
    total = reduce_shards(shards)
    assert not total.requires_grad
    assert_same_bits(total, shards[0].detach() + shards[1].detach())
    empty = reduce_shards_measured([torch.empty(0)] * 3)
    assert (empty.out.numel(), empty.sum_squares, empty.nonfinite) == (0, 0.0, 0)
    assert reduce_shards([torch.tensor(1.0), torch.tensor(2.0)]).item() == 3


BAD = {
    "one shard": (lambda x: ([x], None), "2 to 64"),
    "65 shards": (lambda x: ([x] * 65, None), "2 to 64"),
    "other shape": (lambda x: ([x, x[:5]], None), "shard 1 is"),
    "other dtype": (lambda x: ([x, x.half()], None), "shard 1 is"),
    "float64": (lambda x: ([x.double()] * 2, None), "float32, bfloat16 or float16"),
    "other shape of out": (lambda x: ([x, x.clone()], x[:5].clone()), "out is"),
    "other dtype of out": (lambda x: ([x, x.clone()], x.double()), "out is"),
    "expanded out": (lambda x: ([x, x.clone()], torch.zeros(1).expand(40)), "expanded view"),
    "no rows": (lambda x: (x[0], None), "no rows"),
    "sparse": (lambda x: ([x.to_sparse()] * 2, None), "layout torch.sparse_coo"),
    "out among gaps": (lambda x: ([x[:20], x[::2]], x[10:30]), "shares memory"),
    "out beside a shard": (lambda x: ([x[:-1], x[:-1].clone()], x[1:]), "shares memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(case):
    """Number, shape, dtype and memory."""
    make, message = BAD[case]
    x = numbers(40, seed=1)
    before = x.clone()
    shards, out = make(x)
    with pytest.raises(ValueError, match=message):
        reduce_shards(shards, out)
    assert torch.equal(x, before)
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        reduce_shards([x, x], op="max")


def test_what_is_no_tensor_is_refused():
    """By its place and type."""
    with pytest.raises(TypeError, match="shard 1 is of type int"):
        reduce_shards([torch.ones(3), 3])


def test_autograd_sees_what_is_written():
    """A backward through an overwritten value fails, as it does after torch's own operations."""
    weight = torch.nn.Parameter(torch.ones(5))
    hidden = weight * 2
    loss = (hidden * hidden).sum()
    reduce_shards([torch.ones(5), torch.ones(5)], hidden.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        assert reduce_shards([torch.ones(2), torch.ones(2)]).tolist() == [2, 2]


def test_reused_memory_of_another_dtype_is_refused():
    """A bfloat16 result over the bytes of a float32 shard would be read after it was written."""
    x, y = numbers(64, seed=1), numbers(64, seed=2)
    before = x.clone()
    with pytest.raises(ValueError, match="shares memory"):
        reduce_shards([x, y], x.view(torch.bfloat16)[:64])
    with pytest.raises(ValueError, match="shares memory"):
        shards_module.reduce_nodes([x, x], [[x, y], [y, y]], [0, 1])
    assert torch.equal(x, before)


@pytest.mark.parametrize("merges", [[], [0], [1, 0], [0, 0], [0, 2], [0] * 16 + [16]])
def test_merges_that_are_no_tree_are_refused(merges):
    """Too few, too many, too early, or with more partial sums than there is room for."""
    nodes = [torch.ones(3) for _ in merges]
    if merges == [0]:
        shards_module.reduce_nodes([torch.zeros(3)], [nodes], merges)  # one node is its own sum
        return
    with pytest.raises(ValueError, match="merges"):
        shards_module.reduce_nodes([torch.zeros(3)], [nodes], merges)


def test_chunk_sums_have_to_fit():
    """Their number and dtype are checked before anything is summed."""
    out = torch.zeros(10)
    for sums in (torch.zeros(2, dtype=torch.float64), torch.zeros(1)):
        with pytest.raises(ValueError, match="chunk_sums"):
            shards_module.reduce_nodes([out], [[torch.ones(10)]], [0], chunk_sums=sums)
    assert not out.any()
