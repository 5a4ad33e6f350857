// Turns every formula of the registry into loops over memory. Compiled once per ISA; the object exports one symbol.
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../table.h"

namespace {

using gaudi3_rt::Codec;
using gaudi3_rt::Draw;
using gaudi3_rt::kBlock;
using gaudi3_rt::kChunk;
using gaudi3_rt::kMaxOperands;
using gaudi3_rt::kTile;
using gaudi3_rt::Norms;
using gaudi3_rt::Operand;
using gaudi3_rt::Step;

#include "../arithmetic.h"
#include "../random.h"
#include "../traits.h"
#include "../vectors.h"

#define GAUDI3_RT_FORMULAS
#include "../registry.h"

// The floats [begin, begin + n) of an operand: in place where it is float, else decoded into buffer.
template <class C>
float* decode(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
  auto* stored = static_cast<typename C::Stored*>(operand.data) + begin;
  if constexpr (std::is_same_v<typename C::Stored, float>) {
    return stored;
  } else if constexpr (reads_tiles<C>) {
    return C::read(operand, begin, n, buffer);
  } else {
    std::int64_t i = 0;
#ifdef __F16C__
    if constexpr (std::is_same_v<C, F16>) {
      for (; i + 8 <= n; i += 8) F16::load8(stored + i, buffer + i);
    }
#endif
    for (; i < n; ++i) buffer[i] = C::load(stored[i]);
    return buffer;
  }
}

// Puts the floats of a buffer back; there is nothing to do for an operand that was updated in place.
template <class C>
void encode(const Operand& operand, std::int64_t begin, std::int64_t n, const float* buffer, const Random& random) {
  if constexpr (writes_tiles<C>) {
    C::write(operand, begin, n, buffer, random);
  } else if constexpr (!std::is_same_v<typename C::Stored, float>) {
    auto* stored = static_cast<typename C::Stored*>(operand.data) + begin;
    std::int64_t i = 0;
#ifdef __F16C__
    if constexpr (std::is_same_v<C, F16>) {
      for (; i + 8 <= n; i += 8) F16::store8(stored + i, buffer + i);
    }
#endif
    for (; i < n; ++i) stored[i] = C::store(buffer[i]);
  }
}

float* read(const Operand& operand, std::int64_t begin, std::int64_t n, float* buffer) {
  switch (operand.codec) {
#define GAUDI3_RT_DECODE(stem, ...) \
  case Codec::stem:                 \
    return decode<__VA_ARGS__>(operand, begin, n, buffer);
    GAUDI3_RT_CODECS(GAUDI3_RT_DECODE)
  }
  return nullptr;
}

void write(const Operand& operand, std::int64_t begin, std::int64_t n, const float* buffer, const Random& random) {
  switch (operand.codec) {
#define GAUDI3_RT_ENCODE(stem, ...) \
  case Codec::stem:                 \
    return encode<__VA_ARGS__>(operand, begin, n, buffer, random);
    GAUDI3_RT_CODECS(GAUDI3_RT_ENCODE)
  }
}

// Asks for a tile that is read soon, of an operand that is decoded: its loads come one tile after another, too few at a
// time to hide how long memory takes. Floats are read in place, by loops that have enough loads in flight.
// GCC takes a function of hints alone for one that has no effect, and drops calls of it: hence always_inline.
template <class C>
GAUDI3_RT_EARLY inline void prefetch_tile(const Operand& operand, std::int64_t begin) {
  constexpr std::int64_t kBytes = sizeof(typename C::Stored);
  if constexpr (kBytes < sizeof(float)) {
    const char* const tile = static_cast<const char*>(operand.data) + kBytes * begin;
    for (std::int64_t byte = 0; byte < kBytes * kTile; byte += 64) __builtin_prefetch(tile + byte);
  }
}

GAUDI3_RT_EARLY inline void prefetch(const Operand& operand, std::int64_t begin) {
  switch (operand.codec) {
#define GAUDI3_RT_PREFETCH(stem, ...) \
  case Codec::stem:                   \
    return prefetch_tile<__VA_ARGS__>(operand, begin);
    GAUDI3_RT_CODECS(GAUDI3_RT_PREFETCH)
  }
}

void decode_all(const Operand& operand, std::int64_t n, float* out) {
  for (std::int64_t begin = 0; begin < n; begin += kTile) {
    const std::int64_t tile = n - begin < kTile ? n - begin : kTile;
    const float* const x = read(operand, begin, tile, out + begin);
    if (x != out + begin) std::memcpy(out + begin, x, static_cast<std::size_t>(tile) * sizeof(float));
  }
}

bool needs_random(Codec codec) {
  switch (codec) {
#define GAUDI3_RT_DRAWS(stem, ...) \
  case Codec::stem:                \
    return draws<__VA_ARGS__>;
    GAUDI3_RT_CODECS(GAUDI3_RT_DRAWS)
  }
  return false;
}

void encode_all(const Operand& operand, int index, std::int64_t n, const float* in, const Draw& draw) {
  if (operand.codec == Codec::f32) {  // which write() takes for updated in place
    std::memcpy(operand.data, in, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  std::uint32_t words[kTile];
  for (std::int64_t begin = 0; begin < n; begin += kTile) {
    const std::int64_t tile = n - begin < kTile ? n - begin : kTile;
    if (needs_random(operand.codec)) draw_words(draw, random_word(index), begin, tile, words);
    write(operand, begin, tile, in + begin, {words, random_shift(index)});
  }
}

// The operands of one step, tile by tile as floats.
template <class Kernel>
class Tiles {
 public:
  static constexpr int kOperands = 2 + Kernel::kStates;
  using Pointers = float* const (&)[kOperands];

  // For tiles of elements before `end`.
  Tiles(const Step& step, std::int64_t end) : step_(step), end_(end) {
    static_assert(kOperands <= kMaxOperands && sizeof(Kernel) <= gaudi3_rt::kConstantsBytes);
    for (int j = 0; j < kOperands; ++j) {
      if (j != 1 && needs_random(step.operands[j].codec)) draws_[random_word(j)] = true;
    }
  }

  // Reads parameter and states, and the gradient if asked to.
  Pointers read_all(std::int64_t begin, std::int64_t n, bool and_grad) {
    for (int j = 0; j < kOperands; ++j) {
      if (j == 1 && !and_grad) continue;
      x_[j] = read(step_.operands[j], begin, n, buffers_[j]);
      if (begin + n < end_) prefetch(step_.operands[j], begin + n);
    }
    return x_;
  }

  Pointers read_states(std::int64_t begin, std::int64_t n) {
    for (int j = 2; j < kOperands; ++j) x_[j] = read(step_.operands[j], begin, n, buffers_[j]);
    return x_;
  }

  void write_states(std::int64_t begin, std::int64_t n) {
    if (draws_[0]) draw_words(step_.draw, 0, begin, n, words_[0]);
    if (draws_[1] && kOperands > 4) draw_words(step_.draw, 1, begin, n, words_[1]);
    for (int j = 2; j < kOperands; ++j) put(j, begin, n);
  }

  // Writes the parameter, and lets its average follow what has been stored.
  void write_param(std::int64_t begin, std::int64_t n) {
    if (draws_[1]) draw_words(step_.draw, 1, begin, n, words_[1]);
    put(0, begin, n);
    if (step_.average == nullptr) return;
    const float* const param = read(step_.operands[0], begin, n, buffers_[0]);
    float* const average = read(*step_.average, begin, n, buffers_[1]);
    const float weight = step_.average_weight;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) average[i] = fma(weight, param[i] - average[i], average[i]);
    write(*step_.average, begin, n, average, {});
  }

 private:
  void put(int j, std::int64_t begin, std::int64_t n) const {
    write(step_.operands[j], begin, n, x_[j], {words_[random_word(j)], random_shift(j)});
  }

  const Step& step_;
  const std::int64_t end_;
  bool draws_[2] = {};
  float* x_[kOperands] = {};
  alignas(64) std::uint32_t words_[2][kTile];
  alignas(64) float buffers_[kOperands][kTile];
};

// Calls work(begin, length) for the tiles of [begin, begin + n).
template <class Work>
void for_each_tile(std::int64_t begin, std::int64_t n, const Work& work) {
  for (const std::int64_t end = begin + n; begin < end; begin += kTile) {
    work(begin, end - begin < kTile ? end - begin : kTile);
  }
}

// The inner loop: formula(param, gradient, states) for n elements. The operands of one call never overlap (TensorList
// refuses that), which the pragma tells the compiler.
template <class Kernel, bool kReadsGrad, bool kWritesStates, class Formula>
void for_each_element(typename Tiles<Kernel>::Pointers x, std::int64_t n, float grad_factor, const Formula& formula) {
  const Formula f = formula;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    float param = x[0][i];
    float state[Kernel::kStates > 0 ? Kernel::kStates : 1];  // no array is empty
    for (int j = 0; j < Kernel::kStates; ++j) state[j] = x[2 + j][i];
    f(param, kReadsGrad ? grad_factor * x[1][i] : 0.0f, state);
    x[0][i] = param;
    for (int j = 0; kWritesStates && j < Kernel::kStates; ++j) x[2 + j][i] = state[j];
  }
}

// Adds n floats to one stream; lane = place in the stream modulo kLanes, also in a ragged end.
template <class Reduction>
void add_stream(Reduction& sum, int stream, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum.add(stream, x + i);
  if (i < n) {
    float padded[kLanes] = {};  // a zero changes no sum, no maximum of magnitudes and no test for non-finite values
    for (std::int64_t j = i; j < n; ++j) padded[j - i] = x[j];
    sum.add(stream, padded);
  }
}

// A chunk is read as four streams side by side: one core has more loads in flight that way than with one stream.
// tile(first, n, more, buffer) gives n floats from `first` on; more: another tile of that stream follows.
template <class Reduction, class Tile>
Reduction reduce_streams(std::int64_t n, const Tile& tile) {
  constexpr std::int64_t kStream = kChunk / kStreams;
  alignas(64) float buffers[kStreams][kTile];
  Reduction sum;
  for (std::int64_t offset = 0; offset < kStream && offset < n; offset += kTile) {
    const float* x[kStreams];
    std::int64_t length[kStreams];
    for (int s = 0; s < kStreams; ++s) {
      const std::int64_t first = s * kStream + offset;
      const std::int64_t left = n - first;
      length[s] = left < 0 ? 0 : left < kTile ? left : kTile;
      x[s] = length[s] > 0 ? tile(first, length[s], left > kTile, buffers[s]) : nullptr;
    }
    if (length[kStreams - 1] == kTile) {
      for (std::int64_t i = 0; i < kTile; i += kLanes) {
        for (int s = 0; s < kStreams; ++s) sum.add(s, x[s] + i);
      }
    } else {
      for (int s = 0; s < kStreams; ++s) add_stream(sum, s, x[s], length[s]);
    }
  }
  return sum;
}

template <class Reduction>
double reduce_chunk(const Operand& operand, std::int64_t begin, std::int64_t n) {
  const auto tile = [&](std::int64_t first, std::int64_t length, bool more, float* buffer) GAUDI3_RT_EARLY {
    if (more) prefetch(operand, begin + first + kTile);
    return read(operand, begin + first, length, buffer);
  };
  return reduce_streams<Reduction>(n, tile).value();
}

template <class Kernel>
void step_chunk(const Step& step, std::int64_t begin, std::int64_t n) {
  Tiles<Kernel> tiles(step, begin + n);
  Kernel kernel = *static_cast<const Kernel*>(step.constants);
  if constexpr (has_two_passes<Kernel>) {
    kernel.set_ratio(step.norms.param, step.norms.other);
    for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
      const auto& x = tiles.read_all(first, length, Kernel::kSecondReadsGrad);
      for_each_element<Kernel, Kernel::kSecondReadsGrad, Kernel::kSecondWritesStates>(
          x, length, step.grad_factor,
          [kernel](float& p, float g, auto& s) GAUDI3_RT_EARLY { kernel.second(p, g, s); });
      if (Kernel::kSecondWritesStates) tiles.write_states(first, length);
      tiles.write_param(first, length);
    });
  } else {
    for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
      const auto& x = tiles.read_all(first, length, true);
      for_each_element<Kernel, true, true>(
          x, length, step.grad_factor, [kernel](float& p, float g, auto& s) GAUDI3_RT_EARLY { kernel.step(p, g, s); });
      tiles.write_states(first, length);
      tiles.write_param(first, length);
    });
  }
}

