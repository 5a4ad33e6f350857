// What one ISA build offers: plain function pointers over raw memory, and the constants that all builds share.
#pragma once
#include <cstddef>
#include <cstdint>

#include "registry.h"

namespace gaudi3_rt {

#define GAUDI3_RT_ENUMERATE(stem, ...) stem,
enum class Codec : std::uint8_t { GAUDI3_RT_CODECS(GAUDI3_RT_ENUMERATE) };
enum class KernelId : std::uint8_t { GAUDI3_RT_KERNELS(GAUDI3_RT_ENUMERATE) };
enum class ReductionId : std::uint8_t { GAUDI3_RT_REDUCTIONS(GAUDI3_RT_ENUMERATE) };
enum class MapId : std::uint8_t { GAUDI3_RT_MAPS(GAUDI3_RT_ENUMERATE) };
enum class TransferId : std::uint8_t { GAUDI3_RT_TRANSFERS(GAUDI3_RT_ENUMERATE) };
enum class WireId : std::uint8_t { GAUDI3_RT_WIRES(GAUDI3_RT_ENUMERATE) };
#undef GAUDI3_RT_ENUMERATE

#define GAUDI3_RT_COUNT(stem, ...) +1
constexpr int kCodecs = 0 GAUDI3_RT_CODECS(GAUDI3_RT_COUNT);
constexpr int kKernels = 0 GAUDI3_RT_KERNELS(GAUDI3_RT_COUNT);
constexpr int kReductions = 0 GAUDI3_RT_REDUCTIONS(GAUDI3_RT_COUNT);
constexpr int kMaps = 0 GAUDI3_RT_MAPS(GAUDI3_RT_COUNT);
constexpr int kTransfers = 0 GAUDI3_RT_TRANSFERS(GAUDI3_RT_COUNT);
constexpr int kWires = 0 GAUDI3_RT_WIRES(GAUDI3_RT_COUNT);
#undef GAUDI3_RT_COUNT

// Elements a thread takes at a time. Part of the numerics of a reduction (one partial result a chunk), hence fixed:
// it must not depend on the number of threads. 64 Ki floats are 256 KiB an operand.
constexpr std::int64_t kChunk = 64 * 1024;

// Floats decoded at a time; with five operands a tile takes 10 KiB, so it stays in the L1 cache.
constexpr std::int64_t kTile = 512;

// Elements that share a scale in the block codecs.
constexpr std::int64_t kBlock = 256;
static_assert(kTile % kBlock == 0 && kChunk % kTile == 0, "blocks may not be cut");

// Bytes that hold the per-step constants of any kernel, and operands that any kernel has (param, grad, states).
constexpr std::size_t kConstantsBytes = 64;
constexpr int kMaxOperands = 5;

// One tensor's elements, dense in memory; second is what the codec keeps beside them, if anything.
struct Operand {
  void* data;
  Codec codec;
  void* second;
};

// Which elements of a parameter a tensor holds, for a shard of it: element i is the parameter's element
// base + i / run * stride + i % run, both counted in the order of memory.
struct Elements {
  std::int64_t base = 0;
  std::int64_t run = std::int64_t{1} << 62;
  std::int64_t stride = 0;
};

// Where the random bits of stochastic rounding come from (random.h).
struct Draw {
  std::uint64_t key;
  Elements elements;
};

// The sums of squares of the parameter and of what a two-pass kernel measures besides.
struct Norms {
  double param, other;
};

// One tensor's step.
struct Step {
  const void* constants;    // of the kernel, for this step
  const Operand* operands;  // param, grad, states...
  const Operand* average;   // of the parameter, updated in the same pass; or null
  float average_weight;     // average += average_weight * (param - average)
  float grad_factor;        // the gradient is multiplied by this as it is read
  Draw draw;                // of the random bits for stochastic rounding
  Norms norms;              // roots of the sums of the first pass, for the second of a two-pass kernel
};

// Updates elements [begin, begin + n); of a two-pass kernel, the second pass.
using StepChunk = void (*)(const Step& step, std::int64_t begin, std::int64_t n);

// The first pass over elements [begin, begin + n), at most kChunk of them; null for a kernel of one pass.
using MeasureChunk = Norms (*)(const Step& step, std::int64_t begin, std::int64_t n);

// Reduces elements [begin, begin + n), at most kChunk of them.
using ReduceChunk = double (*)(const Operand& operand, std::int64_t begin, std::int64_t n);

// Between stored elements [0, n) and floats; index is the operand's place among those of its kernel.
using Decode = void (*)(const Operand& operand, std::int64_t n, float* out);
using Encode = void (*)(const Operand& operand, int index, std::int64_t n, const float* in, const Draw& draw);

// Replaces elements [begin, begin + n) by what the map makes of them.
using MapChunk = void (*)(const float* parameters, const Operand& operand, std::int64_t begin, std::int64_t n);

// The sum of nodes (shards of a tensor, or partial sums of them) along a tree. Node by node is pushed onto a stack of
// partial sums, whose two topmost are then added merges[i] times; one sum is left in the end.
struct TreeSum {
  const Operand* nodes;
  const std::uint8_t* merges;
  int n_nodes;
  float factor;  // of the sum, multiplied in float before it is stored
  Operand out;   // may be one of the nodes
  bool bypass;   // out does not go through the caches; it is no node then, and begins at a multiple of 64 bytes
};

// Partial sums that may be on that stack at a time: enough for any tree over 2^15 shards.
constexpr int kMaxDepth = 16;

// Forms elements [begin, begin + n), at most kChunk of them; returns the sum of squares of what is stored if asked to.
using TreeSumChunk = double (*)(const TreeSum& sum, std::int64_t begin, std::int64_t n, bool measured);

// into[i] = transfer(factor, from[i], into[i]) for i in [begin, begin + n).
using TransferChunk = void (*)(float factor, const Operand& from, const Operand& into, std::int64_t begin,
                               std::int64_t n);

// Puts factor * x[i] (+ residual[i]) for i in [begin, begin + n) onto the wire, of which `wire` is the first byte of
// element 0; begin is a multiple of kBlock. residual, if it is not null, takes what that loses.
using CompressChunk = void (*)(float factor, const Operand& x, float* residual, char* wire, std::int64_t begin,
                               std::int64_t n);

// The reverse: x[i] = factor * what is on the wire.
using DecompressChunk = void (*)(float factor, const char* wire, const Operand& x, std::int64_t begin, std::int64_t n);

struct IsaTable {
  const char* name;  // from the compiler's own macros, so that a build with the wrong flags shows
  StepChunk step[kKernels];
  MeasureChunk measure[kKernels];
  ReduceChunk reduce[kReductions];
  MapChunk map[kMaps];
  TransferChunk transfer[kTransfers];
  CompressChunk compress[kWires];
  DecompressChunk decompress[kWires];
  TreeSumChunk tree_sum;
  Decode decode;
  Encode encode;
};

}  // namespace gaudi3_rt
