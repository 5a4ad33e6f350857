#include "dispatch.h"

extern const gaudi3_rt::IsaTable gaudi3_rt_table_scalar;
#ifdef GAUDI3_RT_X86
extern const gaudi3_rt::IsaTable gaudi3_rt_table_avx2;
extern const gaudi3_rt::IsaTable gaudi3_rt_table_avx512;
#endif

namespace gaudi3_rt {

const std::vector<const IsaTable*>& isa_tables() {
  static const std::vector<const IsaTable*> tables = [] {
    std::vector<const IsaTable*> found;
#ifdef GAUDI3_RT_X86
    // These read the operating system's state too: a CPU bit alone does not mean that the registers are saved.
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      found.push_back(&gaudi3_rt_table_avx512);
    }
    // Every CPU with AVX2 has F16C; compilers of this age cannot ask for it by name.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&gaudi3_rt_table_avx2);
#endif
    found.push_back(&gaudi3_rt_table_scalar);
    return found;
  }();
  return tables;
}

}  // namespace gaudi3_rt
