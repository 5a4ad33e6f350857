"""Stored dtypes: what is read and written is, bit by bit, what torch's own conversions give."""

import math

import numpy as np
import pytest
import torch
from _problems import DTYPES, bits
from hypothesis import given
from hypothesis import strategies as st

from gaudi3_rt import _core
from gaudi3_rt.optim._rule import Rule

HALVES = [dtype for dtype in DTYPES if dtype.itemsize == 2]
COPY = Rule("adamw", [0.0, 0.0, 0.0, 1.0, 0.0])  # makes the first moment the gradient
MOMENTS = ["exp_avg", "exp_avg_sq"]
ALL_PATTERNS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


def through_store(isa, values, dtype):
    """Float32 values as the kernel stores them in a dtype.

    With beta1 = 0 the first moment of AdamW is fma(0, m, 1 * g): the gradient itself. The sign of a zero is lost in
    0 * m + g if they differ, so m gets the sign of g.
    """
    moment = torch.where(values.signbit(), -1.0, 1.0).to(dtype)
    parts = [torch.zeros_like(values), values, moment, torch.zeros_like(values)]
    tensor_list = _core.TensorList(isa, torch.Tensor)
    assert tensor_list.extend(COPY, MOMENTS, [[x] for x in parts], [torch.tensor(0.0)], [0]) == []
    tensor_list.step(1)
    return moment


def through_load(isa, stored):
    """Stored values as the kernel reads them: as gradients they become the first moment, in float32."""
    wide = torch.where(stored.signbit(), -1.0, 1.0)
    parts = [torch.zeros_like(wide), stored, wide, torch.zeros_like(wide)]
    tensor_list = _core.TensorList(isa, torch.Tensor)
    assert tensor_list.extend(COPY, MOMENTS, [[x] for x in parts], [torch.tensor(0.0)], [0]) == []
    tensor_list.step(1)
    return wide


def floats(patterns):
    """Float32 numbers from their bits."""
    return torch.from_numpy(np.asarray(patterns).astype(np.uint32).view(np.float32).copy())


def assert_stored_as_torch_does(isa, values, dtype):
    """Compares with torch's conversion."""
    got, want = through_store(isa, values, dtype), values.to(dtype)
    wrong = np.flatnonzero(bits(got) != bits(want))
    assert wrong.size == 0, (
        f"{wrong.size} of {got.numel()} values are stored otherwise than by torch, first {values[wrong[0]].item()!r}: "
        f"{got[wrong[0]].item()!r}, torch {want[wrong[0]].item()!r}"
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("flush", [False, True])
def test_every_pattern_is_read_as_torch_does(isa, dtype, flush):
    """All 65536 patterns decode to torch's float32, NaNs to NaNs, also where denormals are flushed in arithmetic."""
    stored = ALL_PATTERNS.view(dtype)
    want = stored.to(torch.float32)
    torch.set_flush_denormal(flush)
    got = through_load(isa, stored)
    if flush:  # then arithmetic on a float32 denormal gives zero; a denormal half is a normal float32
        want = torch.where(
            want.abs() < torch.finfo(torch.float32).smallest_normal, torch.zeros(()).copysign(want), want
        )
    assert (bits(got) == bits(want)).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_patterns_are_read_alike_by_reductions(isa, dtype):
    """The sum of squares of one element is the square of torch's conversion, for all 65536 patterns."""
    stored = ALL_PATTERNS.view(dtype)
    got = _core.reduce(isa, torch.Tensor, "sum_squares", list(stored.split(1)), 1)
    want = stored.to(torch.float64).square()
    assert np.array_equal(np.array(got), want.numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_unchanged_values_keep_their_pattern(isa, dtype):
    """A step without learning rate gives back all 65536 patterns, NaNs as NaNs: reading and writing are inverse."""
    stored = ALL_PATTERNS.view(dtype)
    param = stored.clone()
    ones = [torch.ones(param.shape) for _ in range(3)]
    tensor_list = _core.TensorList(isa, torch.Tensor)
    rule = Rule("adamw", [0.0, 0.5, 0.5, 1.0, 0.0])
    tensor_list.extend(rule, MOMENTS, [[param], *([x] for x in ones)], [torch.tensor(0.0)], [0])
    tensor_list.step(1)
    finite = stored.isfinite().numpy()  # an infinity minus 0 * infinity is NaN
    assert (bits(param)[finite] == bits(stored)[finite]).all()
    assert (param[torch.from_numpy(~finite)].isfinite()).sum() == 0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_ties_are_rounded_as_torch_does(isa, dtype):
    """Every stored number, the middle between it and the next, and the floats beside that middle."""
    numbers = ALL_PATTERNS.view(dtype).to(torch.float32)
    numbers = numbers[numbers.isfinite()].double().sort().values
    middles = ((numbers[1:] + numbers[:-1]) / 2).to(torch.float32)
    up, down = torch.tensor(math.inf), torch.tensor(-math.inf)
    values = torch.cat([numbers.float(), middles, middles.nextafter(up), middles.nextafter(down)])
    assert_stored_as_torch_does(isa, values, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_edges_are_stored_as_torch_does(isa, dtype):
    """Overflow, the largest and smallest numbers, denormals, infinities and NaNs of any payload."""
    largest = torch.finfo(dtype).max
    values = [65504.0, 65519.99, 65519.996, 65520.0, 65536.0, largest, 3.3961775e38, 3.4028235e38, math.inf, 0.0]
    values += [2.0**-k for k in range(1, 150)] + [1.5 * 2.0**-k for k in range(1, 149)] + [1e-45, 2.98e-8, 2.99e-8]
    values = torch.tensor(values)
    payloads = floats([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x7F80FFFF, 0x7F801000])
    assert_stored_as_torch_does(isa, torch.cat([values, -values, payloads, -payloads]), dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_random_patterns_are_stored_as_torch_does(isa, dtype):
    """A quarter million floats of any exponent, in every lane and in ragged ends."""
    values = floats(np.random.default_rng(0).integers(0, 2**32, 2**18 + 5, dtype=np.uint64))
    assert_stored_as_torch_does(isa, values, dtype)


@given(patterns=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_any_float_is_stored_as_torch_does(dtype, patterns):
    """Any float32 bits, in tensors of any short length, on every build."""
    for isa in _core.isas():
        assert_stored_as_torch_does(isa, floats(patterns), dtype)


@pytest.mark.parametrize("flush", [False, True])
def test_stores_do_not_depend_on_the_build(dtype, flush):
    """Every build stores the same bits, whether the caller flushes denormals or not."""
    values = torch.cat([floats(np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint64))])
    values = torch.cat([values, torch.logspace(-46, -3, 20_000), -torch.logspace(-46, -3, 20_000)])
    torch.set_flush_denormal(flush)
    stored = [bits(through_store(isa, values, dtype)) for isa in _core.isas()]
    assert all((x == stored[0]).all() for x in stored)
