"""Whether the checks of sums, transfers and wires can fail: sources with one wrong line must not pass them."""

import pytest
from _mutant_builds import build_mutants
from _shards import Mutant, check_transfers, check_tree, check_wires, check_wires_show_bad_values

# One sum, transfer or wire, straight through the table of the scalar build.
SHIM = """
#include <vector>
#include "csrc/isa/scalar.cpp"
extern "C" double tree_sum(void** nodes, const int* codecs, const std::uint8_t* merges, int n, float factor, void* out,
                           int codec, std::int64_t length) {
  std::vector<gaudi3_rt::Operand> operands;
  for (int i = 0; i < n; ++i) operands.push_back({nodes[i], static_cast<gaudi3_rt::Codec>(codecs[i]), nullptr});
  const gaudi3_rt::TreeSum sum{operands.data(), merges, n, factor, {out, static_cast<gaudi3_rt::Codec>(codec), nullptr},
                               reinterpret_cast<std::uintptr_t>(out) % 64 == 0};
  return gaudi3_rt_table_scalar.tree_sum(sum, 0, length, true);
}
extern "C" void transfer(int transfer, float factor, void* from, int from_codec, void* into, int into_codec,
                         std::int64_t n) {
  gaudi3_rt_table_scalar.transfer[transfer](factor, {from, static_cast<gaudi3_rt::Codec>(from_codec), nullptr},
                                            {into, static_cast<gaudi3_rt::Codec>(into_codec), nullptr}, 0, n);
}
extern "C" void compress(int wire, float factor, void* x, int codec, void* residual, void* to, std::int64_t n) {
  gaudi3_rt_table_scalar.compress[wire](factor, {x, static_cast<gaudi3_rt::Codec>(codec), nullptr},
                                        static_cast<float*>(residual), static_cast<char*>(to), 0, n);
}
extern "C" void decompress(int wire, float factor, void* from, void* x, int codec, std::int64_t n) {
  gaudi3_rt_table_scalar.decompress[wire](factor, static_cast<const char*>(from),
                                          {x, static_cast<gaudi3_rt::Codec>(codec), nullptr}, 0, n);
}
"""

TREE = "isa/tree_sum.h"
TRANSFERS, INT8, BFLOAT16 = "isa/transfers.h", "wires/int8.h", "wires/bfloat16.h"
MUTANTS = {
    "none": (TREE, "// Sums of nodes", "// Sums of nodes"),
    "leaves in a row": (TREE, "x = x + (Layout::template load<kPart>(c, i) + Layout::template load<kPart>(d, i));",
                        "x = (x + Layout::template load<kPart>(c, i)) + Layout::template load<kPart>(d, i);"),
    "no factor": (TREE, "return factor * x;", "return x;"),
    "factor in each addition": (TREE, "leaves, onto, n, 1, asks", "leaves, onto, n, sum_.factor, asks"),
    "sum begins with zero": (TREE, "(kLeaves >= 1) x = Layout", "(kLeaves >= 1) x += Layout"),
    "a merge left out": (TREE, "for (; merges > 0; --merges, --depth)", "for (; merges > 1; --merges, --depth)"),
    "four leaves, two of a node": (TREE, "merges[1] == 1 && merges[2] == 0", "merges[2] == 0"),
    "merge of a tile with itself": (TREE, "merge(stack_[depth - 2], stack_[depth - 1])",
                                    "merge(stack_[depth - 2], stack_[depth - 2])"),
    "halves exchanged": (TREE, "kPart == 0 ? leaf[i] << 16", "kPart == 1 ? leaf[i] << 16"),
    "bfloat16 cut off": (TREE, "bits + 0x7fffu + ((bits >> 16) & 1u);", "bits;"),
    "bfloat16 ties up": (TREE, "bits + 0x7fffu + ((bits >> 16) & 1u);", "bits + 0x8000u;"),
    "odd length in words": (TREE, "in_pairs_ && n % 2 == 0 ?", "in_pairs_ ?"),
    "last bytes not copied": (TREE, "static_cast<std::size_t>(bytes - done)", "0"),
    "accumulate: no sum": ("transfers/accumulate.h", "const { return into + factor * from; }",
                           "const { return into = factor * from; }"),
    "cast: no factor": ("transfers/cast.h", "const { return factor * from; }", "const { return from; }"),
    "tiles written at the start": (TRANSFERS, "write(into, first, length, y", "write(into, begin, length, y"),
    "residual not added": (TRANSFERS, "factor * in[i] + rest[i];", "factor * in[i];"),
    "residual with a NaN": (TRANSFERS, "lost - lost == 0 ? lost : 0.0f", "lost"),
    "blocks without headers": (TRANSFERS, "begin / kBlock * Wire::kHeaderBytes", "0 * Wire::kHeaderBytes"),
    "int8: rounded down": (INT8, "0x7fffffff), 0.5f)", "0x7fffffff), 0.0f)"),
    "int8: no sign": (INT8, "((bits >> 24) & 0x80)", "0"),
    "int8: scale of the first block": (INT8, "scales = Code::fit(x + first, length)", "scales = Code::fit(x, length)"),
    "bfloat16: no rounding": (BFLOAT16, "stored[i] = BF16::store(x[i])",
                              "stored[i] = bit_cast<std::uint32_t>(x[i]) >> 16"),
}  # fmt: skip
# What the checks do not call is not compiled; a table cannot be empty.
TABLES = {
    "KERNELS": "X(sgd, SGD<Momentum::none>)",
    "REDUCTIONS": "X(sum_squares, SumSquares)",
    "MAPS": "X(scale, Scale)",
    "CODECS": "X(f32, F32) X(bf16, BF16) X(f16, F16)",
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """All mutants by name."""
    built = build_mutants({name: (*change, TABLES) for name, change in MUTANTS.items()}, SHIM, [], tmp_path_factory)
    return {name: Mutant(library) for name, library in built.items()}


def check(engine):
    """All checks that the builds pass."""
    check_tree(engine, sizes=(33, 513, 1030))
    check_transfers(engine)
    check_wires(engine)
    check_wires_show_bad_values(engine)


def test_the_source_passes(engines):
    """Built in the same way, the source as it is passes the checks."""
    check(engines["none"])


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != "none"])
def test_mutants_are_caught(engines, mutant):
    """A source with one wrong line does not pass the checks."""
    with pytest.raises(AssertionError):
        check(engines[mutant])
