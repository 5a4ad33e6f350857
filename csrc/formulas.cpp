#include "formulas.h"

#include <new>

namespace gaudi3_rt {
namespace {

#include "arithmetic.h"
#include "vectors.h"

#define GAUDI3_RT_FORMULAS
#include "registry.h"

template <class Kernel>
void prepare(const double* hyper, double t, void* constants) {
  static_assert(sizeof(Kernel) <= kConstantsBytes);
  new (constants) Kernel(hyper, t);
}

template <class Kernel>
void reference(const double* hyper, double t, double* const* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    double state[Kernel::kStates];
    for (int j = 0; j < Kernel::kStates; ++j) state[j] = x[2 + j][i];
    Kernel::reference(hyper, t, x[0][i], x[1][i], state);
    for (int j = 0; j < Kernel::kStates; ++j) x[2 + j][i] = state[j];
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
          {std::begin(Kernel::kState), std::begin(Kernel::kState) + Kernel::kStates},
          prepare<Kernel>,
          reference<Kernel>};
}

}  // namespace

const KernelInfo& info(KernelId id) {
#define GAUDI3_RT_DESCRIBE(stem, Type) describe<Type>(#stem),
  static const KernelInfo kernels[] = {GAUDI3_RT_KERNELS(GAUDI3_RT_DESCRIBE)};
  return kernels[static_cast<int>(id)];
}

const ReductionInfo& info(ReductionId id) {
#define GAUDI3_RT_DESCRIBE_REDUCTION(stem, Type) {#stem, Type::identity(), Type::fold, reference<Type>},
  static const ReductionInfo reductions[] = {GAUDI3_RT_REDUCTIONS(GAUDI3_RT_DESCRIBE_REDUCTION)};
  return reductions[static_cast<int>(id)];
}

std::string_view name(DType dtype) {
#define GAUDI3_RT_NAME(stem, Type) #stem,
  static const char* const names[] = {GAUDI3_RT_CODECS(GAUDI3_RT_NAME)};
  return names[static_cast<int>(dtype)];
}

}  // namespace gaudi3_rt
