"""The forms of an instruction: with all arguments, without the last ones, with a predicate for each lane."""

from __future__ import annotations

import numpy as np
import pytest
from _intrinsics import TYPES, Library, function

F = {"a": "float64", "b": "float64"}
# One instruction of each kind: what it returns, its arguments, its predicate.
FORMS = {
    "v_f32_add": ("float64", ("float64 a", "float64 b"), "bool64"),
    "v_i16_sub": ("short128", ("short128 a", "short128 b"), "bool128"),
    "v_u8_and": ("uchar256", ("uchar256 a", "uchar256 b"), "bool256"),
    "v_f32_madd": ("float64", ("float64 a", "float64 b", "float64 a"), "bool64"),
    "v_i32_shr": ("int64", ("int64 a", "2"), "bool64"),
    "v_f32_cmp_less": ("bool64", ("float64 a", "float64 b"), "bool64"),
    "v_i32_sel_grt_f32": ("int64", ("float64 a", "float64 b", "4", "5"), "bool64"),
    "v_bf16_mov": ("bfloat128", ("bfloat128 a",), "bool128"),
    "v_f32_mov_group": ("float64", ("float64 a", "0xffffffff"), "bool64"),
    "v_i8_shuffle": ("char256", ("char256 a", "(uchar256)0x81"), "bool256"),
    "v_convert_f32_to_i32": ("int64", ("float64 a",), "bool64"),
    "v_convert_f32_to_bf16": ("bfloat128", ("float64 a", "1"), "bool128"),
    "v_f32_extract_exp": ("int64", ("float64 a",), "bool64"),
    "v_f32_nearbyint": ("float64", ("float64 a",), "bool64"),
}


def form_functions() -> dict[str, tuple[str, str, dict[str, str]]]:
    """Of each instruction the short form, the one with a predicate, and the one with a predicate for each lane."""
    made = {}
    for name, (result, arguments, mask) in FORMS.items():
        parameters = {x.split()[1]: x.split()[0] for x in arguments if " " in x}
        values = ", ".join(x.split()[1] if " " in x else x for x in arguments)
        switches = "63" if "group" in name else "0"
        merges = "shuffle" in name or "group" in name or name == "v_convert_f32_to_bf16"
        made[f"{name}_short"] = function(
            result, f"{name}_b({values}, {switches}, i)" if merges else f"{name}_b({values})", **parameters, i=result
        )
        made[f"{name}_scalar"] = function(
            result,
            f"{name}_b({values}, {switches}, i, p.lane[0] != 0, q.lane[0] != 0)",
            **parameters,
            i=result,
            p=mask,
            q=mask,
        )
        made[f"{name}_lanes"] = function(
            result, f"{name}_vb({values}, {switches}, i, p, q.lane[0] != 0)", **parameters, i=result, p=mask, q=mask
        )
    made["mac_scalar"] = function(
        "float64", "v_f32_mac_b(a, b, i, 0, p.lane[0] != 0, q.lane[0] != 0)", **F, i="float64", p="bool64", q="bool64"
    )
    made["mac_lanes"] = function(
        "float64", "v_f32_mac_vb(a, b, i, 0, p, q.lane[0] != 0)", **F, i="float64", p="bool64", q="bool64"
    )
    return made


forms = Library(fast="-O1", **form_functions())


def some(kind: str, seed: int) -> np.ndarray:
    """A vector of small numbers."""
    dtype, shape = TYPES[kind]
    x = np.random.default_rng(seed).integers(0, 100, shape)
    return x.astype(dtype) if kind != "bool64" else (x % 2).astype(dtype)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("polarity", [0, 1])
def test_predicate_polarity_and_income(name: str, polarity: int) -> None:
    """A lane, or all of them, is the income where the predicate equals the polarity."""
    result, arguments, mask = FORMS[name]
    values = [some(x.split()[0], i) for i, x in enumerate(arguments) if " " in x]
    values = values[: len({x for x in arguments if " " in x})]
    income = some(result, 9)
    plain = forms.call(f"{name}_short", *values, income)[0]
    q = np.full_like(some(mask, 0), polarity)
    assert not np.array_equal(plain, income)
    for p in (0, 1):
        got = forms.call(f"{name}_scalar", *values, income, np.full_like(q, p), q)[0]
        np.testing.assert_array_equal(got, plain if p != polarity else income)
    p = (np.arange(len(q)) % 3 == 0).astype(np.uint8)
    got = forms.call(f"{name}_lanes", *values, income, p, q)[0]
    np.testing.assert_array_equal(got, np.where(p != polarity, plain, income))


def test_a_mac_without_its_predicate_is_the_accumulator() -> None:
    """Mac has no income of its own."""
    a, b, c = (some("float64", i) for i in range(3))
    one, zero = np.ones(64, np.uint8), np.zeros(64, np.uint8)
    p = (np.arange(64) % 2).astype(np.uint8)
    np.testing.assert_array_equal(forms.call("mac_scalar", a, b, c, zero, zero)[0], c)
    np.testing.assert_array_equal(forms.call("mac_scalar", a, b, c, zero, one)[0], a * b + c)
    np.testing.assert_array_equal(forms.call("mac_lanes", a, b, c, p, one)[0], np.where(p, c, a * b + c))
