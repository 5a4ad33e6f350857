"""Arithmetic of the emulator against exact numbers: rounding, denormals, NaN, fused sums, integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from _intrinsics import SPECIAL, EmulationError, Library, bits, finish, floats, flush, function, pairs_of, random_floats

F = {"a": "float64", "b": "float64"}
FC = {**F, "c": "float64"}
B = {"a": "bfloat128", "b": "bfloat128"}
H = {"a": "half128", "b": "half128"}
library = Library(
    add=function("float64", "v_f32_add_b(a, b)", **F),
    sub=function("float64", "v_f32_sub_b(a, b)", **F),
    sub_negated=function("float64", "v_f32_sub_b(a, b, SW_NEG)", **F),
    mul=function("float64", "v_f32_mul_b(a, b)", **F),
    plus=function("float64", "a + b", **F),
    minus=function("float64", "a - b", **F),
    times=function("float64", "a * b", **F),
    divided=function("float64", "a / b", **F),
    mac=function("float64", "v_f32_mac_b(a, b, c)", **FC),
    mac_negated=function("float64", "v_f32_mac_b(a, b, c, SW_NEG)", **FC),
    madd=function("float64", "v_f32_madd_b(a, b, c)", **FC),
    add_mode=function("float64", "set_csr_value(m[0]); return v_f32_add_b(a, b);", **F, m="int64"),
    mac_mode=function("float64", "set_csr_value(m[0]); return v_f32_mac_b(a, b, c);", **FC, m="int64"),
    s_mac=function("float", "s_f32_mac(a, b, c)", a="float", b="float", c="float"),
    bf16_add=function("bfloat128", "v_bf16_add_b(a, b)", **B),
    bf16_mul=function("bfloat128", "v_bf16_mul_b(a, b)", **B),
    bf16_mac=function("bfloat128", "v_bf16_mac_b(a, b, c)", **B, c="bfloat128"),
    bf16_mac_acc32=function("float128", "v_bf16_mac_acc32_b(a, b, c)", **B, c="float128"),
    bf16_mul_acc32=function("float128", "v_bf16_mul_acc32_b(a, b)", **B),
    f16_add=function("half128", "v_f16_add_b(a, b)", **H),
    f16_mac=function("half128", "v_f16_mac_b(a, b, c)", **H, c="half128"),
    mac_x2=function("float128", "v_f32_mac_x2_b(a, b, c, d)", a="float128", b="float64", c="float64", d="float128"),
    i32_add=function("int64", "v_i32_add_b(a, b)", a="int64", b="int64"),
    i32_add_saturated=function("int64", "v_i32_add_b(a, b, SW_SAT)", a="int64", b="int64"),
    u8_sub_saturated=function("uchar256", "v_u8_sub_b(a, b, SW_SAT)", a="uchar256", b="uchar256"),
    i16_sub=function("short128", "v_i16_sub_b(a, b)", a="short128", b="short128"),
    u16_times=function("ushort128", "a * b", a="ushort128", b="ushort128"),
    i32_mul=function("int128", "v_i32_mul_b(a, b)", a="int64", b="int64"),
    u32_mul=function("uint128", "v_u32_mul_b(a, b)", a="uint64", b="uint64"),
    i8_mac=function("int256", "v_i8_mac_b(a, b, c)", a="char256", b="char256", c="int256"),
    mul_round=function("int64", "v_i32_mul_round_b(a, b)", a="int64", b="int64"),
    strange_switch=function("float64", "v_f32_add_b(a, b, SW_SAT)", **F),
)
checked = library.only("mul_round", "strange_switch", "bf16_add")

FLT_MIN = Fraction(2) ** -126


def rounded(x: Fraction, mantissa_bits: int, min_exponent: int) -> Fraction:
    """The nearest number, ties to even, of a format with denormal numbers and without a largest number."""
    if x == 0:
        return x
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent += 0 if abs(x) >= Fraction(2) ** exponent else -1
    unit = Fraction(2) ** (max(exponent, min_exponent) - mantissa_bits)
    return round(x / unit) * unit


def as_f32(x: Fraction, zero: float) -> np.float32:
    """An exact result as f32, flushed; ``zero`` is what an exact zero is."""
    y = rounded(x, 23, -126)
    if y == 0:
        return np.float32(zero)
    if abs(y) < FLT_MIN:
        return np.float32(np.copysign(0.0, float(y)))
    return np.float32(np.copysign(np.inf, float(y.numerator)) if abs(y) >= Fraction(2) ** 128 else float(y))


def hard_cases(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products that nearly cancel the addend, end halfway between two numbers, underflow, or are far below it."""
    a = floats(rng.integers(0x3F000000, 0x40800000, n, np.uint32))
    b = floats(rng.integers(0x3F000000, 0x40800000, n, np.uint32)) * rng.choice([-1, 1], n).astype(np.float32)
    kind = rng.integers(0, 6, n)
    product = a * b
    c = np.where(kind == 0, -product, 0)  # what is left is the rounding error of the product
    c = np.where(kind == 1, floats(bits(-product) ^ rng.integers(0, 8, n, np.uint32)), c)
    # products of half a unit of the addend: exactly that, one part in 2^23 more or less, or one in 2^46 less, which is
    # too little for the sum to be a double
    half = (kind == 2) | (kind == 3)
    step = np.float32(2**-23) * rng.integers(-1, 2, n)
    other = np.where(rng.random(n) < 0.5, -step, 0)
    a = np.where(half, np.float32(2**-12) * (1 + step), a)
    b = np.where(half, np.copysign(np.float32(2**-12) * (1 + other), b), b)
    c = np.where(half, floats(rng.integers(0x3F800000, 0x40000000, n, np.uint32)), c)
    c = np.where(kind == 3, -c, c)
    far = kind == 4
    c = np.where(far, floats(rng.integers(0x3F800000, 0x7F000000, n, np.uint32)), c)
    b = np.where(far, b * np.float32(2**-60), b)
    tiny = kind == 5
    a = np.where(tiny, a * np.float32(2**-64), a)
    b = np.where(tiny, b * np.float32(2**-62), b)
    c = np.where(tiny, floats(rng.integers(0, 0x01800000, n, np.uint32)), c)
    return a.astype(np.float32), b.astype(np.float32), c.astype(np.float32)


