"""The checks of TPC kernels find a changed line: of a kernel, of its access pattern, or of the emulator."""

import shutil

import _problems
import _tpc_kernels
import pytest
import test_kernels_steps
import torch
from _tpc_kernels import FOLDER, KERNELS, MEMBER

from gaudi3_rt import _core, tpc
from gaudi3_rt.tpc import _compile

# What is wrong: (kernel that shows it, file, what it says, what the mutant says). Each text occurs once in its file.
MUTANTS = {
    "none": ("adamw_bf16", "elements.h", "#define G3RT_LANES 64", "#define G3RT_LANES 64 "),
    "lanes of a load in the converter's order": (
        "adamw_bf16",
        "elements.h",
        "v_bf16_ld_tnsr_b(g3rt_at(element), x), SW_LINEAR)",
        "v_bf16_ld_tnsr_b(g3rt_at(element), x), 0)",
    ),
    "lanes of a store in the converter's order": ("adamw_bf16", "elements.h", "SW_RHNE | SW_LINEAR", "SW_RHNE"),
    "bf16 cut off": ("adamw_bf16", "elements.h", "SW_RHNE | SW_LINEAR", "SW_RZ | SW_LINEAR"),
    "tail left out": (
        "adamw_f32",
        "step_main.h",
        "const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;",
        "const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS - 2 * G3RT_LANES;",
    ),
    "a vector too many": (
        "adamw_f32",
        "step_main.h",
        "const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;",
        "const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS + 1;",
    ),
    "only the first member": ("adamw_f32", "step_main.h", "(first[0] + count[0])", "(first[0] + 1)"),
    "product and sum rounded one by one": (
        "adamw_f32",
        "adamw.h",
        "v_f32_mac_b(x.state1, c.beta2, v_f32_mul_b(square, c.one_minus_beta2))",
        "v_f32_add_b(v_f32_mul_b(x.state1, c.beta2), v_f32_mul_b(square, c.one_minus_beta2))",
    ),
    "a constant for another": ("adamw_f32", "adamw.h", "g3rt_scalar(scalars, 6)", "g3rt_scalar(scalars, 5)"),
    "gradient not scaled": ("lion_f32", "step_main.h", "v_f32_mul_b(grad.v2, grad_factor)", "grad.v2"),
    "sign of zero": ("lion_f32", "lion.c", "sel_less_f32_b(direction, 0.0f", "sel_leq_f32_b(direction, 0.0f"),
    "second half of a pair like the first": (
        "lion_f32",
        "step_main.h",
        "param.v2 = step_vector(element + G3RT_LANES,",
        "param.v2 = step_vector(element,",
    ),
}  # fmt: skip


def check(name, **options):
    """The parity check of a kernel of one pass, for a few sizes."""
    for n in (64, MEMBER + 1, 4 * MEMBER + 1):
        for special in (0.0, 0.3):
            this, inputs = test_kernels_steps.make(name, n, seed=n, special=special)
            inputs["scalars"] = _tpc_kernels.scalars(this.kernel, 4, 0.5)
            outputs = _tpc_kernels.run(name, inputs, n, seed=n, **options)
            test_kernels_steps.assert_is(outputs, test_kernels_steps.step_on_cpu(this, grad_factor=0.5))


def test_the_sources_pass(tmp_path):
    """Copied in the same way, they pass the check."""
    name, *change = MUTANTS["none"]
    check(name, folder=_tpc_kernels.mutate(tmp_path, *change))


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != "none"])
def test_mutants_are_caught(mutant, tmp_path):
    """A kernel with one wrong line does not pass."""
    name, *change = MUTANTS[mutant]
    folder = _tpc_kernels.mutate(tmp_path, *change)
    with pytest.raises((AssertionError, tpc.KernelError)):
        check(name, folder=folder)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (
            "elements.h",
            "return v_f32_sel_less_i32_b(v_i32_add_b(as_int64(read_lane_id_4b_b()), element), end, x, 0.0f);",
            "return x;",
        ),
        ("sums.h", "s_i32_min(members, end / G3RT_MEMBER_ELEMENTS)", "members"),
        ("sums.h", "if (member < members) treat", "if (member < whole) treat"),
    ],
)
def test_a_last_member_gone_wrong_is_caught(file, old, new, tmp_path):
    """A sum that trusts what is loaded beyond the end of a tensor, or that leaves the last member out."""
    folder = _tpc_kernels.mutate(tmp_path, file, old, new)
    n = MEMBER + 70
    x = torch.ones(n)
    assert _tpc_kernels.run("sum_squares_f32", {"x": x}, n)["sums"].tolist() == [MEMBER, 70]
    sums = _tpc_kernels.run("sum_squares_f32", {"x": x}, n, folder=folder)["sums"]
    assert sums[0] == MEMBER
    assert torch.isnan(sums[1])


@pytest.mark.parametrize(
    ("kind", "pattern", "says"),
    [
        ("elements", tpc.Access(a=MEMBER, start=0, end=MEMBER - 2), str(MEMBER - 1)),
        ("elements", tpc.Access(a=MEMBER, start=1, end=MEMBER - 1), "grad_in"),
        ("elements", tpc.Access(a=MEMBER // 2, start=0, end=MEMBER - 1), "member"),
        ("whole", tpc.Access(a=0, start=0, end=3), "scalars"),
    ],
)
def test_wrong_access_patterns_are_caught(kind, pattern, says):
    """A pattern that leaves out an element that a member touches; the error names where."""
    access = {**_tpc_kernels.ACCESS, kind: (pattern,)}
    with pytest.raises(tpc.KernelError, match=says):
        check("adamw_f32", access=access)


def test_an_unflushed_denormal_is_caught(tmp_path, monkeypatch):
    """An emulator whose arithmetic keeps denormal numbers does not have the bits that are asked for."""
    shutil.copytree(_compile.HEADERS, tmp_path / "emulator")
    numbers = tmp_path / "emulator" / "numbers.h"
    old = "return from_bits((b & 0x7f800000U) != 0 ? b : b & 0x80000000U);"
    text = numbers.read_text(encoding="utf-8")
    assert text.count(old) == 1
    numbers.write_text(text.replace(old, "return x;"), encoding="utf-8")
    sources = _tpc_kernels.mutate(tmp_path, "elements.h", "#define G3RT_LANES 64", "#define G3RT_LANES 64 ")
    monkeypatch.setattr(_compile, "HEADERS", tmp_path / "emulator")
    monkeypatch.delenv("CPATH")  # precompiled is what it says without the change
    with pytest.raises(AssertionError, match="differs"):
        check("adamw_f32", folder=sources)


def test_what_the_registry_names_is_there():
    """Sources, CPU formulas; main has the tensors of the table, in number; no name occurs twice among inputs."""
    formulas = {*_core.kernels(), *_core.reductions(), *_core.maps(), *_core.transfers(), *_core.codecs(), ""}
    assert len(KERNELS) == len(_core.tpc_kernels())
    for name, kernel in KERNELS.items():
        assert (FOLDER / kernel["source"]).is_file(), name
        assert kernel["cpu"] in formulas, name
        operands = [*kernel["inputs"], *kernel["outputs"]]
        compiled = _tpc_kernels.compiled(name)
        assert [parameter.type for parameter in compiled.parameters] == ["tensor"] * len(operands), name
        for names in ([o["name"] for o in kernel["inputs"]], [o["name"] for o in kernel["outputs"]]):
            assert len(set(names)) == len(names), name
    sources = {kernel["source"] for kernel in KERNELS.values()}
    assert sources == {path.name for path in FOLDER.glob("*.c")}
    assert _problems.ROOT in FOLDER.parents
