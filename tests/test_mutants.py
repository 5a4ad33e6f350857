"""Whether the parity check can fail: sources with one wrong line, built and stepped, must not pass it."""

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from _problems import ROOT, TORCH_DTYPES, check_against_reference, hyper_of, operand_names, problem, run_tool

from gaudi3_rt import _core

# A step of one tensor, straight through the table of the scalar build.
SHIM = """
#include "csrc/formulas.h"
#include "csrc/table.h"
extern const gaudi3_rt::IsaTable gaudi3_rt_table_scalar;
extern "C" void take_step(int kernel, const double* hyper, double t, int n, void** data, const int* codecs,
                          std::int64_t length, float grad_factor) {
  alignas(16) std::byte constants[gaudi3_rt::kConstantsBytes];
  gaudi3_rt::info(static_cast<gaudi3_rt::KernelId>(kernel)).prepare(hyper, t, constants);
  gaudi3_rt::Operand operands[gaudi3_rt::kMaxOperands];
  for (int j = 0; j < n; ++j) operands[j] = {data[j], static_cast<gaudi3_rt::DType>(codecs[j])};
  gaudi3_rt_table_scalar.step[kernel](constants, operands, 0, length, grad_factor);
}
"""

# What is wrong: (file, what it says, what the mutant says). Each text occurs once in its file.
ADAMW, BODY = "kernels/adamw.h", "isa/body.h"
MUTANTS = {
    "none": (ADAMW, "// AdamW:", "// AdamW:"),
    "no bias correction of m": (ADAMW, "lr / (1 - __builtin_pow(b1, t)));\n    rsqrt", "lr);\n    rsqrt"),
    "no bias correction of v": (ADAMW, "static_cast<float>(1 / sqrt(1 - __builtin_pow(b2, t)))", "1.0f"),
    "no weight decay": (ADAMW, "p - fma(decay, p, step_size", "p - fma(0.0f, p, step_size"),
    "betas swapped": (ADAMW, "const auto [lr, b1, b2, epsilon, weight_decay] = unpack(hyper);\n    beta1",
                      "const auto [lr, b2, b1, epsilon, weight_decay] = unpack(hyper);\n    beta1"),
    "1 - beta2 in float": (ADAMW, "static_cast<float>(1 - b2)", "1.0f - static_cast<float>(b2)"),
    "gradient not squared": (ADAMW, "one_minus_beta2 * (g * g)", "one_minus_beta2 * g"),
    "eps in the root": (ADAMW, "fma(sqrt(second), rsqrt_c2, eps)", "sqrt(fma(second, rsqrt_c2 * rsqrt_c2, eps))"),
    "old maximum not kept": (ADAMW, "second = s[2] = nan_max(s[2], s[1]);\n    p = p - fma",
                             "second = s[2] = s[1];\n    p = p - fma"),
    "last element left out": (BODY, "for (std::int64_t i = 0; i < n; ++i) {\n    float param",
                              "for (std::int64_t i = 0; i < n - 1; ++i) {\n    float param"),
    "tile ends early": (BODY, "? end - begin : kTile;", "? end - begin : kTile - 1;"),
    "grad_factor dropped": (BODY, "grad_factor * x[1][i]", "x[1][i]"),
    "bf16 cut off": ("codecs/bf16.h", "bits + 0x7fffu + ((bits >> 16) & 1u)", "bits"),
    "f16 cut off": ("codecs/f16.h", "+ 0x0fffu + ((magnitude >> 13) & 1u)", ""),
}  # fmt: skip


def build(folder, file, old, new):
    """Compiles the scalar build with one text replaced; returns its library."""
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    source = (folder / "csrc" / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"csrc/{file} has to contain this text once: {old!r}"
    (folder / "csrc" / file).write_text(source.replace(old, new), encoding="utf-8")
    (folder / "shim.cpp").write_text(SHIM, encoding="utf-8")
    sources = [folder / "shim.cpp", folder / "csrc/isa/scalar.cpp", folder / "csrc/formulas.cpp"]
    flags = ["-std=c++17", "-O0", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-fPIC", "-shared"]
    built = run_tool("g++", *flags, f"-I{folder}", *sources, "-o", folder / "mutant.so")
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(folder / "mutant.so"))


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """All mutants, compiled two at a time."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folders = [tmp_path_factory.mktemp("mutant") for _ in MUTANTS]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MUTANTS, pool.map(lambda f, m: build(f, *m), folders, MUTANTS.values()), strict=True))


def stepper(library, grad_factor=1.0):
    """The step of a library, for problems with one tensor."""
    names = _core.dtypes()
    codec = {TORCH_DTYPES[name]: i for i, name in enumerate(names)}

    def take(this):
        tensors = [operand[0] for operand in this.operands]
        hyper = hyper_of(this.kernel)
        n = len(tensors)
        library.take_step(
            _core.kernels().index(this.kernel),
            (ctypes.c_double * len(hyper))(*hyper),
            ctypes.c_double(float(this.steps[0]) + 1),
            n,
            (ctypes.c_void_p * n)(*(x.data_ptr() for x in tensors)),
            (ctypes.c_int * n)(*(codec[x.dtype] for x in tensors)),
            ctypes.c_int64(tensors[0].numel()),
            ctypes.c_float(grad_factor),
        )
        this.steps[0] += 1

    return take


def check(library):
    """The parity check over kernels, lengths and dtypes, from zero state and from later ones, and with a factor."""
    for kernel in _core.kernels():
        n_operands = len(operand_names(kernel))
        for n in (1, 9, 513, 1500):
            check_against_reference(kernel, stepper(library), problem(kernel, [n]), n_steps=2)
        for dtype in TORCH_DTYPES.values():
            this = problem(kernel, [600], dtypes=[dtype] * n_operands)
            check_against_reference(kernel, stepper(library), this, n_steps=2)
        first = problem(kernel, [600], t=0)
        for state in first.operands[2:]:
            state[0].zero_()
        check_against_reference(kernel, stepper(library), first, n_steps=2)
        halved = problem(kernel, [600])
        doubled = halved.clone()
        doubled.operands[1][0] *= 2
        stepper(library)(halved)
        stepper(library, 0.5)(doubled)
        assert torch.equal(halved.operands[0][0], doubled.operands[0][0]), "grad_factor"


def test_the_source_passes(libraries):
    """Built in the same way, the source as it is passes the check."""
    check(libraries["none"])


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != "none"])
def test_mutants_are_caught(libraries, mutant):
    """A source with one wrong line does not pass the check."""
    with pytest.raises(AssertionError):
        check(libraries[mutant])
