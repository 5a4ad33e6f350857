// Descriptors, registers and what only changes time: get_dim_size, pad values, LFSRs, rounding registers, semaphores,
// caches, local memory by address.
#pragma once
#include "instruction.h"
#include "tensors.h"

namespace gaudi3_rt::tpc {

inline int dimension(std::uint32_t dim) {
  if (dim >= static_cast<std::uint32_t>(kMaxDims)) fail("A tensor has no dimension %u.", dim);
  return static_cast<int>(dim);
}

// The one register that kernels reach by address is that of the conversions' rounding mode.
constexpr std::uint32_t kConvertCsrAddress = 0xca8;

inline void* local_address(unsigned char* memory, std::size_t size, std::uint32_t address, std::size_t bytes,
                           const char* kind) {
  if (address % bytes != 0 || address + bytes > size) {
    fail("Address %u of %s memory is not that of %zu aligned bytes below %zu.", address, kind, bytes, size);
  }
  return memory + address;
}
template <class E>
E* scalar_local(std::uint32_t address) {
  return static_cast<E*>(
      local_address(machine.scalar_local, sizeof machine.scalar_local, address, sizeof(E), "scalar local"));
}
template <class V>
V* vector_local(std::uint32_t address) {
  return static_cast<V*>(
      local_address(machine.vector_local, sizeof machine.vector_local, address, sizeof(V), "vector local"));
}
inline void* half_local(std::uint32_t address) {
  return local_address(machine.vector_local, sizeof machine.vector_local, address, 128, "vector local");
}

}  // namespace gaudi3_rt::tpc

inline std::uint32_t get_dim_size(tensor t, std::uint32_t dim) {
  return static_cast<std::uint32_t>(gaudi3_rt::tpc::tensor_at(t).size[gaudi3_rt::tpc::dimension(dim)]);
}
inline void set_dim_size(tensor t, std::uint32_t dim, std::uint32_t value) {
  gaudi3_rt::tpc::tensor_at(t).size[gaudi3_rt::tpc::dimension(dim)] = value;
}
// In elements.
inline std::uint32_t get_dim_stride(tensor t, std::uint32_t dim) {
  return static_cast<std::uint32_t>(gaudi3_rt::tpc::tensor_at(t).stride[gaudi3_rt::tpc::dimension(dim)]);
}
inline void set_dim_stride(tensor t, std::uint32_t dim, std::uint32_t value) {
  gaudi3_rt::tpc::tensor_at(t).stride[gaudi3_rt::tpc::dimension(dim)] = value;
}
// How far the hardware prefetches, which changes no result.
inline std::uint32_t get_tensor_hwpref_stride(tensor t) {
  gaudi3_rt::tpc::tensor_at(t);
  return gaudi3_rt::tpc::machine.prefetch_stride[t];
}
inline void set_tensor_hwpref_stride(tensor t, std::uint32_t value) {
  gaudi3_rt::tpc::tensor_at(t);
  gaudi3_rt::tpc::machine.prefetch_stride[t] = value;
}

#define G3RT_PAD(name, E)                                                                           \
  G3RT_INTRINSIC E get_pad_value_##name(tensor t) {                                                 \
    E value;                                                                                        \
    std::memcpy(static_cast<void*>(&value), &gaudi3_rt::tpc::tensor_at(t).pad, sizeof value);       \
    return value;                                                                                   \
  }                                                                                                 \
  G3RT_INTRINSIC void set_pad_value_##name(tensor t, E value) {                                     \
    gaudi3_rt::tpc::tensor_at(t).pad = 0;                                                           \
    std::memcpy(&gaudi3_rt::tpc::tensor_at(t).pad, static_cast<const void*>(&value), sizeof value); \
  }
G3RT_PAD(float, float)
G3RT_PAD(int, std::int32_t)
G3RT_PAD(uint, std::uint32_t)
G3RT_PAD(short, std::int16_t)
G3RT_PAD(ushort, std::uint16_t)
G3RT_PAD(char, std::int8_t)
G3RT_PAD(uchar, std::uint8_t)
G3RT_PAD(bf16, bf16)
G3RT_PAD(half, half)
#undef G3RT_PAD

inline std::int32_t get_csr_value() { return gaudi3_rt::tpc::machine.fma_csr; }
inline void set_csr_value(std::int32_t value) { gaudi3_rt::tpc::machine.fma_csr = value; }
inline std::int32_t get_convert_csr_value() { return gaudi3_rt::tpc::machine.convert_csr; }
inline void set_convert_csr_value(std::int32_t value) { gaudi3_rt::tpc::machine.convert_csr = value; }
inline std::int32_t get_semaphore_value() { return gaudi3_rt::tpc::machine.semaphore; }
inline void set_semaphore_value(std::int32_t value) { gaudi3_rt::tpc::machine.semaphore = value; }

