"""TPC kernels of gradients, emulated: sums, the clip coefficient, scaling and unscaling."""

import math

import _problems
import _tpc_kernels
import numpy as np
import pytest
import torch
from _tpc_kernels import LOST_SQUARE, MEMBER, SIZES, SUM_BOUND, assert_same_bits, flushing
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

dtypes = pytest.mark.parametrize("dtype", DTYPES)
cases = given(n=st.sampled_from(SIZES), seed=st.integers(0, 2**32), in_place=st.booleans())


def values(n, seed, dtype, special=0.0):
    """Random numbers, some of them of the kind that breaks kernels."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(n, dtype=np.float32)
    x = np.where(generator.random(n) < special, generator.choice(np.float32(_problems.SPECIAL_VALUES), n), x)
    return torch.from_numpy(x).to(DTYPES[dtype])


def members(x):
    """The elements of each member."""
    return torch.split(x, MEMBER)


def nonfinite(x):
    """How many elements of each member are infinite or NaN."""
    return torch.tensor([float((~torch.isfinite(part)).sum()) for part in members(x)])


@dtypes
@given(n=st.sampled_from(SIZES), seed=st.integers(0, 2**32), size=st.sampled_from([1.0, 1e-18, 1e16]))
@settings(max_examples=24)
def test_sum_squares(dtype, n, seed, size):
    """Of each member; nothing beyond the end of the tensor is counted."""
    x = values(n, seed, dtype) * size
    outputs = _tpc_kernels.run(f"sum_squares_{dtype}", {"x": x}, n, seed=seed)
    want = [float(part.double().square().sum()) for part in members(x)]
    np.testing.assert_allclose(outputs["sums"].double().numpy(), want, rtol=SUM_BOUND, atol=MEMBER * LOST_SQUARE)
    assert torch.equal(outputs["nonfinite"], torch.zeros(len(want)))


@dtypes
@cases
@settings(max_examples=12)
def test_nonfinite_elements_are_counted(dtype, n, seed, in_place):
    """Wherever they stand; a number whose square is infinite is none of them."""
    x = values(n, seed, dtype, special=0.2)
    outputs = _tpc_kernels.run(f"sum_squares_{dtype}", {"x": x}, n, seed=seed, in_place=in_place)
    assert torch.equal(outputs["nonfinite"], nonfinite(x))
    bad = outputs["nonfinite"] > 0
    assert not torch.isfinite(outputs["sums"][bad]).any()


@given(n=st.sampled_from([*SIZES, 5000]), seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_sum_finish(n, seed):
    """The same accuracy for any number of partial sums."""
    x = torch.from_numpy(np.random.default_rng(seed).lognormal(0, 5, n).astype(np.float32))
    total = float(_tpc_kernels.run("sum_finish_f32", {"partials": x}, n, seed=seed)["total"])
    assert total == pytest.approx(float(x.double().sum()), rel=8 * 2.0**-24)


def test_sum_of_many_equal_numbers():
    """Ten thousand times a number that is not a float's multiple: plain float addition loses more than the bound."""
    x = torch.full((640_000,), 0.1)
    total = float(_tpc_kernels.run("sum_finish_f32", {"partials": x}, x.numel())["total"])
    assert total == pytest.approx(x.numel() * float(x[0].double()), rel=4 * 2.0**-24)


@pytest.mark.parametrize(("bad", "want"), [(math.inf, math.inf), (math.nan, math.nan)])
def test_sum_finish_of_nonfinite_numbers(bad, want):
    """They are not lost, and infinity stays infinity."""
    x = torch.ones(200)
    x[133] = bad
    total = float(_tpc_kernels.run("sum_finish_f32", {"partials": x}, 200)["total"])
    assert total == want or (math.isnan(total) and math.isnan(want))


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32), max_norm=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=15)
def test_clip_coefficient(n, seed, max_norm):
    """Norm and coefficient of torch's clipping."""
    sums = torch.from_numpy(np.random.default_rng(seed).uniform(0, 10, n).astype(np.float32))
    inputs = {"sums": sums, "scalars": torch.tensor([max_norm, 1e-6])}
    outputs = _tpc_kernels.run("clip_coefficient_f32", inputs, n, seed=seed)
    norm = float(sums.double().sum()) ** 0.5
    assert float(outputs["norm"]) == pytest.approx(norm, rel=8 * 2.0**-24)
    assert float(outputs["coefficient"]) == pytest.approx(min(1, max_norm / (norm + 1e-6)), rel=8 * 2.0**-24)


@pytest.mark.parametrize(("total", "norm", "coefficient"), [(0, 0, 1), (math.inf, math.inf, 0), (math.nan,) * 3])
def test_clip_coefficient_of_special_norms(total, norm, coefficient):
    """As torch: nothing is clipped at norm zero, and a NaN stays one."""
    outputs = _tpc_kernels.run(
        "clip_coefficient_f32", {"sums": torch.tensor([float(total)]), "scalars": torch.ones(2)}, 1
    )
    got = [float(outputs["norm"]), float(outputs["coefficient"])]
    np.testing.assert_array_equal(got, [norm, coefficient])


@dtypes
@cases
@settings(max_examples=12)
def test_scale(dtype, n, seed, in_place):
    """The product in float, rounded once."""
    x = values(n, seed, dtype, special=0.3)
    outputs = _tpc_kernels.run(
        f"scale_{dtype}", {"x": x, "factor": torch.tensor([0.37])}, n, seed=seed, in_place=in_place
    )
    with flushing():
        want = (x.float() * torch.tensor(0.37)).to(x.dtype)
    assert_same_bits(outputs["x"], want, "x")


@dtypes
@cases
@settings(max_examples=12)
def test_unscale(dtype, n, seed, in_place):
    """As scale; what is not finite is counted as it comes in, even if the factor is zero."""
    x = values(n, seed, dtype, special=0.2)
    factor = torch.tensor([2.0**-16])
    outputs = _tpc_kernels.run(f"unscale_{dtype}", {"x": x, "factor": factor}, n, seed=seed, in_place=in_place)
    with flushing():
        want = (x.float() * factor).to(x.dtype)
    assert_same_bits(outputs["x"], want, "x")
    assert torch.equal(outputs["nonfinite"], nonfinite(x))


@pytest.mark.parametrize("before", [0.0, 1.0])
@pytest.mark.parametrize("place", [None, 0, 63, 64, 199])
def test_found_inf_is_raised_and_never_cleared(before, place):
    """1 if any member has counted something, else as it was."""
    counts = torch.zeros(200)
    if place is not None:
        counts[place] = 3
    inputs = {"nonfinite": counts, "found_inf": torch.tensor([before])}
    found = float(_tpc_kernels.run("found_inf_f32", inputs, 200, in_place=True)["found_inf"])
    assert found == (before if place is None else 1)
