"""Whether the checks of steps and codecs can fail: sources with one wrong line, once built, must not pass them."""

import ctypes
import itertools
import math

import _stored
import numpy as np
import pytest
import torch
from _mutant_builds import build_mutants, entries_of
from _problems import TORCH_DTYPES, bits, check_against_reference, hyper_of, operand_names, problem

from gaudi3_rt import _core

# A step, a reduction and a map of one tensor, straight through the table of the scalar build.
SHIM = """
#include <cmath>
#include "csrc/formulas.h"
#include "csrc/isa/scalar.cpp"
extern "C" const char* name_of(int kernel) {
  return kernel < gaudi3_rt::kKernels ? gaudi3_rt::info(static_cast<gaudi3_rt::KernelId>(kernel)).name.data() : nullptr;
}
extern "C" void take_step(int kernel, const double* hyper, double t, int n, void** data, const int* codecs,
                          std::int64_t length, float grad_factor) {
  alignas(16) std::byte constants[gaudi3_rt::kConstantsBytes];
  gaudi3_rt::info(static_cast<gaudi3_rt::KernelId>(kernel)).prepare(hyper, t, constants);
  gaudi3_rt::Operand operands[gaudi3_rt::kMaxOperands];
  for (int j = 0; j < n; ++j) operands[j] = {data[j], static_cast<gaudi3_rt::Codec>(codecs[j]), nullptr};
  gaudi3_rt::Step step{constants, operands, nullptr, 0, grad_factor, {}, {}};
  const auto measure = gaudi3_rt_table_scalar.measure[kernel];
  if (measure != nullptr) {
    const gaudi3_rt::Norms sums = measure(step, 0, length);
    step.norms = {std::sqrt(sums.param), std::sqrt(sums.other)};
  }
  gaudi3_rt_table_scalar.step[kernel](step, 0, length);
}
extern "C" int reductions() { return gaudi3_rt::kReductions; }
extern "C" int maps() { return gaudi3_rt::kMaps; }
extern "C" double reduce(int reduction, void* data, int codec, std::int64_t length) {
  return gaudi3_rt_table_scalar.reduce[reduction]({data, static_cast<gaudi3_rt::Codec>(codec), nullptr}, 0, length);
}
extern "C" void map(int map, const float* parameters, void* data, int codec, std::int64_t length) {
  gaudi3_rt_table_scalar.map[map](parameters, {data, static_cast<gaudi3_rt::Codec>(codec), nullptr}, 0, length);
}
extern "C" void store(int codec, void* data, void* second, std::int64_t n, const float* values, std::int64_t seed,
                      double t, int operand) {
  const gaudi3_rt::Draw draw{gaudi3_rt::draw_key(static_cast<std::uint64_t>(seed), t, 0), {}};
  gaudi3_rt_table_scalar.encode({data, static_cast<gaudi3_rt::Codec>(codec), second}, operand, n, values, draw);
}
extern "C" void load(int codec, void* data, void* second, std::int64_t n, float* values) {
  gaudi3_rt_table_scalar.decode({data, static_cast<gaudi3_rt::Codec>(codec), second}, n, values);
}
"""