@pytest.mark.parametrize("name", ["mac", "madd", "mac_negated"])
def test_the_sum_of_a_product_is_rounded_once(name: str) -> None:
    """Mac and madd are the nearest number to the exact sum, where two roundings would often differ."""
    a, b, c = hard_cases(np.random.default_rng(1), 12000)
    expected = np.empty_like(a)
    sign = -1 if name == "mac_negated" else 1
    for i, (x, y, z) in enumerate(zip(flush(a).tolist(), flush(b).tolist(), flush(c).tolist(), strict=True)):
        expected[i] = as_f32(sign * Fraction(x) * Fraction(y) + Fraction(z), sign * x * y + z)
    np.testing.assert_array_equal(bits(library.lanes(name, a, b, c)), bits(expected))
    assert np.count_nonzero(expected != (sign * a * b + c)) > 1000  # two roundings differ


def test_fused_sums_of_all_kinds_of_numbers() -> None:
    """Zeros, denormals, infinities and NaN in all three operands."""
    a, b = pairs_of(SPECIAL)
    a, b, c = np.tile(a, len(SPECIAL)), np.tile(b, len(SPECIAL)), np.repeat(SPECIAL, len(a))
    with np.errstate(all="ignore"):
        # SPECIAL's sums are exact in double, or so far apart that its rounding hides nothing from the next one
        expected = finish((flush(a).astype(np.float64) * flush(b) + flush(c)).astype(np.float32))
    np.testing.assert_array_equal(bits(library.lanes("mac", a, b, c)), bits(expected))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("add", np.add),
        ("plus", np.add),
        ("sub", np.subtract),
        ("minus", np.subtract),
        ("mul", np.multiply),
        ("times", np.multiply),
        ("sub_negated", lambda x, y: -(x - y)),
    ],
)
def test_operations_flush_denormals_and_have_one_nan(name: str, operation: np.ufunc) -> None:
    """Sums and products are NumPy's, with denormal numbers taken and written as zero."""
    rng = np.random.default_rng(2)
    special = pairs_of(SPECIAL)
    a = np.concatenate([special[0], random_floats(rng, 50000)])
    b = np.concatenate([special[1], random_floats(rng, 50000)])
    # products and sums around the smallest normal number
    a = np.concatenate([a, floats(rng.integers(0x1F000000, 0x21000000, 50000, np.uint32))])
    b = np.concatenate([b, floats(rng.integers(0x1F000000, 0x21000000, 50000, np.uint32))])
    with np.errstate(all="ignore"):
        expected = finish(operation(flush(a), flush(b)))
    if name == "sub_negated":  # the sign of the difference changes, of NaN too
        expected = np.where(np.isnan(expected), floats(np.uint32([0xFFFFFFFF])), expected)
    np.testing.assert_array_equal(bits(library.lanes(name, a, b)), bits(expected))