// Adds a tile, spread over the streams: what a stream gets depends only on the place in the tile.
void add_tile(SumSquares& sum, const float* x, std::int64_t n) {
  constexpr std::int64_t kRow = kStreams * kLanes;
  std::int64_t i = 0;
  for (; i + kRow <= n; i += kRow) {
    for (int s = 0; s < kStreams; ++s) sum.add(s, x + i + s * kLanes);
  }
  for (int s = 0; s < kStreams; ++s, i += kLanes) {
    if (i < n) add_stream(sum, s, x + i, n - i < kLanes ? n - i : kLanes);
  }
}

template <class Kernel>
void measure_elements(const Kernel& kernel, typename Tiles<Kernel>::Pointers x, std::int64_t n, float grad_factor,
                      float* measured) {
  const Kernel k = kernel;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    float state[Kernel::kStates];
    for (int j = 0; j < Kernel::kStates; ++j) state[j] = x[2 + j][i];
    const float grad = grad_factor * x[1][i];
    measured[i] = k.measured(x[0][i], grad, state);
  }
}

// The first pass of a two-pass kernel. What it measures is formed from the states as they are stored, so that the
// second pass forms the same.
template <class Kernel>
Norms measure_chunk(const Step& step, std::int64_t begin, std::int64_t n) {
  Tiles<Kernel> tiles(step, begin + n);
  const Kernel kernel = *static_cast<const Kernel*>(step.constants);
  alignas(64) float measured[kTile];
  SumSquares params, others;
  for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
    const auto& x = tiles.read_all(first, length, true);
    if (Kernel::kFirstWritesStates) {
      for_each_element<Kernel, true, true>(
          x, length, step.grad_factor, [kernel](float& p, float g, auto& s) GAUDI3_RT_EARLY { kernel.first(p, g, s); });
      tiles.write_states(first, length);
      tiles.read_states(first, length);
    }
    measure_elements(kernel, x, length, step.grad_factor, measured);
    add_tile(params, x[0], length);
    add_tile(others, measured, length);
  });
  return {params.value(), others.value()};
}