# What is wrong: (file, what it says, what the mutant says). Each text occurs once in its file.
LAMB, LARS = "kernels/lamb.h", "kernels/lars.h"
ADAGRAD, ADAM, ADAMW = "kernels/adagrad.h", "kernels/adam.h", "kernels/adamw.h"
EMA, LION, MUON, SGD = "kernels/ema.h", "kernels/lion.h", "kernels/muon.h", "kernels/sgd.h"
BODY = "isa/body.h"
MUTANTS = {
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
    "Adam: decoupled decay": (ADAM, "step(p, fma(weight_decay, p, g), s);",
                              "step(p, g, s); p = fma(-weight_decay, p, p);"),
    "Adam: decay twice": (ADAM, "h[2], h[3], 0}", "h[2], h[3], h[4]}"),
    "SGD: first step dampened": (SGD, "static_cast<float>(t == 1 ? 1 : 1 - hyper[2])",
                                 "static_cast<float>(1 - hyper[2])"),
    "SGD: later steps undampened": (SGD, "static_cast<float>(t == 1 ? 1 : 1 - hyper[2])", "1"),
    "SGD: momentum is lost": (SGD, "fma(momentum, s[0], undampened * g)", "undampened * g"),
    "SGD: Nesterov looks back": (SGD, "direction = fma(momentum, s[0], g)", "direction = s[0]"),
    "SGD: Nesterov without gradient": (SGD, "direction = fma(momentum, s[0], g)", "direction = momentum * s[0]"),
    "SGD: decay after momentum": (SGD, "g = fma(weight_decay, p, g);\n    float direction = g;",
                                  "float direction = g; p = fma(-lr * weight_decay, p, p);"),
    "Lion: zero is positive": (LION, "x > 0 ? T(1)", "x >= 0 ? T(1)"),
    "Lion: no sign": (LION, "lr * sign(fma(beta1, s[0], one_minus_beta1 * g))",
                      "lr * fma(beta1, s[0], one_minus_beta1 * g)"),
    "Lion: sign of the gradient": (LION, "sign(fma(beta1, s[0], one_minus_beta1 * g))", "sign(g)"),
    "Lion: beta2 interpolates": (LION, "fma(beta1, s[0], one_minus_beta1 * g)",
                                 "fma(beta2, s[0], one_minus_beta2 * g)"),
    "Lion: no decay": (LION, "p - fma(decay, p, lr", "p - fma(0.0f, p, lr"),
    "Adagrad: no lr_decay": (ADAGRAD, "(1 + (t - 1) * hyper[1]))),", "1)),"),
    "Adagrad: lr_decay a step early": (ADAGRAD, "(1 + (t - 1) * hyper[1]))),", "(1 + t * hyper[1]))),"),
    "Adagrad: decay not in the sum": (ADAGRAD, "g = fma(weight_decay, p, g);\n    s[0] = fma(g, g, s[0]);",
                                      "s[0] = fma(g, g, s[0]);\n    g = fma(weight_decay, p, g);"),
    "Adagrad: eps in the root": (ADAGRAD, "g / (sqrt(s[0]) + eps)", "g / sqrt(s[0] + eps)"),
    "EMA: decay and its rest swapped": (EMA, "static_cast<float>(1 - hyper[0])", "static_cast<float>(hyper[0])"),
    "EMA: moves away": (EMA, "x - a, a)", "a - x, a)"),
    "Muon: 1 - momentum in float": (MUON, "static_cast<float>(1 - hyper[0])", "1.0f - static_cast<float>(hyper[0])"),
    "Muon: Nesterov left out": (MUON, "u = kNesterov ? fma(momentum, s[0], weighted) : s[0]", "u = s[0]"),
    "Muon: decay by the adjusted lr": (MUON, "decay = static_cast<float>(lr * weight_decay)",
                                       "decay = static_cast<float>(lr * weight_decay * ratio)"),
    "Muon: lr not adjusted": (MUON, "step_size = static_cast<float>(lr * ratio)", "step_size = static_cast<float>(lr)"),
    "last element left out": (BODY, "for (std::int64_t i = 0; i < n; ++i) {\n    float param",
                              "for (std::int64_t i = 0; i < n - 1; ++i) {\n    float param"),
    "tile ends early": (BODY, "? end - begin : kTile);", "? end - begin : kTile - 1);"),
    "lamb: no bias correction": (LAMB, "1 / h.c1", "1.0f"),
    "lamb: decay outside of the ratio": (LAMB, "return kL2 ? u : fma(weight_decay, p, u);", "return u;"),
    "lamb: norms swapped": (LAMB, "static_cast<float>(norm_p / norm_u)", "static_cast<float>(norm_u / norm_p)"),
    "lamb: norm of the gradient": (LAMB, "return direction(p, s[0], s[1]); }", "return p + s[0]; }"),
    "lars: norm without decay": (LARS, "norm_g + decay * norm_p + eps", "norm_g + eps"),
    "lars: dampening in the first step": (LARS, "t > 1 && h[1] != 0", "h[1] != 0"),
    "lars: nesterov left out": (LARS, "kNesterov ? fma(momentum, s[0], d) : s[0]", "s[0]"),
    "second stream left out": (BODY, "for (int s = 0; s < kStreams; ++s) sum.add(s, x + i + s * kLanes);",
                               "for (int s = 0; s < kStreams; s += 2) sum.add(s, x + i + s * kLanes);"),
    "grad_factor dropped": (BODY, "kReadsGrad ? grad_factor * x[1][i]", "kReadsGrad ? x[1][i]"),
    "bf16 cut off": ("codecs/bf16.h", "bits + 0x7fffu + ((bits >> 16) & 1u)", "bits"),
    "f16 cut off": ("codecs/f16.h", "+ 0x0fffu + ((magnitude >> 13) & 1u)", ""),
    "short tensors not reduced": (BODY, "offset < kStream && offset < n", "offset < kStream && offset + kTile < n"),
    "sum of squares of one register": ("vectors.h", "[lane / kWidth][lane % kWidth]", "[0][lane % kWidth]"),
    "signs summed": ("reductions/sum_abs.h", "(Longs)wide & 0x7fffffffffffffff", "(Longs)wide"),
    "maximum of one stream": ("reductions/max_abs.h", "largest[stream][lane] > result", "largest[0][lane] > result"),
    "maximum without NaN": ("reductions/max_abs.h", "bits &= 0x7fffffff", "bits &= 0x7f800000"),
    "last element not mapped": (BODY, "i < tile; ++i) x[i] = map", "i < tile - 1; ++i) x[i] = map"),
    "factor dropped": ("maps/scale.h", "return x * factor", "return x"),
    "clamped above only": ("maps/clamp.h", "return below < -limit ? -limit : below", "return below"),
    "NaN clamped": ("maps/clamp.h", "below = x > limit ? limit : x", "below = x < limit ? x : limit"),
}  # fmt: skip
SPLIT, STOCHASTIC, RANDOM = "codecs/bf16_split.h", "codecs/bf16_stochastic.h", "random.h"
BLOCKS, INT8, FP8 = "codecs/block.h", "codecs/int8_block.h", "codecs/fp8_block.h"
CODEC_MUTANTS = {
    "split: cut off": (SPLIT, "(bits + 0x8000u) >> 16", "bits >> 16"),
    "stochastic: 15 bits": (STOCHASTIC, "random.shift) & 0xffffu", "random.shift) & 0x7fffu"),
    "stochastic: a NaN overflows": (STOCHASTIC, "> 0x7f800000u ? quiet", "> 0x7fffffffu ? quiet"),
    "one random number for all steps": (RANDOM, "bit_cast<std::uint64_t>(t)", "0"),
    "sign lost": (BLOCKS, "code | ((bits >> 24) & kSign)", "code"),
    "scale of another block": (
        BLOCKS,
        "first, Format(scales[first / kBlock]), length, random",
        "first, Format(scales[0]), length, random",
    ),
    "int8: to nearest": (INT8, "(below_highest + u)", "(below_highest + 0.5f)"),
    "int8: a positive number becomes zero": (INT8, "code > 0 ? code : magnitude == 0 ? 0 : 1", "code > 0 ? code : 0"),
    "int8: smallest numbers dropped": (INT8, "u * smallest < x ? 1 : 0", "0"),
    "fp8: scale too small": (FP8, "largest - limit + (1 << 23) - 1;", "largest - limit;"),
    "fp8: no subnormal numbers": (FP8, "normal < kFirstNormal ? subnormal : normal", "normal"),
}

