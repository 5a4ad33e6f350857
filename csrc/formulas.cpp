#include "formulas.h"

#include <new>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gaudi3_rt {
namespace {

#include "arithmetic.h"
#include "random.h"
#include "traits.h"
#include "vectors.h"

#define GAUDI3_RT_FORMULAS
#include "registry.h"

template <class Kernel>
void prepare(const double* hyper, double t, void* constants) {
  static_assert(sizeof(Kernel) <= kConstantsBytes);
  new (constants) Kernel(hyper, t);
}

template <class Kernel>
std::vector<float> constants(const double* hyper, double t) {
  std::vector<float> result;
  Kernel(hyper, t).visit([&](auto... x) { (result.push_back(static_cast<float>(x)), ...); });
  return result;
}

template <class Kernel>
void reference(const double* hyper, double t, double* const* x, std::int64_t n) {
  if constexpr (has_two_passes<Kernel>) {
    Kernel::reference(hyper, t, x, n);
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      double state[Kernel::kStates > 0 ? Kernel::kStates : 1];  // no array is empty
      for (int j = 0; j < Kernel::kStates; ++j) state[j] = x[2 + j][i];
      Kernel::reference(hyper, t, x[0][i], x[1][i], state);
      for (int j = 0; j < Kernel::kStates; ++j) x[2 + j][i] = state[j];
    }
  }
}

template <class Reduction>
double reference(const double* x, std::int64_t n) {
  double result = Reduction::identity();
  for (std::int64_t i = 0; i < n; ++i) result = Reduction::fold(result, Reduction::reference(x[i]));
  return result;
}

template <class Kernel>
KernelInfo describe(const char* name) {
  return {name,
          {std::begin(Kernel::kHyper), std::end(Kernel::kHyper)},
          {Kernel::kState, Kernel::kState + Kernel::kStates},
          has_two_passes<Kernel>,
          prepare<Kernel>,
          constants<Kernel>,
          reference<Kernel>};
}

template <class C>
CodecInfo describe_codec(const char* name) {
  return {name, sizeof(typename C::Stored), second_bytes<C>, in_blocks<C>};
}

template <class Wire>
std::int64_t bytes_on(std::int64_t n) {
  return n * Wire::kBytes + (n + kBlock - 1) / kBlock * Wire::kHeaderBytes;
}

}  // namespace

const KernelInfo& info(KernelId id) {
#define GAUDI3_RT_DESCRIBE(stem, ...) describe<__VA_ARGS__>(#stem),
  static const KernelInfo kernels[] = {GAUDI3_RT_KERNELS(GAUDI3_RT_DESCRIBE)};
  return kernels[static_cast<int>(id)];
}

const ReductionInfo& info(ReductionId id) {
#define GAUDI3_RT_DESCRIBE_REDUCTION(stem, Type) {#stem, Type::identity(), Type::fold, reference<Type>},
  static const ReductionInfo reductions[] = {GAUDI3_RT_REDUCTIONS(GAUDI3_RT_DESCRIBE_REDUCTION)};
  return reductions[static_cast<int>(id)];
}

const CodecInfo& info(Codec id) {
#define GAUDI3_RT_DESCRIBE_CODEC(stem, ...) describe_codec<__VA_ARGS__>(#stem),
  static const CodecInfo codecs[] = {GAUDI3_RT_CODECS(GAUDI3_RT_DESCRIBE_CODEC)};
  return codecs[static_cast<int>(id)];
}

const MapInfo& info(MapId id) {
#define GAUDI3_RT_DESCRIBE_MAP(stem, Type) \
  {#stem, {std::begin(Type::kParameters), std::end(Type::kParameters)}, Type::reference},
  static const MapInfo maps[] = {GAUDI3_RT_MAPS(GAUDI3_RT_DESCRIBE_MAP)};
  return maps[static_cast<int>(id)];
}

const TransferInfo& info(TransferId id) {
#define GAUDI3_RT_DESCRIBE_TRANSFER(stem, Type) {#stem, Type::reference},
  static const TransferInfo transfers[] = {GAUDI3_RT_TRANSFERS(GAUDI3_RT_DESCRIBE_TRANSFER)};
  return transfers[static_cast<int>(id)];
}

const WireInfo& info(WireId id) {
#define GAUDI3_RT_DESCRIBE_WIRE(stem, Type) {#stem, bytes_on<Type>, Type::reference},
  static const WireInfo wires[] = {GAUDI3_RT_WIRES(GAUDI3_RT_DESCRIBE_WIRE)};
  return wires[static_cast<int>(id)];
}

bool is_positive(std::string_view state) {
#define GAUDI3_RT_IS(name) || state == #name
  return false GAUDI3_RT_POSITIVE_STATES(GAUDI3_RT_IS);
}

std::uint64_t draw_key(std::uint64_t seed, double t, std::uint64_t parameter) { return step_key(seed, t, parameter); }

std::array<std::uint32_t, 3> draw_keys(std::uint64_t seed, double t, std::uint64_t parameter, int operand) {
  const Draw draw{draw_key(seed, t, parameter), {}};
  const std::uint64_t keys = word_keys(draw, random_word(operand), 0);
  return {static_cast<std::uint32_t>(keys), static_cast<std::uint32_t>(keys >> 32),
          static_cast<std::uint32_t>(random_shift(operand))};
}

}  // namespace gaudi3_rt
