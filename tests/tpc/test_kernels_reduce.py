"""TPC kernels of gradient reduction, emulated: shards along their tree, accumulation, buckets in another dtype."""

import _tpc_kernels
import numpy as np
import pytest
import torch
from _tpc_kernels import MEMBER, SIZES, assert_same_bits, flushing
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_sums import DTYPES, cases, dtypes, values

from gaudi3_rt import _core, reduce, tpc

LANES = 64
MAX_SHARDS = _core.TPC_MAX_SHARDS
# What an absent shard must not change or be mistaken for, and sums that depend on the order: one column each.
COLUMNS = [
    lambda n: np.full(n, -0.0),
    lambda n: np.where(np.arange(n) == n - 1, 0.0, -0.0),
    lambda n: np.where(np.arange(n) == n - 1, np.nan, 1.0),
    lambda n: np.where(np.arange(n) % 2 == 1, -np.inf, np.inf),
    lambda n: np.where(np.arange(n) == n - 1, -2e38, 2e38 / max(n - 1, 1)),
    lambda n: np.where(np.arange(n) == n // 2, -2e38, 3e38),
    lambda n: np.full(n, 1e-39),
    lambda n: np.where(np.arange(n) == 0, 1.0, 2.0**-24),
]


def tree(shards):
    """The definition: the perfect tree over as many leaves as a power of two, those that are absent left out."""
    if len(shards) == 1:
        return shards[0]
    half = 1 << (len(shards) - 1).bit_length() - 1
    return tree(shards[:half]) + tree(shards[half:])


def reduced(shards, factor):
    """The definition of the kernel, in float32 of NumPy: the factor after the sum, one rounding more to bf16."""
    with flushing(), np.errstate(all="ignore"):
        total = tree(list(shards.float().numpy())) * np.float32(factor)
        return torch.from_numpy(total).to(shards.dtype)


def shards_of(n_shards, n, seed, dtype):
    """Rows of random numbers of several magnitudes; each vector begins with the columns above."""
    x = values(n_shards * n, seed, dtype, special=0.02).reshape(n_shards, n)
    x *= 2.0 ** torch.from_numpy(np.random.default_rng(seed).integers(-6, 7, (n_shards, 1)))
    with np.errstate(all="ignore"):
        columns = np.stack([make(n_shards) for make in COLUMNS], 1).astype(np.float32)
    for begin in range(0, n, LANES):
        width = min(len(COLUMNS), n - begin)
        x[:, begin : begin + width] = torch.from_numpy(columns)[:, :width].to(x.dtype)
    return x


def assert_all_bits(got, want):
    """Equal bits, those of zeros too; any NaN is like another."""
    assert got.dtype == want.dtype
    a, b = (
        x.float().nan_to_num(nan=7.0, posinf=torch.inf, neginf=-torch.inf).numpy().view(np.int32) for x in (got, want)
    )
    np.testing.assert_array_equal(torch.isnan(got), torch.isnan(want))
    np.testing.assert_array_equal(a, b)


def check(n_shards, n, dtype, factor, seed=0, **options):
    """Runs the kernel and compares."""
    x = shards_of(n_shards, n, seed, dtype)
    inputs = {"shards": x, "factor": torch.tensor([factor])}
    got = _tpc_kernels.run(f"reduce_shards_{dtype}", inputs, n, seed=seed, **options)["reduced"]
    assert_all_bits(got, reduced(x, factor))


@dtypes
@pytest.mark.parametrize("n_shards", range(1, MAX_SHARDS + 1))
def test_shards_are_added_along_the_tree(dtype, n_shards):
    """Every number of shards, ragged ends; sums of even numbers, means of odd ones."""
    check(n_shards, SIZES[-n_shards % len(SIZES)], dtype, 1 / n_shards if n_shards % 2 else 1.0, seed=n_shards)


@dtypes
@given(
    n_shards=st.integers(2, MAX_SHARDS),
    n=st.sampled_from(SIZES),
    factor=st.sampled_from([0.37, -3.0, 1e-30, 1e30]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=6)
def test_shards_times_any_factor(dtype, n_shards, n, factor, seed):
    """Also one that makes products overflow or vanish."""
    check(n_shards, n, dtype, factor, seed)


@dtypes
def test_the_same_tree_as_on_a_cpu(dtype):
    """What gaudi3_rt.reduce gives for the same shards."""
    for n_shards in (2, 5, 8, 13, 64):
        x = values(n_shards * 1000, n_shards, dtype).reshape(n_shards, 1000)
        inputs = {"shards": x, "factor": torch.tensor([0.37 / n_shards])}
        got = _tpc_kernels.run(f"reduce_shards_{dtype}", inputs, 1000)["reduced"]
        assert_all_bits(got, reduce.reduce_shards(x, op="mean", scale=0.37))


# What is wrong: what the kernel says (once), what the mutant says, and a number of shards that shows it.
MUTANTS = {
    "one after the other": (
        "add(sum_2(element, shard, shards), sum_2(element, shard + 2, shards))",
        "add(add(sum_2(element, shard, shards), load(element, shard + 2, shards)), load(element, shard + 3, shards))",
        4,
    ),
    "absent shards are +0": ("  quad.second.v1 = -0.0f;", "  quad.second.v1 = 0.0f;", 9),
    "factor before the last sum": (
        "(element, reduced, g3rt_scale_quad(sum, by));",
        (
            "(element, reduced, add(g3rt_scale_quad(sum_4(element, 0, shards), by),"
            " g3rt_scale_quad(sum_4(element, 4, shards), by)));"
        ),
        8,
    ),
    "a node on the wrong level": ("if (shard & 16)", "if (shard & 32)", 40),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant, tmp_path):
    """A kernel with one wrong line does not pass for this number of shards; the sources do."""
    old, new, n_shards = MUTANTS[mutant]
    folder = _tpc_kernels.mutate(tmp_path, "reduce_shards.c", old, new)
    check(n_shards, MEMBER + 70, "f32", 0.37)
    with pytest.raises((AssertionError, tpc.KernelError)):
        check(n_shards, MEMBER + 70, "f32", 0.37, folder=folder)


def transferred(name, source, target):
    """What the CPU's kernel makes of a target, in this thread, which flushes."""
    with flushing():
        assert _core.transfer(_core.isas()[0], torch.Tensor, name, [source], [target], 0.37, 1) == []
    return target


@dtypes
@cases
@settings(max_examples=12)
def test_accumulate(dtype, n, seed, in_place):
    """The bits of the CPU: in float32, the product rounded before the sum."""
    main, grad = values(n, seed, "f32", special=0.2), values(n, seed + 1, dtype, special=0.2)
    inputs = {"main_grad": main, "grad": grad, "factor": torch.tensor([0.37])}
    got = _tpc_kernels.run(f"accumulate_{dtype}", inputs, n, seed=seed, in_place=in_place)["main_grad"]
    assert_same_bits(got, transferred("accumulate", grad, main.clone()), "main_grad")


@pytest.mark.parametrize(("dtype", "other"), [("f32", "bf16"), ("bf16", "f32")])
@given(n=st.sampled_from(SIZES), seed=st.integers(0, 2**32))
@settings(max_examples=12)
def test_scale_into_another_dtype(dtype, other, n, seed):
    """The bits of the CPU: the product in float32, rounded once more to bf16."""
    x = values(n, seed, dtype, special=0.2)
    inputs = {"x": x, "factor": torch.tensor([0.37])}
    got = _tpc_kernels.run(f"scale_{dtype}_to_{other}", inputs, n, seed=seed)["y"]
    want = transferred("cast", x, torch.empty(n, dtype=DTYPES[other]))
    assert_same_bits(got, want, "y")
