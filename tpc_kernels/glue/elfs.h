// The compiled kernels that the library carries.
#pragma once
#include <iterator>

#include "sizes.h"

namespace gaudi3_rt::tpc {

inline constexpr const char* kArchitectures[] = {"gaudi2", "gaudi3"};

struct Elf {
  const unsigned char* begin = nullptr;
  const unsigned char* end = nullptr;
};

#ifdef GAUDI3_RT_TPC_ELFS
// By place in kKernels and in kArchitectures; written by embed.py.
extern const Elf kElfs[kKernelCount][std::size(kArchitectures)];
#else
// Built without a TPC compiler.
inline constexpr Elf kElfs[kKernelCount][std::size(kArchitectures)] = {};
#endif

}  // namespace gaudi3_rt::tpc