// 64 lanes of 32 bits. How hardware seeds them is not known; here a run's seed and the member do.
inline char256 read_lfsr_b(int switches = 0) {
  char256 bits;
  std::uint32_t words[64];
  gaudi3_rt::tpc::take_lfsr(words);
  if ((switches & SW_READ_ONLY) != 0) std::memcpy(gaudi3_rt::tpc::machine.vector_lfsr, words, sizeof words);
  std::memcpy(bits.lane, words, sizeof bits);
  return bits;
}
inline char256 read_lfsr_b(int switches, const char256& income, bool predicate = true, bool polarity = false) {
  return predicate == polarity ? income : read_lfsr_b(switches);
}
inline char256 read_lfsr_vb(int switches, char256 income, const bool256& predicate, bool polarity = false) {
  const char256 bits = read_lfsr_b(switches);
  for (int i = 0; i < 256; ++i) {
    if ((predicate.lane[i] != 0) != polarity) income.lane[i] = bits.lane[i];
  }
  return income;
}
inline void write_lfsr_b(const char256& bits, bool predicate = true, bool polarity = false) {
  if (predicate == polarity) return;
  std::memcpy(gaudi3_rt::tpc::machine.vector_lfsr, bits.lane, sizeof bits);
  if (!gaudi3_rt::tpc::checking()) return;
  for (const std::uint32_t x : gaudi3_rt::tpc::machine.vector_lfsr) {
    if (x == 0) gaudi3_rt::tpc::fail("A random number register that is seeded with 0 stays 0.");
  }
}
inline std::int32_t s_read_lfsr(int switches = 0, std::int32_t income = 0, bool predicate = true,
                                bool polarity = false) {
  if (predicate == polarity) return income;
  gaudi3_rt::tpc::machine.outcome->order_matters = 1;
  const std::uint32_t bits = gaudi3_rt::tpc::machine.scalar_lfsr;
  if ((switches & SW_READ_ONLY) == 0) gaudi3_rt::tpc::machine.scalar_lfsr = gaudi3_rt::tpc::lfsr_step(bits);
  return static_cast<std::int32_t>(bits);
}
inline void write_lfsr_s(std::int32_t bits, bool predicate = true, bool polarity = false) {
  if (predicate == polarity) return;
  gaudi3_rt::tpc::machine.scalar_lfsr = static_cast<std::uint32_t>(bits);
}
#define LFSR read_lfsr_b()
#define LFSR_NO_CHANGE read_lfsr_b(SW_READ_ONLY)
#define S_LFSR s_read_lfsr()
#define S_LFSR_NO_CHANGE s_read_lfsr(SW_READ_ONLY)

// These order memory operations or move data between caches; here each operation has ended before the next begins.
inline void aso(int /*switches*/ = 0, bool /*predicate*/ = true, bool /*polarity*/ = false) {}
inline void cache_flush(int /*switches*/ = 0, bool /*predicate*/ = true, bool /*polarity*/ = false) {}
inline void cache_invalidate(int /*switches*/ = 0, bool /*predicate*/ = true, bool /*polarity*/ = false) {}
inline void cache_flush_addr(const void* /*address*/, int /*switches*/ = 0, bool /*predicate*/ = true,
                             bool /*polarity*/ = false) {}
inline void cache_invalidate_addr(const void* /*address*/, int /*switches*/ = 0, bool /*predicate*/ = true,
                                  bool /*polarity*/ = false) {}
inline void prefetch(const void* /*address*/, int /*switches*/ = 0, bool /*predicate*/ = true,
                     bool /*polarity*/ = false) {}
inline void event(std::uint16_t /*id*/, int /*switches*/ = 0, bool /*predicate*/ = true, bool /*polarity*/ = false) {}
inline void thread_sync() {}

