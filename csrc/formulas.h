// What is known of kernels and reductions besides their loops: names, constants of a step, references in double.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "table.h"

namespace gaudi3_rt {

struct KernelInfo {
  std::string_view name;
  std::vector<std::string_view> hyper;  // names, in the order of the array that the functions below take
  std::vector<std::string_view> state;  // keys of the optimizer's state, in the order of the operands after param, grad

  // Fills kConstantsBytes at `constants` for step number t (the first step is 1).
  void (*prepare)(const double* hyper, double t, void* constants);

  // Updates element i of operands[0..] (param, grad, states...) for i in [0, n), in double.
  void (*reference)(const double* hyper, double t, double* const* operands, std::int64_t n);

  int operands() const { return 2 + static_cast<int>(state.size()); }
};

struct ReductionInfo {
  std::string_view name;
  double identity;
  double (*fold)(double, double);
  double (*reference)(const double* x, std::int64_t n);
};

const KernelInfo& info(KernelId id);
const ReductionInfo& info(ReductionId id);
std::string_view name(DType dtype);

}  // namespace gaudi3_rt
