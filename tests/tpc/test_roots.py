"""tpc_kernels/roots.h: every root and every quotient is the correctly rounded one."""

import math

import _tpc_kernels
import numpy as np
import pytest

from gaudi3_rt import tpc

ROOT_KERNEL = """
#include "elements.h"
#include "roots.h"
void main(tensor a, tensor b, tensor y) {
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  for (int i = first[0]; i < first[0] + count[0]; ++i) {
    const float64 x = v_f32_ld_tnsr_b(g3rt_at(i * G3RT_LANES), a);
    v_f32_st_tnsr(g3rt_at(i * G3RT_LANES), y, FORMULA);
  }
}
"""
FORMULAS = {"root": "g3rt_sqrt(x)", "quotient": "g3rt_divide(x, v_f32_ld_tnsr_b(g3rt_at(i * G3RT_LANES), b))"}
TINY = np.finfo(np.float32).tiny
SPECIALS = np.array(
    [0, TINY, 2 * TINY, 1e-30, 2.0**-64, 1, 3, 2.0**64, 1e30, 2.0**125, 3.4028235e38, math.inf], np.float32
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """One kernel for each formula."""
    source = tmp_path_factory.mktemp("roots") / "roots.c"
    source.write_text(ROOT_KERNEL)
    include = [_tpc_kernels.FOLDER]
    return {k: tpc.compile(source, defines={"FORMULA": f}, include_dirs=include) for k, f in FORMULAS.items()}


def run(kernel, a, b=None, *, check=False):
    """The formula of all elements."""
    a = np.ascontiguousarray(a, np.float32)
    b = np.ascontiguousarray(a if b is None else b, np.float32)
    y = np.full_like(a, math.nan)
    kernel.run([a, b], [y], index_space=(-(-a.size // 64),), check=check)
    return y


def flushed(x):
    """Denormal numbers as zero, of the same sign."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def mantissas(first, n):
    """All floats from a power of two on."""
    return (np.arange(n, dtype=np.uint32) + np.float32(first).view(np.uint32)).view(np.float32)


def assert_equal(got, want, *operands):
    """The same numbers, or NaN in both."""
    wrong = np.flatnonzero(~((got == want) | (np.isnan(got) & np.isnan(want))))
    assert wrong.size == 0, (
        f"{wrong.size} of {got.size} are wrong, first of {[float(x[wrong[0]]) for x in operands]}: "
        f"{got[wrong[0]]!r}, expected {want[wrong[0]]!r}"
    )


def test_root_of_every_mantissa(kernels):
    """All 2^24 floats of two octaves: what happens in them happens in every other two, scaled by a power of two."""
    x = mantissas(1, 1 << 24)
    assert_equal(run(kernels["root"], x), np.sqrt(x), x)


@pytest.mark.parametrize("exponent", [-126, -125, -103, -64, 63, 100, 126, 127])
def test_root_in_far_octaves(kernels, exponent):
    """The same in octaves where residuals might underflow or overflow."""
    x = mantissas(2.0**exponent, 1 << 23)[::61]
    assert_equal(run(kernels["root"], x), np.sqrt(x), x)


def test_root_of_special_values(kernels):
    """Zero, infinity, NaN, negative numbers; denormal numbers count as zero."""
    x = np.array([*SPECIALS, -0.0, math.nan, -math.inf, -1, -TINY, 1e-45, 1e-38, -1e-45, 5e-39], np.float32)
    with np.errstate(invalid="ignore"):
        want = np.sqrt(flushed(x))
    got = run(kernels["root"], x, check=True)
    assert_equal(got, want, x)
    assert np.array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


def hard_quotients(rest, shift):
    """Floats a, b in [1, 2), for every 24-bit number b, such that 2^shift a - b m = rest for a 25-bit odd number m.

    Then a / b, scaled to 24 bits, is rest / (2 b) units from the middle of two floats. The method's own error is less
    than 1.1 * 2^-24 of its correction, which is at most 1.6 units: it could only go wrong where rest is 3 or less.
    """
    # b and rest have the same number of factors of two, at most one: m is odd, and so is what is left of b.
    twos = 1 - rest % 2
    b = np.arange(1 << 23, 1 << 24, dtype=np.uint64)[1 + twos :: 2 + 2 * twos]
    odd = b >> np.uint64(twos)
    inverse = odd.copy()
    for _ in range(5):
        inverse *= np.uint64(2) - odd * inverse
    period = 1 << (shift - twos)
    lowest = (np.uint64(-rest // (1 + twos) % 2**64) * inverse) % np.uint64(period)
    found_a, found_b = [], []
    for more in range(0, 1 << 25, period):
        m = lowest + np.uint64(more)
        a = (b * m + np.uint64(rest % 2**64)) >> np.uint64(shift)
        ok = (m >> np.uint64(24) == 1) & (m & np.uint64(1) == 1) & (a >> np.uint64(23) == 1)
        ok &= (a >= b) == (shift == 24)
        found_a.append(a[ok])
        found_b.append(b[ok])
    unit = np.float32(2.0**-23)
    return (np.concatenate(x).astype(np.float32) * unit for x in (found_a, found_b))


@pytest.mark.parametrize("shift", [24, 25])
@pytest.mark.parametrize("rest", [1, -1, 2, -2, 3, -3])
def test_quotients_next_to_the_middle_of_two_floats(kernels, rest, shift):
    """All quotients that are as near to a tie as quotients get; the others are too far from one to be at risk."""
    a, b = hard_quotients(rest, shift)
    assert a.size > 1_000_000
    # In units of the last place, from the middle: what the name promises.
    quotient = a[:1000].astype(np.float64) / b[:1000] * 2.0 ** (shift - 1)
    assert np.all(np.abs(quotient % 1 - 0.5) < 2.0**-21)
    assert_equal(run(kernels["quotient"], a, b), a / b, a, b)


def test_reciprocal_of_every_mantissa(kernels):
    """1 / b for all 2^23 mantissas."""
    b = mantissas(1, 1 << 23)
    a = np.ones_like(b)
    assert_equal(run(kernels["quotient"], a, b), a / b, b)


def test_quotients_over_the_whole_range(kernels):
    """Random bits, in all octaves that the divisor may be in; denormal results become zero."""
    generator = np.random.default_rng(0)
    a = generator.integers(0, 1 << 32, 2_000_000, np.uint32).view(np.float32)
    b = generator.integers(0x00800000, np.float32(2.0**125).view(np.uint32), a.size, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        want = flushed(flushed(a) / b)
    got = run(kernels["quotient"], a, b)
    # Whether a quotient at the border is still a normal number is decided one rounding earlier.
    border = np.abs(want) == TINY
    assert_equal(np.where(border & (got == 0), want, got), want, a, b)


def test_quotients_of_special_values(kernels):
    """Zeros, infinities, NaN, denormal numbers, in both places."""
    values = np.array([*SPECIALS, math.nan, 1e-45, 1e-38], np.float32)
    a, b = (x.reshape(-1) for x in np.meshgrid(np.concatenate([values, -values]), values))
    keep = ~((b > 2.0**125) & np.isfinite(b))
    a, b = a[keep], b[keep]
    with np.errstate(all="ignore"):
        want = flushed(flushed(a) / flushed(b))
    assert_equal(run(kernels["quotient"], a, b, check=True), want, a, b)