template <class Kernel>
constexpr gaudi3_rt::MeasureChunk measure_or_null() {
  if constexpr (has_two_passes<Kernel>) {
    return measure_chunk<Kernel>;
  } else {
    return nullptr;
  }
}

template <class Map>
void map_chunk(const float* parameters, const Operand& operand, std::int64_t begin, std::int64_t n) {
  const Map map(parameters);
  alignas(64) float buffer[kTile];
  for (const std::int64_t end = begin + n; begin < end; begin += kTile) {
    const std::int64_t left = end - begin;
    const std::int64_t tile = left < kTile ? left : kTile;
    float* const x = read(operand, begin, tile, buffer);
    if (left > tile) prefetch(operand, begin + tile);
#pragma omp simd
    for (std::int64_t i = 0; i < tile; ++i) x[i] = map.apply(x[i]);
    write(operand, begin, tile, x, {});
  }
}

#include "transfers.h"
#include "tree_sum.h"

#if defined(__AVX512F__)
constexpr char kName[] = "avx512";
#elif defined(__AVX2__)
constexpr char kName[] = "avx2";
#else
constexpr char kName[] = "scalar";
#endif

}  // namespace

#define GAUDI3_RT_STEP(stem, ...) step_chunk<__VA_ARGS__>,
#define GAUDI3_RT_MEASURE(stem, ...) measure_or_null<__VA_ARGS__>(),
#define GAUDI3_RT_REDUCE(stem, ...) reduce_chunk<__VA_ARGS__>,
#define GAUDI3_RT_MAP(stem, ...) map_chunk<__VA_ARGS__>,
#define GAUDI3_RT_TRANSFER(stem, ...) transfer_chunk<__VA_ARGS__>,
#define GAUDI3_RT_COMPRESS(stem, ...) compress_chunk<__VA_ARGS__>,
#define GAUDI3_RT_DECOMPRESS(stem, ...) decompress_chunk<__VA_ARGS__>,
extern const gaudi3_rt::IsaTable GAUDI3_RT_TABLE;
const gaudi3_rt::IsaTable GAUDI3_RT_TABLE = {kName,
                                             {GAUDI3_RT_KERNELS(GAUDI3_RT_STEP)},
                                             {GAUDI3_RT_KERNELS(GAUDI3_RT_MEASURE)},
                                             {GAUDI3_RT_REDUCTIONS(GAUDI3_RT_REDUCE)},
                                             {GAUDI3_RT_MAPS(GAUDI3_RT_MAP)},
                                             {GAUDI3_RT_TRANSFERS(GAUDI3_RT_TRANSFER)},
                                             {GAUDI3_RT_WIRES(GAUDI3_RT_COMPRESS)},
                                             {GAUDI3_RT_WIRES(GAUDI3_RT_DECOMPRESS)},
                                             tree_sum_chunk,
                                             decode_all,
                                             encode_all};
