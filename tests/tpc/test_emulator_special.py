"""Special functions of the emulator, special values, parts of numbers, and how kernels write."""

from __future__ import annotations

import numpy as np
import pytest
from _intrinsics import SPECIAL, EmulationError, Library, bits, finish, floats, flush, function, random_floats

FUNCTIONS = {
    "exp": np.exp,
    "log": np.log,
    "log2": np.log2,
    "pow2": np.exp2,
    "reciprocal": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
}
HOW_KERNELS_WRITE = """
  float64 zero = {0}, half_ = 0.5f, one = 1;
  float64_pair_t pair = {0};
  float128 both = {one, half_};
  int5 coords = {0, 1u};
  coords[dim] += 64;
  coords = coords + coords;
  const int5 twice = {coords[0], coords[1], 0, 0, 0};
  int64 exponent = *((int64*)&one) >> 23;
  exponent = v_i32_and_b(exponent, 0xff) - 127;
  bool256 positive = from_bool64(v_f32_cmp_grt_b(a, 0.0));
  float64 r = v_f32_mov_vb(0, 0, a, to_bool64(positive), 1);
  r = v_f32_add_vb(r, one, 0, r, to_bool64(positive));
  r = v_f32_sel_less_f32_b(a, 0, r * 2 - one, r);
  r += as_float64(as_int64(half_)) * both.v2 + pair.v1 + zero + (float64)exponent;
  r = v_f32_mac_b(r, 2.0f, r, (1) << 1);
  r = tanh_f32(r);
  bf16 scale = 2.f;
  r = r * scale + twice[1];
  return r - v_f32_mul_b(r, half_, 0, zero, 1, 0) + (v_f32_add_b)(r, 1.f);
"""
functions = (
    {
        f"{name}_{kind}": function("float64", f"v_{name}_f32(a)" if kind == "v" else f"{name}_f32(a)", a="float64")
        for name in FUNCTIONS
        for kind in ("v", "plain")
    }
    | {
        "exp_fast": function("float64", "v_exp_fast_f32(a)", a="float64"),
        "exp_bf16": function("bfloat128", "v_exp_bf16(a)", a="bfloat128"),
        "sigmoid_bf16": function("bfloat128", "sigmoid_bf16(a)", a="bfloat128"),
        "div": function("float64", "v_div_f32(a, b)", a="float64", b="float64"),
        "s_div": function("float", "s_div_fast_f32(a, b, r)", a="float", b="float", r="float"),
        "lookup": function("float64", "v_f32_lookup_1c(0, 7, SW_BV32, a)", a="float64"),
        "exponent": function("int64", "v_f32_extract_exp_b(a)", a="float64"),
        "exponent_biased": function("short128", "v_bf16_extract_exp_b(a, SW_BIASED)", a="bfloat128"),
        "formed": function("float64", "v_f32_form_fp_num_b(a, b, c)", a="float64", b="float64", c="float64"),
        "formed_of_number": function(
            "float64",
            "v_f32_form_fp_num_ie_b((char256)a, b, c, SW_EXP_IS_NUM | SW_ADD_BIAS)",
            a="int64",
            b="float64",
            c="float64",
        ),
        "formed_positive": function(
            "float64", "v_f32_form_fp_num_b(a, b, c, SW_FORCE_SIGN0)", a="float64", b="float64", c="float64"
        ),
        "formed_by_lowest_bit": function(
            "float64", "v_f32_form_fp_num_b(a, b, c, SW_SIGN_LSB)", a="float64", b="float64", c="float64"
        ),
        "fclass": function("float64", "v_f32_fclass_b(a)", a="float64"),
        "special_reciprocal": function(
            "float64",
            "float64 k = v_f32_fclass_b(a); return v_f32_calc_fp_special_b(k, k, e_fp_recip, a);",
            a="float64",
        ),
        "special_sqrt": function(
            "float64", "float64 k = v_f32_fclass_b(a); return v_f32_calc_fp_special_b(k, k, SW_SQRT, a);", a="float64"
        ),
        "written": function("float64", HOW_KERNELS_WRITE.replace("dim]", "0]"), a="float64"),
    }
    | {
        f"nearbyint_{m}": function("float64", f"v_f32_nearbyint_b(a, SW_{m})", a="float64")
        for m in ("RHNE", "RZ", "RU", "RD")
    }
)
library = Library(fast="-O2", **functions)
OWN = "float64 sin_f32(float64 x) { return x + 1; } float64 v_f32_reduce_add(float64 x) { return x * 2; }"
own = Library(fast="-O0", before=OWN, sum=function("float64", "sin_f32(a) + v_f32_reduce_add(a)", a="float64"))


