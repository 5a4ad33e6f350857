// What one ISA build offers: plain function pointers over raw memory, and the constants that all builds share.
#pragma once
#include <cstddef>
#include <cstdint>

#include "registry.h"

namespace gaudi3_rt {

#define GAUDI3_RT_ENUMERATE(stem, Type) stem,
enum class DType : std::uint8_t { GAUDI3_RT_CODECS(GAUDI3_RT_ENUMERATE) };
enum class KernelId : std::uint8_t { GAUDI3_RT_KERNELS(GAUDI3_RT_ENUMERATE) };
enum class ReductionId : std::uint8_t { GAUDI3_RT_REDUCTIONS(GAUDI3_RT_ENUMERATE) };
#undef GAUDI3_RT_ENUMERATE

#define GAUDI3_RT_COUNT(stem, Type) +1
constexpr int kDTypes = 0 GAUDI3_RT_CODECS(GAUDI3_RT_COUNT);
constexpr int kKernels = 0 GAUDI3_RT_KERNELS(GAUDI3_RT_COUNT);
constexpr int kReductions = 0 GAUDI3_RT_REDUCTIONS(GAUDI3_RT_COUNT);
#undef GAUDI3_RT_COUNT

// Elements a thread takes at a time. Part of the numerics of a reduction (one partial result a chunk), hence fixed:
// it must not depend on the number of threads. 64 Ki floats are 256 KiB an operand.
constexpr std::int64_t kChunk = 64 * 1024;

// Floats decoded at a time; with five operands a tile takes 10 KiB, so it stays in the L1 cache.
constexpr std::int64_t kTile = 512;

// Bytes that hold the per-step constants of any kernel, and operands that any kernel has (param, grad, states).
constexpr std::size_t kConstantsBytes = 64;
constexpr int kMaxOperands = 5;

// One tensor's elements, dense in memory.
struct Operand {
  void* data;
  DType dtype;
};

// Updates elements [begin, begin + n) of all operands; the gradient is multiplied by grad_factor as it is read.
using StepChunk = void (*)(const void* constants, const Operand* operands, std::int64_t begin, std::int64_t n,
                           float grad_factor);

// Reduces elements [begin, begin + n), at most kChunk of them.
using ReduceChunk = double (*)(const Operand& operand, std::int64_t begin, std::int64_t n);

struct IsaTable {
  const char* name;  // from the compiler's own macros, so that a build with the wrong flags shows
  StepChunk step[kKernels];
  ReduceChunk reduce[kReductions];
};

}  // namespace gaudi3_rt