# What is compiled of the tables: what the checks of a mutant call, which is half of the time; a table cannot be empty.
UNUSED = {"TRANSFERS": "X(cast, Cast)", "WIRES": "X(bfloat16, Bfloat16Wire)", "TREE": ""}
FEW_CODECS = {"CODECS": "X(f32, F32) X(bf16, BF16) X(f16, F16)"}
ONE_REDUCTION = {"REDUCTIONS": "X(sum_squares, SumSquares)", "MAPS": "X(scale, Scale)"}
KERNEL_FILES = [ADAGRAD, ADAM, ADAMW, EMA, LAMB, LARS, LION, MUON, SGD]
TABLES = {
    **{file: {**UNUSED, **FEW_CODECS, **ONE_REDUCTION, "KERNELS": entries_of(file)} for file in KERNEL_FILES},
    "other files": {**UNUSED, **FEW_CODECS, "KERNELS": f"{entries_of(SGD)} {entries_of(LAMB)}"},
    "codecs": {**UNUSED, **ONE_REDUCTION, "KERNELS": entries_of(SGD)},
    "all": {},
}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """All mutants by name, and the source as it is by the name of the tables that are compiled."""
    sources = {name: (ADAMW, "// AdamW:", "// AdamW:", tables) for name, tables in TABLES.items()}
    for name, change in MUTANTS.items():
        sources[name] = (*change, TABLES.get(change[0], TABLES["other files"]))
    for name, change in CODEC_MUTANTS.items():
        sources[name] = (*change, TABLES["codecs"])
    return build_mutants(sources, SHIM, ["csrc/formulas.cpp"], tmp_path_factory)


CODECS = {dtype: _core.codecs().index(name) for name, dtype in TORCH_DTYPES.items()}


def names_of(library):
    """The kernels that a library has, in order."""
    library.name_of.restype = ctypes.c_char_p
    return [name.decode() for name in itertools.takewhile(bool, map(library.name_of, itertools.count()))]


def stepper(library, grad_factor=1.0):
    """The step of a library, for problems with one tensor."""

    def take(this):
        tensors = [operand[0] for operand in this.operands]
        hyper = hyper_of(this.kernel)
        n = len(tensors)
        library.take_step(
            names_of(library).index(this.kernel),
            (ctypes.c_double * len(hyper))(*hyper),
            ctypes.c_double(float(this.steps[0]) + 1),
            n,
            (ctypes.c_void_p * n)(*(x.data_ptr() for x in tensors)),
            (ctypes.c_int * n)(*(CODECS[x.dtype] for x in tensors)),
            ctypes.c_int64(tensors[0].numel()),
            ctypes.c_float(grad_factor),
        )
        this.steps[0] += 1

    return take