def test_division_is_by_the_rounded_reciprocal() -> None:
    """The operator / is what the compiler makes of it, not IEEE division."""
    rng = np.random.default_rng(3)
    a, b = random_floats(rng, 20000), random_floats(rng, 20000)
    with np.errstate(all="ignore"):
        expected = finish(flush(a) * finish(np.float32(1) / flush(b)))
    np.testing.assert_array_equal(bits(library.lanes("divided", a, b)), bits(expected))


@pytest.mark.parametrize(("mode", "direction"), [(1, "zero"), (2, "up"), (3, "down"), (6, "nearest")])
@pytest.mark.parametrize("name", ["add_mode", "mac_mode"])
def test_arithmetic_follows_the_rounding_register(name: str, mode: int, direction: str) -> None:
    """The other modes of the register, against the neighbours of the exact result; 6 is nearest to it."""
    rng = np.random.default_rng(4)
    a, b, c = hard_cases(rng, 3000)
    operands = (a, b, c) if name == "mac_mode" else (a, c)
    expected = np.empty_like(a)
    for i, (x, y, z) in enumerate(zip(flush(a).tolist(), flush(b).tolist(), flush(c).tolist(), strict=True)):
        exact = Fraction(x) * (Fraction(y) if name == "mac_mode" else 1) + Fraction(z)
        near = rounded(exact, 23, -126)
        value = np.float32(float(near))
        if near < exact and (direction == "up" or (direction == "zero" and exact < 0)):
            value = np.nextafter(value, np.float32(np.inf))
        if near > exact and (direction == "down" or (direction == "zero" and exact > 0)):
            value = np.nextafter(value, np.float32(-np.inf))
        tiny = 0 < abs(value) < FLT_MIN
        if tiny:
            up, down = direction == "up" and value > 0, direction == "down" and value < 0
            value = np.copysign(np.float32(float(FLT_MIN)) if up or down else np.float32(0), value)
        if exact == 0:
            value = np.float32(x * (y if name == "mac_mode" else 1) + z)
        expected[i] = value
    modes = np.full(len(a), mode, np.int32)
    np.testing.assert_array_equal(bits(library.lanes(name, *operands, modes)), bits(expected))


def to_fraction(x: int, mantissa_bits: int, bias: int) -> Fraction:
    """A number of 16 bits, flushed."""
    exponent = (x & 0x7FFF) >> mantissa_bits
    if exponent == 0:
        return Fraction(0)
    mantissa = (x & ((1 << mantissa_bits) - 1)) | (1 << mantissa_bits)
    return (-1 if x >> 15 else 1) * Fraction(mantissa) * Fraction(2) ** (exponent - bias - mantissa_bits)


def whole_number(x: np.ndarray, mantissa_bits: int, bias: int) -> np.ndarray:
    """The bits of small positive whole numbers in a format of 16 bits."""
    exponent = np.floor(np.log2(x)).astype(np.int64)
    fraction = (x << mantissa_bits >> exponent) - (1 << mantissa_bits)
    return (((exponent + bias) << mantissa_bits) + fraction).astype(np.uint16)


