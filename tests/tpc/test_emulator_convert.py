"""Conversions of the emulator: every rounding against a model of its own, every lane order with numbered lanes."""

from __future__ import annotations

import numpy as np
import pytest
from _intrinsics import TYPES, EmulationError, Library, bits, floats, function, random_floats

ROUNDS = {"RHNE": 0, "RZ": 1, "RU": 2, "RD": 3, "RHAZ": 6}
# name: its vector, its multiples, its element in NumPy
KINDS = {
    "f32": ("float64", "float128", "float256"),
    "i32": ("int64", "int128", "int256"),
    "u32": ("uint64", "uint128", "uint256"),
    "bf16": ("bfloat128", "bfloat256", ""),
    "f16": ("half128", "half256", ""),
    "i16": ("short128", "short256", ""),
    "u16": ("ushort128", "ushort256", ""),
    "i8": ("char256", "", ""),
    "u8": ("uchar256", "", ""),
}


def width(kind: str) -> int:
    """Lanes of a vector."""
    return TYPES[KINDS[kind][0]][1][0]


WIDE = [(n, w, width(n) // width(w)) for n in KINDS for w in KINDS if width(n) > width(w)]
functions = {
    "f16_to_bf16": function("bfloat128", "v_convert_f16_to_bf16_b(a)", a="half128"),
    "f16_from_bf16_down": function("half128", "v_convert_bf16_to_f16_b(a, SW_RD)", a="bfloat128"),
    "single": function("bfloat128", "v_convert_f32_to_bf16_single_b(a, 0, b)", a="float64", b="bfloat128"),
    "csr": function(
        "bfloat128", "set_convert_csr_value(2); return v_convert_f32_to_bf16_b(a, 0, SW_CSR, 0);", a="float64"
    ),
    "stochastic": function(
        "bfloat128",
        "write_lfsr_b((char256)r); return v_convert_f32_to_bf16_b(a, 1, SW_SR, 0);",
        a="float64",
        r="uint64",
    ),
    "stochastic_nearest": function(
        "bfloat128",
        "write_lfsr_b((char256)r); return v_convert_f32_to_bf16_b(a, 1, SW_SR_RNE, 0);",
        a="float64",
        r="uint64",
    ),
    "twice": function(
        "uint64",
        "write_lfsr_b((char256)r); v_convert_f32_to_bf16_b(1.f, 0, SW_SR, 0); return (uint64)read_lfsr_b();",
        r="uint64",
    ),
    "clip": function("bfloat128", "v_convert_f32_to_bf16_b(a, 0, SW_CLIP_FP, 0)", a="float64"),
    "scalar": function("bf16", "s_convert_f32_to_bf16(a)", a="float"),
    "shifted": function("char256", "v_convert_int32_to_i8_all_b(a, s)", a="int256", s="char256"),
    "shifted_lane": function(
        "short128", "v_convert_int32_to_i16_b(a, b, 1, SW_RZ, i)", a="int64", b="int64", i="short128"
    ),
    "two_vectors": function("float128", "v_convert_u32_to_f32_x2_b(a)", a="uint128"),
    "cast": function("int64", "(int64)a", a="float64"),
    "cast_back": function("float64", "(float64)a", a="int64"),
    "cast_bits": function("uchar256", "(uchar256)a", a="float64"),
    "masked": function(
        "float128",
        "float128 z = {0}; return v_convert_bf16_to_f32_all_vb(a, s[0] ? SW_LINEAR : 0, z, p);",
        a="bfloat128",
        p="bool128",
        s="int64",
    ),
    "wrapped": function("float128", "convert_bfloat128_to_float128(a, 0)", a="bfloat128"),
    "wrapped_back": function("bfloat128", "convert_float128_to_bfloat128(a, SW_RZ | SW_LINEAR)", a="float128"),
    "wrapped_bytes": function("float256", "convert_char256_to_float256(a, 0)", a="char256"),
    "wrapped_4_to_2": function("bfloat256", "convert_float256_to_bfloat256(a, SW_LINEAR)", a="float256"),
    "wrapped_unknown": function("bfloat256", "convert_float256_to_bfloat256(a, 0)", a="float256"),
}
for mode in ROUNDS:
    for to, vector in (("bf16", "bfloat128"), ("f16", "half128")):
        functions[f"f32_to_{to}_{mode}"] = function(vector, f"v_convert_f32_to_{to}_b(a, 0, SW_{mode}, 0)", a="float64")
    functions[f"f32_to_i32_{mode}"] = function("int64", f"v_convert_f32_to_i32_b(a, SW_{mode})", a="float64")
    functions[f"i32_to_f32_{mode}"] = function("float64", f"v_convert_i32_to_f32_b(a, SW_{mode})", a="int64")
for narrow, wide, ratio in WIDE:
    n, w, s = KINDS[narrow][0], KINDS[wide][0], KINDS[wide][ratio // 2]
    functions[f"{narrow}_{wide}"] = function(w, f"v_convert_{narrow}_to_{wide}_b(a)", a=n)
    functions[f"{wide}_{narrow}"] = function(n, f"v_convert_{wide}_to_{narrow}_b(a, {ratio - 1}, 0, b)", a=w, b=n)
    for order in ("0", "SW_LINEAR"):
        functions[f"{narrow}_{wide}_{order}"] = function(s, f"v_convert_{narrow}_to_{wide}_all_b(a, {order})", a=n)
        functions[f"{wide}_{narrow}_{order}"] = function(n, f"v_convert_{wide}_to_{narrow}_all_b(a, {order})", a=s)
# What only moves lanes is many functions, and compiles faster when it is not optimized.
ORDERS = {
    name for narrow, wide, _ in WIDE for name in functions if name.startswith((f"{narrow}_{wide}", f"{wide}_{narrow}"))
}
library = Library(
    **{name: f for name, f in functions.items() if name not in ORDERS or name.startswith(("bf16_f32", "f16_f32"))}
)
orders = Library(fast="-O0", **{name: f for name, f in functions.items() if name in ORDERS})
checked = Library(**{name: functions[name] for name in ("f32_to_i32_RHNE", "i32_u8_0", "wrapped_unknown")})


def of_numbers(kind: str, values: np.ndarray) -> np.ndarray:
    """Small whole numbers as elements of a kind."""
    if kind == "bf16":
        return (bits(values.astype(np.float32)) >> 16).astype(np.uint16)
    if kind == "f16":
        return bits(values.astype(np.float16))
    return values.astype(TYPES[KINDS[kind][0]][0])


@pytest.mark.parametrize(("narrow", "wide", "ratio"), WIDE, ids=str)
def test_lane_orders(narrow: str, wide: str, ratio: int) -> None:
    """All pairs of widths, one vector and all, interleaved and in order, there and back."""
    # two halves, because an element of a signed byte cannot count to 256
    for offset in (0, -64):
        lanes = (np.arange(width(narrow)) + offset) % 128 // 2
        lanes[: width(narrow) // 2] += 1 + (np.arange(width(narrow) // 2) // 16)
        a, parts = of_numbers(narrow, lanes), width(wide)
        even = orders.call(f"{narrow}_{wide}", a)
        np.testing.assert_array_equal(even[0], of_numbers(wide, lanes[::ratio]))
        for order, expected in (("0", lanes.reshape(parts, ratio).T), ("SW_LINEAR", lanes.reshape(ratio, parts))):
            up = orders.call(f"{narrow}_{wide}_{order}", a)
            np.testing.assert_array_equal(up[0], of_numbers(wide, expected))
            np.testing.assert_array_equal(orders.call(f"{wide}_{narrow}_{order}", up)[0], a)
        income = of_numbers(narrow, lanes[::-1].copy())
        down = orders.call(f"{wide}_{narrow}", even, income)[0]
        np.testing.assert_array_equal(down[ratio - 1 :: ratio], a[::ratio])
        others = np.arange(len(a)) % ratio != ratio - 1
        np.testing.assert_array_equal(down[others], income[others])


def dense_floats() -> np.ndarray:
    """f32 with every upper half and the lower halves around which roundings change."""
    low = np.array([0, 1, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xC000, 0xFFFE, 0xFFFF], np.uint32)
    return floats((np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | low).ravel())


def bf16_model(x: np.ndarray, mode: str) -> np.ndarray:
    """f32 to bf16 by its two neighbours in double, with the bits of infinity as one more number."""
    b = bits(x).astype(np.int64)
    sign, magnitude = b & 0x80000000, b & 0x7FFFFFFF
    lower = magnitude >> 16 << 16
    rest = (magnitude - lower) / 65536.0
    odd = (lower >> 16) & 1
    negative = sign != 0
    up = {
        "RHNE": (rest > 0.5) | ((rest == 0.5) & (odd == 1)),
        "RZ": np.zeros(len(x), bool),
        "RU": (rest > 0) & ~negative,
        "RD": (rest > 0) & negative,
        "RHAZ": rest >= 0.5,
    }[mode]
    y = ((sign | (lower + 65536 * up)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), y)


def every_lane(name: str, x: np.ndarray, **options: object) -> np.ndarray:
    """The even lanes of a conversion to half the width."""
    x = np.concatenate([x, np.zeros(-len(x) % 64, np.float32)])
    return library.call(name, x, **options)[:, ::2].ravel()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ROUNDS)
def test_f32_to_bf16(mode: str) -> None:
    """Dense bit patterns."""
    x = dense_floats()
    np.testing.assert_array_equal(every_lane(f"f32_to_bf16_{mode}", x)[: len(x)], bf16_model(x, mode))


@pytest.mark.parametrize("mode", ROUNDS)
def test_f32_to_f16(mode: str) -> None:
    """Every f16, what is next to it and halfway to the next, and random floats."""
    rng = np.random.default_rng(1)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    step = rng.choice([0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF], len(halves)).astype(np.uint32)
    x = np.concatenate([halves, floats(bits(halves) + step), random_floats(rng, 50000)])
    with np.errstate(all="ignore"):
        near = x.astype(np.float16)
        wide = near.astype(np.float32)
        toward_zero = np.where(np.abs(wide) > np.abs(x), np.nextafter(near, np.float16(0)), near)
        away = np.where(
            toward_zero.astype(np.float32) == x,
            toward_zero,
            np.nextafter(toward_zero, np.copysign(np.float16(np.inf), x.astype(np.float16))),
        )
        middle = (
            toward_zero.astype(np.float64) + np.where(np.isinf(away), np.copysign(65536.0, x), away.astype(np.float64))
        ) / 2
        expected = {
            "RHNE": near,
            "RZ": toward_zero,
            "RU": np.where(x > 0, away, toward_zero),
            "RD": np.where(x < 0, away, toward_zero),
            "RHAZ": np.where(np.abs(x) >= np.abs(middle), away, toward_zero),
        }[mode]
        expected = np.where(np.isinf(x), x.astype(np.float16), expected)
    zero = expected == 0  # a number rounded to zero keeps its sign
    expected_bits = np.where(zero, np.signbit(x).astype(np.uint16) << 15, bits(expected))
    expected_bits = np.where(np.isnan(x), 0x7FFF, expected_bits)
    np.testing.assert_array_equal(every_lane(f"f32_to_f16_{mode}", x)[: len(x)], expected_bits)


def test_bf16_and_f16_widen_exactly() -> None:
    """All their bit patterns."""
    patterns = np.arange(1 << 16).astype(np.uint16).reshape(-1, 128)
    got = library.call("bf16_f32_SW_LINEAR", patterns).ravel()
    np.testing.assert_array_equal(bits(got), patterns.ravel().astype(np.uint32) << 16)
    half = patterns.ravel().view(np.float16)
    got = library.call("f16_f32_SW_LINEAR", patterns).ravel()
    np.testing.assert_array_equal(got, half.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(half))
    finite = ~np.isnan(half)
    got16 = library.call("f16_to_bf16", patterns).ravel()
    np.testing.assert_array_equal(got16[finite], bf16_model(half.astype(np.float32), "RHNE")[finite])


def test_stochastic_rounding_compares_what_is_cut_off_with_the_random_lane() -> None:
    """Lane by lane, at the very limit, and on the average."""
    rng = np.random.default_rng(2)
    x = np.concatenate([dense_floats()[::37], floats(np.uint32([0x3F808000] * 64 + [1, 0x7FFF] * 64))])
    x = x[: len(x) // 64 * 64]
    random = rng.integers(1, 1 << 32, len(x), np.uint32)
    random[::5] = (bits(x)[::5] << 16) + rng.integers(0, 2, len(x[::5]), np.uint32)
    random[random == 0] = 1
    up = (bits(x) << np.uint32(16)) >= random
    both = {"stochastic": up, "stochastic_nearest": up}
    nearest = bf16_model(x, "RHNE")
    below = bf16_model(x, "RZ")
    for name, grows in both.items():
        expected = np.where(np.isnan(x), 0x7FFF, below + grows).astype(np.uint16)
        if name == "stochastic_nearest":
            expected = np.where(bits(x) & 0x7F800000, expected, nearest)
        got = library.call(name, x, random)
        np.testing.assert_array_equal(got[:, 1::2].ravel(), expected)
        assert not got[:, ::2].any()
    # on the average nothing is lost
    third = np.full(64 * 4000, np.float32(1 + 2**-7 / 3))
    got = library.call("stochastic", third, rng.integers(1, 1 << 32, len(third), np.uint32))[:, 1::2]
    assert set(np.unique(got)) == {0x3F80, 0x3F81}
    assert abs(np.mean(got == 0x3F81) - 1 / 3) < 0.005


def test_a_stochastic_conversion_advances_the_random_register_once() -> None:
    """By one step of the Galois register."""
    state = np.arange(1, 65, dtype=np.uint32)
    stepped = (state >> 1) ^ np.where(state & 1, 0x800002CC, 0).astype(np.uint32)
    np.testing.assert_array_equal(library.call("twice", state)[0], stepped)


def test_the_other_ways_to_bf16() -> None:
    """_single, the rounding register, scalars, and clipping of infinity."""
    x = dense_floats()[::11]
    x = x[: len(x) // 64 * 64]
    nearest = bf16_model(x, "RHNE").reshape(-1, 64)
    income = np.arange(len(x) * 2).astype(np.uint16).reshape(-1, 128)
    got = library.call("single", x, income)
    np.testing.assert_array_equal(got[:, ::2], nearest)
    np.testing.assert_array_equal(got[:, 1::2], income[:, 1::2])
    np.testing.assert_array_equal(every_lane("csr", x), bf16_model(x, "RU"))
    np.testing.assert_array_equal(library.call("scalar", x).ravel(), nearest.ravel())
    clipped = np.where((nearest & 0x7FFF) == 0x7F80, nearest - 1, nearest)
    np.testing.assert_array_equal(library.call("clip", x)[:, ::2], clipped)


@pytest.mark.parametrize("mode", ROUNDS)
def test_f32_to_i32_and_back(mode: str) -> None:
    """All roundings in both directions."""
    rng = np.random.default_rng(3)
    x = np.concatenate([np.arange(-40, 40) / 4, rng.uniform(-2e9, 2e9, 20000), rng.normal(0, 100, 20000)]).astype(
        np.float32
    )
    away = np.trunc(x.astype(np.float64) + np.copysign(0.5, x))
    expected = {"RHNE": np.rint, "RZ": np.trunc, "RU": np.ceil, "RD": np.floor, "RHAZ": lambda _: away}[mode](x)
    np.testing.assert_array_equal(library.lanes(f"f32_to_i32_{mode}", x), expected.astype(np.int32))
    i = np.concatenate([rng.integers(-(1 << 31), 1 << 31, 20000), (1 << 25) + np.arange(-40, 40)]).astype(np.int32)
    near = i.astype(np.float32)
    error = i.astype(np.float64) - near
    up, down = np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))
    above = np.where(error > 0, up, near)
    below = np.where(error < 0, down, near)
    middle = (above.astype(np.float64) + below) / 2
    expected = {
        "RHNE": near,
        "RU": above,
        "RD": below,
        "RZ": np.where(i > 0, below, above),
        "RHAZ": np.where(i == middle, np.where(i > 0, above, below), near),
    }[mode]
    np.testing.assert_array_equal(library.lanes(f"i32_to_f32_{mode}", i), expected)


def test_integers_out_of_range_saturate_and_stop_the_checking_mode() -> None:
    """What hardware does there is not documented."""
    x = np.zeros(64, np.float32)
    x[:6] = [3e9, -3e9, np.inf, -np.inf, np.nan, 2147483648.0]
    most, least = 2147483647, -2147483648
    np.testing.assert_array_equal(library.lanes("f32_to_i32_RHNE", x)[:6], [most, least, most, least, 0, most])
    small = np.arange(64, dtype=np.float32) - 32
    np.testing.assert_array_equal(checked.lanes("f32_to_i32_RHNE", small, checking=True), small)
    for value in x[:6]:
        with pytest.raises(EmulationError, match="is not documented"):
            checked.lanes("f32_to_i32_RHNE", np.full(64, value), checking=True)
    wide = np.full((1, 4, 64), 300, np.int32)
    np.testing.assert_array_equal(orders.call("i32_u8_0", wide), 255)
    np.testing.assert_array_equal(orders.call("i32_i8_0", -wide), -128)
    with pytest.raises(EmulationError, match="300 to an integer of 8 bits"):
        checked.call("i32_u8_0", wide, checking=True)


def test_casts_convert_between_equal_lanes_and_keep_bits_between_others() -> None:
    """Casts in the way C writes them."""
    x = np.linspace(-5, 5, 64).astype(np.float32)
    np.testing.assert_array_equal(library.call("cast", x)[0], np.trunc(x).astype(np.int32))
    i = np.arange(-32, 32).astype(np.int32)
    np.testing.assert_array_equal(library.call("cast_back", i)[0], i.astype(np.float32))
    np.testing.assert_array_equal(library.call("cast_bits", x)[0], x.view(np.uint8))


def test_lane_predicates_count_the_narrow_lanes() -> None:
    """In the order of the conversion."""
    a = of_numbers("bf16", 1 + np.arange(128))
    p = (np.arange(128) % 3 == 0).astype(np.uint8)
    kept = (1 + np.arange(128)) * p
    for linear in (0, 1):
        got = library.call("masked", a, p, np.full(64, linear, np.int32))[0]
        np.testing.assert_array_equal(got, kept.reshape(2, 64) if linear else kept.reshape(64, 2).T)


def test_conversions_by_the_names_of_types() -> None:
    """The convert_... functions have the same orders."""
    lanes = np.arange(128)
    a = of_numbers("bf16", lanes)
    np.testing.assert_array_equal(library.call("wrapped", a)[0], lanes.reshape(64, 2).T)
    x = (lanes.reshape(1, 2, 64) * 1.001).astype(np.float32)
    np.testing.assert_array_equal(library.call("wrapped_back", x)[0], bf16_model(x.ravel(), "RZ"))
    small = (np.arange(256) - 128).astype(np.int8)
    np.testing.assert_array_equal(library.call("wrapped_bytes", small)[0], small.reshape(64, 4).T)
    four = np.arange(256).reshape(1, 4, 64).astype(np.float32)
    np.testing.assert_array_equal(
        library.call("wrapped_4_to_2", four)[0], of_numbers("bf16", np.arange(256)).reshape(2, 128)
    )
    with pytest.raises(EmulationError, match="four and two vectors"):
        checked.call("wrapped_unknown", four, checking=True)


def test_shifted_conversions_round_and_saturate() -> None:
    """v_convert_int32_to_i8_all_b divides by a power of two for each byte."""
    a = np.arange(-128, 128).reshape(1, 4, 64).astype(np.int32) * 11
    shift = (np.arange(256) % 5).astype(np.int8)
    by_lane = a[0].T.ravel()  # byte 4i + k is lane i of vector k
    expected = np.clip(np.rint(by_lane / 2.0**shift), -128, 127)
    np.testing.assert_array_equal(library.call("shifted", a, shift)[0], expected)
    one, count, income = a[:, 0], np.full(64, 3, np.int32), np.arange(128).astype(np.int16)
    got = library.call("shifted_lane", one, count, income)[0]
    np.testing.assert_array_equal(got[1::2], np.trunc(one[0] / 8))
    np.testing.assert_array_equal(got[::2], income[::2])
    pair = a[:, :2].view(np.uint32)
    np.testing.assert_array_equal(library.call("two_vectors", pair), pair.astype(np.float32))
