"""Lanes of the emulator: comparisons, selections, bits, moves, shuffles, reductions, predicates."""

from __future__ import annotations

import numpy as np
import pytest
from _intrinsics import SPECIAL, EmulationError, Library, bits, floats, flush, function, pairs_of, random_floats

F = {"a": "float64", "b": "float64"}
CONDITIONS = {
    "eq": np.equal,
    "neq": np.not_equal,
    "less": np.less,
    "leq": np.less_equal,
    "grt": np.greater,
    "geq": np.greater_equal,
}
functions = {
    "max": function("float64", "v_f32_max_b(a, b)", **F),
    "min": function("float64", "v_f32_min_b(a, b)", **F),
    "max_no_nan": function("float64", "v_f32_max_b(a, b, SW_SUP_NAN)", **F),
    "max_scalar": function("float64", "v_f32_max_b(a, 0)", a="float64"),
    "u8_max": function("uchar256", "v_u8_max_b(a, b)", a="uchar256", b="uchar256"),
    "abs": function("float64", "v_f32_abs_b(a)", a="float64"),
    "bf16_abs": function("bfloat128", "v_bf16_abs_b(a)", a="bfloat128"),
    "f16_abs": function("half128", "v_f16_abs_b(a)", a="half128"),
    "i8_abs": function("char256", "v_i8_abs_b(a)", a="char256"),
    "i8_abs_wraps": function("char256", "v_i8_abs_b(a, SW_NO_SAT)", a="char256"),
    "mask_eq_zero": function("bool64", "v_i32_cmp_eq_b(a, b, SW_MASK_EQ_ZERO)", a="int64", b="int64"),
    "sel_mixed": function("float64", "v_f32_sel_geq_u32_b(a, b, 1, 2.5)", a="uint64", b="uint64"),
    "sel_moves": function("float64", "v_f32_sel_less_i32_b(a, 0, b, c)", a="int64", b="float64", c="float64"),
    "sel2": function(
        "float128",
        "float64_int64 r = v_f32_sel2_less_i32_b(a, b, c, d); return float128{r.v1, (float64)r.v2};",
        a="int64",
        b="int64",
        c="float64",
        d="float64",
    ),
    "and_float": function("float64", "v_f32_and_b(a, b)", **F),
    "xor": function("uchar256", "v_u8_xor_b(a, b)", a="uchar256", b="uchar256"),
    "andn": function("int64", "v_i32_and_b(a, b, SW_ANDN)", a="int64", b="int64"),
    "not": function("short128", "v_i16_not_b(a)", a="short128"),
    "shl": function("int64", "v_i32_shl_b(a, b)", a="int64", b="int64"),
    "shr": function("int64", "v_i32_shr_b(a, b)", a="int64", b="int64"),
    "shift_operator": function("int64", "a >> b", a="int64", b="int64"),
    "shl16": function("ushort128", "v_u16_shl_b(a, b)", a="ushort128", b="short128"),
    "ash": function("int64", "v_i32_ash_b(a, (char256)b)", a="int64", b="int64"),
    "ash_rounded": function("int64", "v_i32_ash_b(a, (char256)b, SW_RHU | SW_SAT)", a="int64", b="int64"),
    "popcnt": function("uint64", "(uint64)v_u32_popcnt_b(a, SW_COUNT_ONES)", a="uint64"),
    "first_one": function("uint64", "(uint64)v_u32_find_first_b(a, SW_FIND_ONE)", a="uint64"),
    "first_zero_above": function("ushort128", "(ushort128)v_u16_find_first_b(a, SW_FIND_ZERO | SW_MSB)", a="ushort128"),
    "brev": function("uint64", "v_u32_brev_b(a)", a="uint64"),
    "dual_group": function("float64", "v_f32_mov_dual_group_b(a, -1, 2, 1, MkWr(0, 1), b)", **F),
    "dual_group_all": function(
        "bfloat128",
        "v_bf16_mov_dual_group_all_b(a, -1, 3, 0, 0, 1, MkWrA(3, 1, 2, 0), b)",
        a="bfloat128",
        b="bfloat128",
    ),
    "dual_group_word": function(
        "float64", "v_f32_mov_dg_all_b(a, -1, MdgCtrlAll(1, 0, 3, 2), MkWrA(3, 3, 3, 3), 0)", a="float64"
    ),
    "group": function("float64", "v_f32_mov_group_b(a, -1, 63, 0)", a="float64"),
    "group_part": function(
        "short128", "v_i16_mov_group_b(a, -1, SW_GROUP1_EN | SW_DUAL_GROUP2_EN, b)", a="short128", b="short128"
    ),
    "byte_mask": function("float64", "v_f32_mov_group_b(a, 1, 63, 0)", a="float64"),
    "shuffle": function("float64", "v_f32_shuffle_b(a, c, 0, b)", **F, c="uchar256"),
    "shuffle8": function("char256", "v_i8_shuffle_b(a, c, 0, -1)", a="char256", c="uchar256"),
    "broadcast": function(
        "float64",
        "a = v_f32_mov_dual_group_all_b(a, -1, 0, 0, 0, 0, MkWrA(3, 3, 3, 3), 0);"
        "return v_f32_shuffle_b(a, (uchar256)0x80, 0, 0);",
        a="float64",
    ),
    "unpack": function(
        "bfloat128", "v_bf16_unpack_b(a, SW_GROUP_1 | SW_UNPACK_LANE_1, b)", a="bfloat128", b="bfloat128"
    ),
    "unpack8": function(
        "char256", "v_i8_unpack_b(a, SW_STRIDE_4 | SW_GROUP_HALF_1 | SW_UNPACK_LANE_2, b)", a="char256", b="char256"
    ),
    "pack": function("bfloat128", "v_bf16_pack_b(a, SW_GROUP_0, b)", a="bfloat128", b="bfloat128"),
    "reduce_add": function("float64", "v_f32_reduce_add(a)", a="float64"),
    "bf16_reduce_max": function("bfloat128", "v_bf16_reduce_nolut_max(a)", a="bfloat128"),
    "bf16_reduce_add": function("bfloat128", "v_bf16_reduce_add(a)", a="bfloat128"),
    "i32_reduce_add": function("int64", "v_i32_reduce_add(a)", a="int64"),
    "u8_reduce_min": function("uchar256", "v_u8_reduce_min(a)", a="uchar256"),
    "argmax": function(
        "float128",
        "uint64_float64_pair_t r = v_f32_reduce_argmax(a); return float128{(float64)r.v1, r.v2};",
        a="float64",
    ),
    "lane_ids": function("uint64", "v_u32_add_b(V_LANE_ID_32, a)", a="uint64"),
    "lane_ids8": function("uchar256", "read_lane_id_1b_b() ^ a", a="uchar256"),
    "bool_round_trip": function("bool64", "to_bool64(v_i1_mov_u32_b(v_u32_mov_i1_b(from_bool64(p))))", p="bool64"),
    "bool_bits": function("uint64", "v_u32_mov_i1_b(p)", p="bool256"),
    "bool_torn": function("bool64", "to_bool64(p)", p="bool256"),
    "bool_scalar": function(
        "bool64", "bool64 p = (bool64)0xff; p ^= q & ~to_bool64(v_i1_mov_i1_b(0)); return p;", q="bool64"
    ),
}
for condition in CONDITIONS:
    functions[f"cmp_{condition}"] = function("bool64", f"v_f32_cmp_{condition}_b(a, b)", **F)
    functions[f"i16_cmp_{condition}"] = function(
        "bool128", f"v_i16_cmp_{condition}_b(a, b)", a="short128", b="short128"
    )
    functions[f"sel_{condition}"] = function("uint64", f"v_u32_sel_{condition}_f32_b(a, b, 1, 0)", **F)
