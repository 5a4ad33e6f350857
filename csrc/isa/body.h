// Turns every formula of the registry into loops over memory. Compiled once per ISA; the object exports one symbol.
#include <cstdint>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../table.h"

namespace {

using gaudi3_rt::DType;
using gaudi3_rt::kChunk;
using gaudi3_rt::kMaxOperands;
using gaudi3_rt::kTile;
using gaudi3_rt::Operand;

#include "../arithmetic.h"
#include "../vectors.h"

#define GAUDI3_RT_FORMULAS
#include "../registry.h"

// The floats [begin, begin + n) of an operand: in place where it is float, else decoded into buffer.
template <class Codec>
float* decode(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
  auto* stored = static_cast<typename Codec::Stored*>(operand.data) + begin;
  if constexpr (std::is_same_v<typename Codec::Stored, float>) {
    return stored;
  } else {
    std::int64_t i = 0;
#ifdef __F16C__
    if constexpr (std::is_same_v<Codec, F16>) {
      for (; i + 8 <= n; i += 8) F16::load8(stored + i, buffer + i);
    }
#endif
    for (; i < n; ++i) buffer[i] = Codec::load(stored[i]);
    return buffer;
  }
}

// Puts the floats of a buffer back; there is nothing to do for an operand that was updated in place.
template <class Codec>
void encode(const Operand& operand, std::int64_t begin, std::int64_t n, const float* buffer) {
  if constexpr (!std::is_same_v<typename Codec::Stored, float>) {
    auto* stored = static_cast<typename Codec::Stored*>(operand.data) + begin;
    std::int64_t i = 0;
#ifdef __F16C__
    if constexpr (std::is_same_v<Codec, F16>) {
      for (; i + 8 <= n; i += 8) F16::store8(stored + i, buffer + i);
    }
#endif
    for (; i < n; ++i) stored[i] = Codec::store(buffer[i]);
  }
}

float* read(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
  switch (operand.dtype) {
#define GAUDI3_RT_DECODE(stem, Type) \
  case DType::stem:                  \
    return decode<Type>(operand, begin, n, buffer);
    GAUDI3_RT_CODECS(GAUDI3_RT_DECODE)
  }
  return nullptr;
}

void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* buffer) {
  switch (operand.dtype) {
#define GAUDI3_RT_ENCODE(stem, Type) \
  case DType::stem:                  \
    return encode<Type>(operand, begin, n, buffer);
    GAUDI3_RT_CODECS(GAUDI3_RT_ENCODE)
  }
}

// The inner loop. The operands of one call never overlap (TensorList refuses that), which the pragma tells the
// compiler.
template <class Kernel>
void update(const Kernel& kernel, float* const (&x)[2 + Kernel::kStates], std::int64_t n, float grad_factor) {
  const Kernel k = kernel;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    float param = x[0][i];
    float state[Kernel::kStates];
    for (int j = 0; j < Kernel::kStates; ++j) state[j] = x[2 + j][i];
    k.step(param, grad_factor * x[1][i], state);
    x[0][i] = param;
    for (int j = 0; j < Kernel::kStates; ++j) x[2 + j][i] = state[j];
  }
}

template <class Kernel>
void step_chunk(const void* constants, const Operand* operands, std::int64_t begin, std::int64_t n, float grad_factor) {
  constexpr int kOperands = 2 + Kernel::kStates;
  static_assert(kOperands <= kMaxOperands && sizeof(Kernel) <= gaudi3_rt::kConstantsBytes);
  const Kernel& kernel = *static_cast<const Kernel*>(constants);
  alignas(64) float buffers[kOperands][kTile];
  for (const std::int64_t end = begin + n; begin < end; begin += kTile) {
    const std::int64_t tile = end - begin < kTile ? end - begin : kTile;
    float* x[kOperands];
    for (int j = 0; j < kOperands; ++j) x[j] = read(operands[j], begin, tile, buffers[j]);
    update(kernel, x, tile, grad_factor);
    for (int j = 0; j < kOperands; ++j) {
      if (j != 1) write(operands[j], begin, tile, x[j]);
    }
  }
}

// Adds n floats to one stream; lane = place in the stream modulo kLanes, also in a ragged end.
template <class Reduction>
void add_stream(Reduction& sum, int stream, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum.add(stream, x + i);
  if (i < n) {
    float padded[kLanes] = {};  // a zero changes neither a sum of squares nor a test for non-finite values
    for (std::int64_t j = i; j < n; ++j) padded[j - i] = x[j];
    sum.add(stream, padded);
  }
}

// A chunk is read as four streams side by side: one core has more loads in flight that way than with one stream.
template <class Reduction>
double reduce_chunk(const Operand& operand, std::int64_t begin, std::int64_t n) {
  constexpr std::int64_t kStream = kChunk / kStreams;
  alignas(64) float buffers[kStreams][kTile];
  Reduction sum;
  for (std::int64_t offset = 0; offset < kStream; offset += kTile) {
    const float* x[kStreams];
    std::int64_t length[kStreams];
    for (int s = 0; s < kStreams; ++s) {
      const std::int64_t first = s * kStream + offset;
      const std::int64_t left = n - first;
      length[s] = left < 0 ? 0 : left < kTile ? left : kTile;
      x[s] = length[s] > 0 ? read(operand, begin + first, length[s], buffers[s]) : nullptr;
    }
    if (length[kStreams - 1] == kTile) {
      for (std::int64_t i = 0; i < kTile; i += kLanes) {
        for (int s = 0; s < kStreams; ++s) sum.add(s, x[s] + i);
      }
    } else {
      for (int s = 0; s < kStreams; ++s) add_stream(sum, s, x[s], length[s]);
    }
  }
  return sum.value();
}

#if defined(__AVX512F__)
constexpr char kName[] = "avx512";
#elif defined(__AVX2__)
constexpr char kName[] = "avx2";
#else
constexpr char kName[] = "scalar";
#endif

}  // namespace

#define GAUDI3_RT_STEP(stem, Type) step_chunk<Type>,
#define GAUDI3_RT_REDUCE(stem, Type) reduce_chunk<Type>,
extern const gaudi3_rt::IsaTable GAUDI3_RT_TABLE;
const gaudi3_rt::IsaTable GAUDI3_RT_TABLE = {
    kName, {GAUDI3_RT_KERNELS(GAUDI3_RT_STEP)}, {GAUDI3_RT_REDUCTIONS(GAUDI3_RT_REDUCE)}};
