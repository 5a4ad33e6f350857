// What an emulated instruction may ask of the machine that runs it: whether it checks, and how to stop it.
#pragma once
#include <cstdint>

#ifndef GAUDI3_RT_TPC_CHECKING
#define GAUDI3_RT_TPC_CHECKING 1
#endif

namespace gaudi3_rt::tpc {

// True in checking mode: whatever hardware leaves undefined is then poisoned or an error. A kernel is compiled once for
// each mode, so that fast mode pays nothing for it.
constexpr bool checking() { return GAUDI3_RT_TPC_CHECKING != 0; }

// Stops the run with an error that names kernel and member; the text is printf's.
[[noreturn]] inline void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The rounding mode in the conversion register (SW_CSR): 0 unless the kernel has set it.
inline int convert_csr();
inline int fma_csr();

// 32 bits of this run's seed, the same at the same call of the same member: for what the vendor leaves open.
inline std::uint32_t random_bits();

// The 64 words of the vector's random register; it then advances by a step.
inline void take_lfsr(std::uint32_t (&words)[64]);

// This run's seed, for what has to depend on values alone.
inline std::uint64_t run_seed();

// The bounds, in units in the last place, by which special functions are perturbed; 0 for not at all.
inline double special_ulps();
inline double fast_special_ulps();

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
constexpr std::uint64_t hash_bits(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

}  // namespace gaudi3_rt::tpc