@pytest.mark.parametrize(("name", "mantissa", "bias"), [("bf16", 7, 127), ("f16", 10, 15)])
def test_narrow_fused_sums_are_rounded_once(name: str, mantissa: int, bias: int) -> None:
    """A mac of bf16 or f16 does not round to f32 first."""
    rng = np.random.default_rng(5)
    n = 8000
    one = bias << mantissa
    spread = 3 << mantissa
    a, b, c = (rng.integers(one - spread, one + spread, n).astype(np.uint16) for _ in range(3))
    c = np.where(rng.random(n) < 0.5, c + (rng.integers(-12, 12, n) << mantissa), c).astype(np.uint16)
    # products halfway between two numbers, of odd whole numbers, and an addend that f32 has no place for beside them
    tie = rng.random(n) < 0.3
    p, q = 2 * rng.integers(2 ** (mantissa - 1) // 2, 2 ** (mantissa - 1), n) + 1, rng.choice([3, 5, 7], n)
    a = np.where(tie, whole_number(p, mantissa, bias), a)
    b = np.where(tie, whole_number(q, mantissa, bias), b)
    c = np.where(tie, (1 + (bias - 18 if name == "bf16" else 0)) << mantissa, c).astype(np.uint16)
    c |= (rng.integers(0, 2, n) << 15).astype(np.uint16)
    got = library.lanes(f"{name}_mac", a, b, c)
    naive = 0
    for x, y, z, r in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        exact = to_fraction(x, mantissa, bias) * to_fraction(y, mantissa, bias) + to_fraction(z, mantissa, bias)
        once = rounded(exact, mantissa, 1 - bias)
        assert to_fraction(r, mantissa, bias) == (once if abs(once) >= Fraction(2) ** (1 - bias) else 0)
        naive += once != rounded(rounded(exact, 23, -126), mantissa, 1 - bias)
    assert naive > 100  # rounding to f32 first would differ


def test_bf16_adds_and_multiplies_like_f32_rounded_to_it() -> None:
    """Random pairs of all bit patterns."""
    rng = np.random.default_rng(6)
    a, b = (rng.integers(0, 1 << 16, 100000).astype(np.uint16) for _ in range(2))
    wide_a, wide_b = (flush((x.astype(np.uint32) << 16).view(np.float32)) for x in (a, b))
    for name, operation in (("bf16_add", np.add), ("bf16_mul", np.multiply)):
        with np.errstate(all="ignore"):
            exact = operation(wide_a, wide_b)
        x = bits(exact).astype(np.uint64)
        near = ((x + 0x7FFF + ((x >> 16) & 1)) >> 16).astype(np.uint16)
        near = np.where(near & 0x7F80, near, near & 0x8000)
        expected = np.where(np.isnan(exact), 0x7FFF, near)
        np.testing.assert_array_equal(library.lanes(name, a, b), expected)


def test_bf16_products_are_exact_in_f32_and_lie_interleaved() -> None:
    """mul_acc32 and mac_acc32 have the even lanes in v1, the odd ones in v2."""
    rng = np.random.default_rng(7)
    a, b = (rng.integers(0x3000, 0x4800, (50, 128)).astype(np.uint16) for _ in range(2))
    c = rng.standard_normal((50, 2, 64)).astype(np.float32)
    wide_a, wide_b = ((x.astype(np.uint32) << 16).view(np.float32) for x in (a, b))
    product = (wide_a * wide_b).reshape(50, 64, 2).transpose(0, 2, 1)
    np.testing.assert_array_equal(library.call("bf16_mul_acc32", a, b), product)
    np.testing.assert_array_equal(
        library.call("bf16_mac_acc32", a, b, c), (product.astype(np.float64) + c).astype("f4")
    )


def test_two_vectors_an_instruction() -> None:
    """mac_x2 is two macs."""
    rng = np.random.default_rng(8)
    a, d = (rng.standard_normal((9, 2, 64)).astype(np.float32) for _ in range(2))
    b, c = (rng.standard_normal((9, 64)).astype(np.float32) for _ in range(2))
    got = library.call("mac_x2", a, b, c, d)
    np.testing.assert_array_equal(
        bits(got[:, 0]).ravel(), bits(library.lanes("mac", a[:, 0].ravel(), b.ravel(), d[:, 0].ravel()))
    )
    np.testing.assert_array_equal(
        bits(got[:, 1]).ravel(), bits(library.lanes("mac", a[:, 1].ravel(), c.ravel(), d[:, 1].ravel()))
    )


def test_scalars_compute_like_lanes() -> None:
    """s_f32_mac against v_f32_mac_b."""
    a, b, c = hard_cases(np.random.default_rng(9), 500)
    np.testing.assert_array_equal(bits(library.call("s_mac", a, b, c)), bits(library.lanes("mac", a, b, c)))


@pytest.mark.parametrize(
    ("name", "dtype", "operation", "saturates"),
    [
        ("i32_add", np.int32, np.add, False),
        ("i32_add_saturated", np.int32, np.add, True),
        ("u8_sub_saturated", np.uint8, np.subtract, True),
        ("i16_sub", np.int16, np.subtract, False),
        ("u16_times", np.uint16, np.multiply, False),
    ],
)
def test_integers_wrap_or_saturate(name: str, dtype: type, operation: np.ufunc, saturates: bool) -> None:
    """The extremes of each type and random numbers."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(10)
    edge = np.array([info.min, info.min + 1, 0, 1, info.max - 1, info.max], dtype)
    a, b = (np.concatenate([x, rng.integers(info.min, info.max, 3000, dtype, endpoint=True)]) for x in pairs_of(edge))
    exact = operation(a.astype(np.int64), b.astype(np.int64))
    expected = np.clip(exact, info.min, info.max) if saturates else exact
    np.testing.assert_array_equal(library.lanes(name, a, b), expected.astype(dtype))


@pytest.mark.parametrize(
    ("name", "dtype", "wide"), [("i32_mul", np.int32, np.int64), ("u32_mul", np.uint32, np.uint64)]
)
def test_words_of_a_product(name: str, dtype: type, wide: type) -> None:
    """A product of 32-bit integers has its low words in v1, its high words in v2."""
    info = np.iinfo(dtype)
    a, b = (np.random.default_rng(s).integers(info.min, info.max, (20, 64), dtype, endpoint=True) for s in (11, 12))
    product = a.astype(wide) * b.astype(wide)
    got = library.call(name, a, b)
    np.testing.assert_array_equal(got[:, 0], product.astype(dtype))
    np.testing.assert_array_equal(got[:, 1], (product >> 32).astype(dtype))


def test_bytes_are_accumulated_by_lanes_modulo_four() -> None:
    """v_i8_mac_b has byte 4i + k in lane i of vector k."""
    rng = np.random.default_rng(13)
    a, b = (rng.integers(-128, 128, (5, 256)).astype(np.int8) for _ in range(2))
    c = rng.integers(-(1 << 20), 1 << 20, (5, 4, 64)).astype(np.int32)
    product = (a.astype(np.int32) * b).reshape(5, 64, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(library.call("i8_mac", a, b, c), c + product)


def test_what_is_not_known_stops_the_checking_mode() -> None:
    """An instruction and a switch that are not documented; what is known computes there, too."""
    one = np.ones((1, 64), np.int32)
    with pytest.raises(EmulationError, match="mul_round"):
        checked.call("mul_round", one, one, checking=True)
    x = np.ones((1, 64), np.float32)
    with pytest.raises(EmulationError, match="switches 0x1 are not defined"):
        checked.call("strange_switch", x, x, checking=True)
    bf16 = np.full((1, 128), 0x3F80, np.uint16)
    np.testing.assert_array_equal(checked.call("bf16_add", bf16, bf16, checking=True), 0x4000)