// Half a vector, by the address of its first byte, from and to lanes FIRST and following.
#define G3RT_LOCAL_HALF(T, V, HALF, FIRST)                                                                           \
  G3RT_INTRINSIC V v_##T##_ld_l_v_##HALF##_b(std::uint32_t address, int /*switches*/ = 0,                            \
                                             const V& income = gaudi3_rt::tpc::unset<V>(), bool predicate = true,    \
                                             bool polarity = false) {                                                \
    V r = income;                                                                                                    \
    if (predicate != polarity) std::memcpy(r.lane + (FIRST), gaudi3_rt::tpc::half_local(address), 128);              \
    return r;                                                                                                        \
  }                                                                                                                  \
  G3RT_INTRINSIC V v_##T##_ld_l_v_##HALF##_vb(std::uint32_t address, int switches, const V& income,                  \
                                              const gaudi3_rt::tpc::Predicate<V::kLanes>& predicate,                 \
                                              bool polarity = false) {                                               \
    return gaudi3_rt::tpc::blend(v_##T##_ld_l_v_##HALF##_b(address, switches, income), income, predicate, polarity); \
  }                                                                                                                  \
  G3RT_INTRINSIC void v_##T##_st_l_v_##HALF(std::uint32_t address, const V& value, int /*switches*/ = 0,             \
                                            bool predicate = true, bool polarity = false) {                          \
    if (predicate != polarity) std::memcpy(gaudi3_rt::tpc::half_local(address), value.lane + (FIRST), 128);          \
  }
// Local memory by byte address; file-scope variables are not in it.
#define G3RT_LOCAL(T, V, E)                                                                                          \
  G3RT_INTRINSIC E s_##T##_ld_l(std::uint32_t address, int switches = 0, E income = E(0), bool predicate = true,     \
                                bool polarity = false) {                                                             \
    if (predicate == polarity) return income;                                                                        \
    if ((switches & SW_MMIO) != 0) return static_cast<E>(g3rt_mmio(address));                                        \
    return *gaudi3_rt::tpc::scalar_local<E>(address);                                                                \
  }                                                                                                                  \
  G3RT_INTRINSIC void s_##T##_st_l(std::uint32_t address, E value, int switches = 0, bool predicate = true,          \
                                   bool polarity = false) {                                                          \
    if (predicate == polarity) return;                                                                               \
    if ((switches & SW_MMIO) != 0) {                                                                                 \
      g3rt_mmio(address) = static_cast<int>(value);                                                                  \
    } else {                                                                                                         \
      *gaudi3_rt::tpc::scalar_local<E>(address) = value;                                                             \
    }                                                                                                                \
  }                                                                                                                  \
  G3RT_INTRINSIC V v_##T##_ld_l_v_b(std::uint32_t address, int /*switches*/ = 0) {                                   \
    return *gaudi3_rt::tpc::vector_local<V>(address);                                                                \
  }                                                                                                                  \
  G3RT_INTRINSIC V v_##T##_ld_l_v_b(std::uint32_t address, int switches, const V& income, bool predicate = true,     \
                                    bool polarity = false) {                                                         \
    return predicate == polarity ? income : v_##T##_ld_l_v_b(address, switches);                                     \
  }                                                                                                                  \
  G3RT_INTRINSIC V v_##T##_ld_l_v_vb(std::uint32_t address, int switches, const V& income,                           \
                                     const gaudi3_rt::tpc::Predicate<V::kLanes>& predicate, bool polarity = false) { \
    return gaudi3_rt::tpc::blend(v_##T##_ld_l_v_b(address, switches), income, predicate, polarity);                  \
  }                                                                                                                  \
  G3RT_LOCAL_HALF(T, V, low, 0)                                                                                      \
  G3RT_LOCAL_HALF(T, V, high, V::kLanes / 2)                                                                         \
  G3RT_INTRINSIC void v_##T##_st_l_v(std::uint32_t address, const V& value, int /*switches*/ = 0,                    \
                                     bool predicate = true, bool polarity = false) {                                 \
    if (predicate != polarity) *gaudi3_rt::tpc::vector_local<V>(address) = value;                                    \
  }
inline int& g3rt_mmio(std::uint32_t address) {
  if (address != gaudi3_rt::tpc::kConvertCsrAddress) {
    gaudi3_rt::tpc::fail("The register at 0x%x is not emulated; 0xca8, how conversions round, is.", address);
  }
  return gaudi3_rt::tpc::machine.convert_csr;
}
G3RT_LOCAL(f32, float64, float)
G3RT_LOCAL(bf16, bfloat128, bf16)
G3RT_LOCAL(f16, half128, half)
G3RT_LOCAL(i32, int64, std::int32_t)
G3RT_LOCAL(u32, uint64, std::uint32_t)
G3RT_LOCAL(i16, short128, std::int16_t)
G3RT_LOCAL(u16, ushort128, std::uint16_t)
G3RT_LOCAL(i8, char256, std::int8_t)
G3RT_LOCAL(u8, uchar256, std::uint8_t)
#undef G3RT_LOCAL
#undef G3RT_LOCAL_HALF