library = Library(**functions)
checked = Library(
    **{n: functions[n] for n in ("cmp_less", "max", "shl", "byte_mask", "shuffle", "shuffle8", "pack", "bool_torn")}
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_comparisons(condition: str) -> None:
    """Cmp and sel of floats of all kinds and of integers."""
    rng = np.random.default_rng(1)
    a, b = (np.concatenate([x, random_floats(rng, 5000)]) for x in pairs_of(SPECIAL))
    a[-100:] = b[-100:]
    expected = CONDITIONS[condition](flush(a), flush(b))
    np.testing.assert_array_equal(library.lanes(f"cmp_{condition}", a, b), expected)
    np.testing.assert_array_equal(library.lanes(f"sel_{condition}", a, b), expected)
    i, j = pairs_of(np.array([-32768, -1, 0, 1, 32767], np.int16))
    np.testing.assert_array_equal(library.lanes(f"i16_cmp_{condition}", i, j), CONDITIONS[condition](i, j))


def test_masked_comparison_mixed_selection_and_the_winner() -> None:
    """SW_MASK_EQ_ZERO, selections by another type, the untouched bits of what is selected, sel2."""
    rng = np.random.default_rng(2)
    a, b = (rng.integers(0, 8, 640, np.int32) for _ in range(2))
    np.testing.assert_array_equal(library.lanes("mask_eq_zero", a, b), (a & b) == 0)
    big = rng.integers(0, 1 << 32, (2, 640), np.uint32)
    np.testing.assert_array_equal(library.lanes("sel_mixed", *big), np.where(big[0] >= big[1], 1, 2.5))
    c, d = floats(np.full(640, 1, np.uint32)), floats(np.full(640, 0xFFC12345, np.uint32))
    signs = np.where(np.arange(640) % 3, -1, 1).astype(np.int32)
    np.testing.assert_array_equal(bits(library.lanes("sel_moves", signs, c, d)), np.where(signs < 0, bits(c), bits(d)))
    x, y = rng.standard_normal((2, 10, 64)).astype(np.float32)
    got = library.call("sel2", a, b, x, y)
    wins = (a < b).reshape(10, 64)
    np.testing.assert_array_equal(got[:, 0], np.where(wins, x, y))
    np.testing.assert_array_equal(got[:, 1], np.where(wins, a.reshape(10, 64), b.reshape(10, 64)))


def test_extrema_have_the_rule_of_one_nan() -> None:
    """A >= b ? a : b, so that NaN in a is b and NaN in b is NaN."""
    a, b = pairs_of(SPECIAL)
    x, y = flush(a), flush(b)
    np.testing.assert_array_equal(bits(library.lanes("max", a, b)), bits(np.where(x >= y, a, b)))
    np.testing.assert_array_equal(bits(library.lanes("min", a, b)), bits(np.where(x <= y, a, b)))
    number = np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where(x >= y, a, b)))
    np.testing.assert_array_equal(bits(library.lanes("max_no_nan", a, b)), bits(number))
    np.testing.assert_array_equal(library.lanes("max_scalar", np.float32([-1, 2])), [0, 2])
    c, d = pairs_of(np.arange(256, dtype=np.uint8))
    np.testing.assert_array_equal(library.lanes("u8_max", c, d), np.maximum(c, d))