def inputs(name: str) -> np.ndarray:
    """Numbers of the function's domain, and all special ones."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(0, 20, 4000).astype(np.float32), random_floats(rng, 4000)])
    if name == "sin":
        x = x[np.abs(x) < 1e4]
    return np.concatenate([x, SPECIAL]) if name != "sin" else x


def expected_value(name: str, x: np.ndarray) -> np.ndarray:
    """The correctly rounded value, but for what the vendor's exponential does at its ends."""
    with np.errstate(all="ignore"):
        y = finish(FUNCTIONS[name](flush(x).astype(np.float64)).astype(np.float32))
    if name == "exp":
        y = np.where(
            x <= floats(np.uint32(0xC2AEAC50)),
            np.float32(0),
            np.where(x >= floats(np.uint32(0x42B17218)), np.float32(np.inf), y),
        )
    return y


def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How many numbers lie between two of one sign, and those that no bound moves."""
    fixed = ~np.isfinite(y) | (y == 0)
    np.testing.assert_array_equal(bits(x)[fixed], bits(y)[fixed])
    return np.abs(bits(x).astype(np.int64) - bits(y).astype(np.int64))[~fixed]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_rounded_correctly_and_moved_within_its_bound(name: str) -> None:
    """Without a bound the nearest number (a double is near enough to it); with one, every distance up to it."""
    x = inputs(name)
    y = expected_value(name, x)
    exact = library.lanes(f"{name}_v", x)
    assert distance(exact, y).max() <= (1 if name in ("sigmoid", "rsqrt", "pow2") else 0) + (
        name in ("log", "log2", "tanh", "exp", "sin")
    )
    np.testing.assert_array_equal(bits(library.lanes(f"{name}_plain", x)), bits(exact))
    moved = library.lanes(f"{name}_v", x, ulps=(3, 0), seed=5)
    steps = distance(moved, exact)
    assert steps.max() == 3
    assert len(np.unique(steps)) == 4
    np.testing.assert_array_equal(bits(library.lanes(f"{name}_v", x, ulps=(3, 0), seed=5)), bits(moved))
    assert not np.array_equal(bits(library.lanes(f"{name}_v", x, ulps=(3, 0), seed=6)), bits(moved))


def test_fast_functions_have_a_bound_of_their_own() -> None:
    """The other bound does not move them."""
    x = np.linspace(-5, 5, 640).astype(np.float32)
    exact = library.lanes("exp_fast", x)
    np.testing.assert_array_equal(library.lanes("exp_fast", x, ulps=(9, 0)), exact)
    assert distance(library.lanes("exp_fast", x, ulps=(0, 9)), exact).max() == 9


def test_special_values() -> None:
    """Zeros, denormals, infinities, NaN, and numbers outside the domain."""
    inf, nan = np.inf, np.nan
    x = np.float32([0, -0.0, 1e-40, -1e-40, inf, -inf, nan, -1, -3e38, 3e38])
    tables = {
        "sqrt": [0, -0.0, 0, -0.0, inf, nan, nan, nan, nan],
        "rsqrt": [inf, -inf, inf, -inf, 0, nan, nan, nan, nan],
        "reciprocal": [inf, -inf, inf, -inf, 0, -0.0, nan, -1, -0.0, 0],
        "exp": [1, 1, 1, 1, inf, 0, nan, np.float32(np.exp(-1)), 0, inf],
    }
    for name, table in tables.items():
        got = library.lanes(f"{name}_v", x)[: len(table)]
        expected = np.float32(table)
        expected[np.isnan(expected)] = floats(np.uint32(0x7FFFFFFF))
        np.testing.assert_array_equal(bits(got), bits(expected), err_msg=name)
    a, b = np.float32([0, 1e-40, inf, 1, -1, 6]), np.float32([0, -0.0, inf, 0, inf, 3])
    np.testing.assert_array_equal(library.lanes("div", a, b), np.float32([nan, nan, nan, inf, -0.0, 2]))


def test_bf16_functions_round_once_to_bf16() -> None:
    """All positive patterns up to 32."""
    a = np.arange(0x4200, dtype=np.uint16)
    x = flush((a.astype(np.uint32) << 16).view(np.float32)).astype(np.float64)
    for name, y in (("exp_bf16", np.exp(x)), ("sigmoid_bf16", 1 / (1 + np.exp(-x)))):
        b = bits(y.astype(np.float32)).astype(np.uint64)
        np.testing.assert_array_equal(library.lanes(name, a), ((b + 0x7FFF + ((b >> 16) & 1)) >> 16).astype(np.uint16))


def test_a_quotient_is_corrected_from_its_reciprocal() -> None:
    """s_div_fast_f32 is the nearest quotient, where the plain product is not."""
    rng = np.random.default_rng(2)
    x, y = (1 + rng.random((2, 2000))).astype(np.float32)
    got = library.call("s_div", x, y, np.float32(1) / y)
    np.testing.assert_array_equal(got, x / y)
    assert np.any(x * (np.float32(1) / y) != x / y)


def test_tables_are_an_error_that_names_them() -> None:
    """In fast mode, too: there is no sensible result."""
    with pytest.raises(EmulationError, match="v_f32_lookup_1c: the contents of table 7 are not public"):
        library.call("lookup", np.zeros(64, np.float32))


def test_exponents_and_the_numbers_made_of_them() -> None:
    """extract_exp and form_fp_num with their switches, on random bits."""
    rng = np.random.default_rng(3)
    a, b, c = (random_floats(rng, 1280) for _ in range(3))
    field = bits(a) >> 23 & 0xFF
    np.testing.assert_array_equal(library.lanes("exponent", a), field.astype(np.int32) - 127)
    bf16 = (bits(a) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(library.lanes("exponent_biased", bf16), field)
    sign, mantissa = bits(b) & np.uint32(0x80000000), bits(c) & 0x7FFFFF
    np.testing.assert_array_equal(bits(library.lanes("formed", a, b, c)), sign | field << 23 | mantissa)
    np.testing.assert_array_equal(bits(library.lanes("formed_positive", a, b, c)), field << 23 | mantissa)
    lowest = (bits(b) & 1) << np.uint32(31)
    np.testing.assert_array_equal(bits(library.lanes("formed_by_lowest_bit", a, b, c)), lowest | field << 23 | mantissa)
    e = rng.integers(-126, 128, 1280).astype(np.int32)
    biased = (e + 127).astype(np.uint32)
    np.testing.assert_array_equal(bits(library.lanes("formed_of_number", e, b, c)), sign | biased << 23 | mantissa)


@pytest.mark.parametrize(
    ("mode", "operation"), [("RHNE", np.rint), ("RZ", np.trunc), ("RU", np.ceil), ("RD", np.floor)]
)
def test_the_next_whole_number(mode: str, operation: np.ufunc) -> None:
    """Nearbyint keeps the sign of zero."""
    x = np.concatenate(
        [np.arange(-40, 40, dtype=np.float32) / 4, random_floats(np.random.default_rng(4), 5000), SPECIAL]
    )
    got = library.lanes(f"nearbyint_{mode}", x)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(bits(got), bits(finish(operation(flush(x)))))


def test_classes_and_what_special_classes_give() -> None:
    """All ten classes; what is not special is the income."""
    x = np.float32([-np.inf, -1, -1e-40, -0.0, 0, 1e-40, 1, np.inf])
    x = np.concatenate([x, floats(np.uint32([0x7F800001, 0x7FC00000]))])
    np.testing.assert_array_equal(bits(library.lanes("fclass", x)), 1 << np.arange(10))
    inf, nan = np.float32(np.inf), floats(np.uint32([0x7FFFFFFF]))[0]
    zero = np.float32(0)
    reciprocal = np.float32([-zero, -1, -inf, -inf, inf, inf, 1, zero, nan, nan])
    np.testing.assert_array_equal(bits(library.lanes("special_reciprocal", x)), bits(reciprocal))
    root = np.float32([nan, nan, -zero, -zero, zero, zero, 1, inf, nan, nan])
    np.testing.assert_array_equal(bits(library.lanes("special_sqrt", x)), bits(root))


def test_what_kernels_write_means_what_it_says() -> None:
    """Initialisers, casts through pointers, scalars for vectors, both lengths of argument lists."""
    a = np.linspace(-2, 2, 64).astype(np.float32)
    r = np.where(a > 0, a, 0).astype(np.float32)
    r = np.where(a > 0, r + 1, r)
    r = np.where(a < 0, r * 2 - 1, r)
    r = (r + (np.float32(0.5) * np.float32(0.5) + 0)).astype(np.float32)
    r = (r - r * 2).astype(np.float32)
    r = np.tanh(r.astype(np.float64)).astype(np.float32)
    r = r * 2 + 2
    expected = r - r * np.float32(0.5) + (r + 1)
    np.testing.assert_allclose(library.call("written", a)[0], expected, rtol=1e-6)


def test_a_kernel_may_have_a_function_of_a_vendor_name() -> None:
    """The kernel's own is taken."""
    np.testing.assert_array_equal(own.call("sum", np.arange(64, dtype=np.float32))[0], 3 * np.arange(64) + 1)