def check(library):
    """The parity check over kernels, lengths and dtypes, from zero state and from later ones, and with a factor."""
    for kernel in names_of(library):
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
        nothing = problem(kernel, [5], t=0)
        for operand in nothing.operands[1:]:
            operand[0].zero_()
        check_against_reference(kernel, stepper(library), nothing)
        halved = problem(kernel, [600])
        doubled = halved.clone()
        doubled.operands[1][0] *= 2
        stepper(library)(halved)
        stepper(library, 0.5)(doubled)
        assert torch.equal(halved.operands[0][0], doubled.operands[0][0]), "grad_factor"
    check_reductions_and_maps(library)


def check_reductions_and_maps(library):
    """Reductions and maps against their definitions, over lengths and dtypes, with values that are not finite too."""
    library.reduce.restype = ctypes.c_double
    for dtype, n, bad in itertools.product(TORCH_DTYPES.values(), (1, 9, 513, 50_000), (None, math.nan, math.inf)):
        (x,) = problem(_core.kernels()[0], [n], seed=n).operands[1]
        if bad is not None:
            x[n // 2] = bad
        x = x.to(dtype)
        where = (ctypes.c_void_p(x.data_ptr()), CODECS[dtype], ctypes.c_int64(n))
        wide = x.double().numpy()
        for i, name in enumerate(_core.reductions()[: library.reductions()]):
            want = _core.reduce_reference(name, wide)
            assert np.isclose(library.reduce(i, *where), want, rtol=1e-11, atol=0, equal_nan=True), name
        for i, name in enumerate(_core.maps()[: library.maps()]):
            parameters = [0.75] * len(_core.map_parameters(name))
            want = x.double().numpy().copy()
            _core.map_reference(name, parameters, want)
            want = torch.from_numpy(want).float().to(dtype)
            library.map(i, (ctypes.c_float * len(parameters))(*parameters), *where)
            assert np.array_equal(bits(x), bits(want)), name


class Codecs(_stored.Engine):
    """The codecs of a library."""

    def __init__(self, library):
        """A built mutant."""
        self.library = library

    def store(self, codec, values, *, seed=0, t=0.0, operand=0):
        """As the tests of codecs store."""
        made = _stored.empty(codec, values.numel())
        self.library.store(
            *self.memory(made), ptr(values.contiguous()), ctypes.c_int64(seed), ctypes.c_double(t), operand
        )
        return made

    def load(self, stored):
        """As the tests of codecs load."""
        values = torch.empty(stored.data.numel())
        self.library.load(*self.memory(stored), ptr(values))
        return values

    @staticmethod
    def memory(stored):
        """The first arguments of both functions."""
        second = ptr(stored.second) if stored.second is not None else None
        return _core.codecs().index(stored.codec), ptr(stored.data), second, ctypes.c_int64(stored.data.numel())


def ptr(tensor):
    """The address of a tensor's memory."""
    return ctypes.c_void_p(tensor.data_ptr())


def check_codecs(library):
    """The checks of split, of stochastic rounding and of blocks."""
    codecs = Codecs(library)
    _stored.check_split(codecs)
    _stored.check_stochastic_neighbours(codecs)
    _stored.check_stochastic_odds(codecs)
    for codec in _stored.BLOCK_CODECS:
        for kind in _stored.KINDS:
            _stored.check_blocks(codecs, codec, kind)
        _stored.check_expected_value(codecs, codec, "usual", n_steps=300)


@pytest.mark.parametrize("tables", TABLES)
def test_the_source_passes(libraries, tables):
    """Built in the same way, the source as it is passes the checks."""
    check(libraries[tables])
    if "CODECS" not in TABLES[tables]:
        check_codecs(libraries[tables])


def test_every_kernel_has_mutants(libraries):
    """The tables that are compiled have all kernels together."""
    assert names_of(libraries["all"]) == _core.kernels()
    assert sorted(name for file in KERNEL_FILES for name in names_of(libraries[file])) == sorted(_core.kernels())
    assert {file for file, *_ in MUTANTS.values()} >= set(KERNEL_FILES)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(libraries, mutant):
    """A source with one wrong line does not pass the check."""
    with pytest.raises(AssertionError):
        check(libraries[mutant])


@pytest.mark.parametrize("mutant", CODEC_MUTANTS)
def test_mutants_of_codecs_are_caught(libraries, mutant):
    """A codec with one wrong line does not pass its checks."""
    with pytest.raises(AssertionError):
        check_codecs(libraries[mutant])