def test_absolute_values_touch_the_sign_alone() -> None:
    """Of floats; of integers the most negative one saturates."""
    np.testing.assert_array_equal(bits(library.lanes("abs", SPECIAL)), bits(SPECIAL) & 0x7FFFFFFF)
    all_bits = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(library.lanes("bf16_abs", all_bits), all_bits & 0x7FFF)
    np.testing.assert_array_equal(library.lanes("f16_abs", all_bits), all_bits & 0x7FFF)
    x = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(library.lanes("i8_abs", x), np.minimum(np.abs(x.astype(int)), 127))
    np.testing.assert_array_equal(library.lanes("i8_abs_wraps", x), np.abs(x))


def test_bits() -> None:
    """and, or, xor, not, counting and finding of bits."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 1 << 32, (2, 1280), np.uint32)
    np.testing.assert_array_equal(bits(library.lanes("and_float", floats(a), floats(b))), a & b)
    np.testing.assert_array_equal(library.lanes("andn", a.view(np.int32), b.view(np.int32)), (~a & b).view(np.int32))
    np.testing.assert_array_equal(library.lanes("xor", a.view(np.uint8), b.view(np.uint8)), (a ^ b).view(np.uint8))
    np.testing.assert_array_equal(library.lanes("not", a.view(np.int16)), ~a.view(np.int16))
    np.testing.assert_array_equal(library.lanes("popcnt", a), [int(x).bit_count() for x in a])
    np.testing.assert_array_equal(library.lanes("brev", a), [int(f"{x:032b}"[::-1], 2) for x in a])
    np.testing.assert_array_equal(
        library.lanes("first_one", a | 1 << 31), [f"{x | 1 << 31:032b}"[::-1].index("1") for x in a]
    )
    c = (a & 0x7FFF).astype(np.uint16)
    np.testing.assert_array_equal(
        library.lanes("first_zero_above", c | 0x8000), [f"{x | 0x8000:016b}".index("0") for x in c]
    )


def test_shifts() -> None:
    """Shr is logical, >> and ash are arithmetic."""
    rng = np.random.default_rng(4)
    a = rng.integers(-(1 << 31), 1 << 31, 1280).astype(np.int32)
    n = rng.integers(0, 32, 1280).astype(np.int32)
    np.testing.assert_array_equal(library.lanes("shl", a, n), a << n)
    np.testing.assert_array_equal(library.lanes("shr", a, n), (a.view(np.uint32) >> n.view(np.uint32)).view(np.int32))
    np.testing.assert_array_equal(library.lanes("shift_operator", a, n), a >> n)
    c = (a & 0xFFFF).astype(np.uint16)
    np.testing.assert_array_equal(library.lanes("shl16", c, (n % 16).astype(np.int16)), c << (n % 16).astype(np.uint16))
    m = rng.integers(-31, 32, 1280)
    count = (m & 0xFF).astype(np.int32)  # the byte at the start of each lane
    exact = a * 2.0**m
    wrapped = np.array(
        [(int(x) << k if k >= 0 else int(x) >> -k) & 0xFFFFFFFF for x, k in zip(a, m, strict=True)], np.uint32
    )
    np.testing.assert_array_equal(library.lanes("ash", a, count), wrapped.view(np.int32))
    rounded = np.clip(np.floor(exact + 0.5), -(2.0**31), 2.0**31 - 1)
    np.testing.assert_array_equal(library.lanes("ash_rounded", a, count), rounded.astype(np.int32))


def test_group_moves() -> None:
    """Numbered lanes through each move, in part and in full."""
    a, b = np.arange(64, dtype=np.float32), -1 - np.arange(64, dtype=np.float32)
    expected = b.copy()
    expected[24:32] = a[40:48]
    np.testing.assert_array_equal(library.call("dual_group", a, b)[0], expected)
    c, d = np.arange(128, dtype=np.uint16), np.arange(1000, 1128).astype(np.uint16)
    expected = d.copy()
    expected[0:32], expected[32:48], expected[80:96] = c[96:128], c[0:16], c[16:32]
    np.testing.assert_array_equal(library.call("dual_group_all", c, d)[0], expected)
    np.testing.assert_array_equal(library.call("dual_group_word", a)[0], np.arange(64) ^ 16)
    np.testing.assert_array_equal(library.call("group", a)[0], np.arange(64) ^ 8)
    e, f = c.astype(np.int16), d.astype(np.int16)
    expected = f.copy()
    expected[80:96] = e[64:80]
    np.testing.assert_array_equal(library.call("group_part", e, f)[0], expected)


def test_shuffles_stay_in_their_dual_group() -> None:
    """Random controls of f32, a reversal of bytes, a broadcast of lane 0."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 20, 64)).astype(np.float32)
    source, group, enabled = rng.integers(0, 8, (20, 64)), rng.integers(0, 2, (20, 64)), rng.integers(0, 2, (20, 64))
    control = np.repeat((source | group << 5 | enabled << 7).astype(np.uint8), 4, axis=1)
    lane = np.arange(64) // 16 * 16 + 8 * group + source
    expected = np.where(enabled, np.take_along_axis(a, lane, 1), b)
    np.testing.assert_array_equal(library.call("shuffle", a, b, control), expected)
    np.testing.assert_array_equal(checked.call("shuffle", a, b, control, checking=True), expected)
    np.testing.assert_array_equal(library.call("broadcast", a)[:, :], np.repeat(a[:, :1], 64, 1))
    c = np.arange(-128, 128).astype(np.int8)
    reverse = np.tile(np.concatenate([0xA0 | np.arange(31, -1, -1), 0x80 | np.arange(31, -1, -1)]), 4).astype(np.uint8)
    np.testing.assert_array_equal(library.call("shuffle8", c, reverse)[0], c.reshape(4, 64)[:, ::-1].ravel())


def test_unpacking_spreads_a_group_over_its_dual_group() -> None:
    """Elements of two bytes to every second, of one byte to every fourth."""
    a, b = np.arange(128, dtype=np.uint16), np.arange(1000, 1128).astype(np.uint16)
    expected = b.copy()
    for d in range(4):
        expected[32 * d + 1 : 32 * d + 32 : 2] = a[32 * d + 16 : 32 * d + 32]
    np.testing.assert_array_equal(library.call("unpack", a, b)[0], expected)
    c, e = np.arange(256).astype(np.uint8).view(np.int8), np.zeros(256, np.int8)
    expected = e.copy()
    for d in range(4):
        expected[64 * d + 2 : 64 * d + 64 : 4] = c[64 * d + 16 : 64 * d + 32]
    np.testing.assert_array_equal(library.call("unpack8", c, e)[0], expected)


def test_reductions_add_in_the_order_of_the_butterfly() -> None:
    """The bits of a sum depend on its order; all lanes have the result."""
    rng = np.random.default_rng(6)
    a = (rng.standard_normal((50, 64)) * 10.0 ** rng.integers(-3, 4, (50, 64))).astype(np.float32)
    x = a
    for distance in (16, 32, 8, 1, 2, 4):
        x = x + x[:, np.arange(64) ^ distance]
    np.testing.assert_array_equal(library.call("reduce_add", a), x)
    assert not np.array_equal(x[:, 0], a.cumsum(1, np.float32)[:, -1])
    i = rng.integers(-(1 << 31), 1 << 31, (5, 64)).astype(np.int32)
    np.testing.assert_array_equal(library.call("i32_reduce_add", i), np.repeat(i.sum(1, np.int32)[:, None], 64, 1))
    bf16 = (bits(a).reshape(-1, 128) >> 16).astype(np.uint16)
    most = (bits((bf16.astype(np.uint32) << 16).view(np.float32).max(1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(library.call("bf16_reduce_max", bf16), np.repeat(most[:, None], 128, 1))
    whole = (bits(np.float32(np.arange(128) % 2)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(library.call("bf16_reduce_add", whole), 0x4280)  # 64
    u = rng.integers(3, 256, (5, 256)).astype(np.uint8)
    np.testing.assert_array_equal(library.call("u8_reduce_min", u), np.repeat(u.min(1)[:, None], 256, 1))
    got = library.call("argmax", a)
    np.testing.assert_array_equal(got[:, 0, 5], a.argmax(1))
    np.testing.assert_array_equal(got[:, 1, 63], a.max(1))


def test_lane_numbers_and_predicates() -> None:
    """V_LANE_ID_..., and bool64 to bits and back."""
    np.testing.assert_array_equal(library.call("lane_ids", np.zeros(64, np.uint32))[0], np.arange(64))
    np.testing.assert_array_equal(library.call("lane_ids8", np.zeros(256, np.uint8))[0], np.arange(256))
    p = (np.random.default_rng(7).integers(0, 2, 64)).astype(np.uint8)
    np.testing.assert_array_equal(library.call("bool_round_trip", p)[0], p)
    np.testing.assert_array_equal(library.call("bool_bits", np.repeat(p, 4))[0], p * 15)
    np.testing.assert_array_equal(library.call("bool_scalar", p)[0], 1 - p)


def test_what_is_not_known_stops_the_checking_mode() -> None:
    """Each message says what was met."""
    one, tiny = np.ones(64, np.float32), np.full(64, 1e-40, np.float32)
    zeros = np.zeros(64, np.float32)
    with pytest.raises(EmulationError, match="depends on whether denormal numbers are zero"):
        checked.call("cmp_less", zeros, tiny, checking=True)
    np.testing.assert_array_equal(checked.call("cmp_less", tiny, one, checking=True), 1)
    nan = np.full(64, np.nan, np.float32)
    assert np.isnan(checked.call("max", nan, one, checking=True)).all()
    with pytest.raises(EmulationError, match="shift by 32 of 32 bits"):
        checked.call("shl", np.ones(64, np.int32), np.full(64, 32, np.int32), checking=True)
    with pytest.raises(EmulationError, match="Byte masks"):
        checked.call("byte_mask", one, checking=True)
    torn = np.full(256, 0x80, np.uint8)
    torn[7] = 0x81
    with pytest.raises(EmulationError, match="Which byte"):
        checked.call("shuffle", one, one, torn, checking=True)
    with pytest.raises(EmulationError, match="0xc0 selects no element"):
        checked.call("shuffle8", np.zeros(256, np.int8), np.full(256, 0xC0, np.uint8), checking=True)
    with pytest.raises(EmulationError, match="pack"):
        checked.call("pack", np.zeros(128, np.uint16), np.zeros(128, np.uint16), checking=True)
    with pytest.raises(EmulationError, match="lane 1 of 64 differ"):
        checked.call("bool_torn", (np.arange(256) == 5).astype(np.uint8), checking=True)
