// Loads and stores: v_T_ld_tnsr*, v_T_st_tnsr*, s_T_st_tnsr_s, gen_addr with the ld_g and st_g forms.
#pragma once
#include "switches.h"
#include "tensors.h"

namespace gaudi3_rt::tpc {

inline void refuse_switches(int switches, int allowed) {
  if ((switches & ~allowed) != 0) {
    fail("What switches 0x%x of a load or store do is not documented; they are not emulated.", switches);
  }
}

struct AllLanes {
  constexpr bool operator()(int) const { return true; }
};

// Lanes that a vector predicate lets through.
template <int N>
struct SomeLanes {
  const Predicate<N>& predicate;
  bool polarity;
  bool operator()(int i) const { return (predicate.lane[i] != 0) != polarity; }
};

template <class E>
E from_pad(std::uint32_t pad) {
  E value;
  std::memcpy(&value, &pad, sizeof value);
  return value;
}

// Lanes first to first + count - 1 of `result` from count elements at c.
template <class V, class Active>
V load(const int5& c, int handle, int switches, V result, int first, int count, Active active) {
  using E = typename V::Element;
  refuse_switches(switches, SW_L0CS);
  const Tensor& t = tensor_of<E>(handle);
  const Inside in = lanes_inside(t, c.lane, count);
  const E* row = reinterpret_cast<const E*>(t.data) + in.offset;
  if constexpr (std::is_same_v<Active, AllLanes>) {
    if (checking()) check_load(handle, c.lane, in.offset, in.first, in.last);
    if (in.last - in.first == count && t.stride[0] == 1) {
      std::memcpy(result.lane + first, row, static_cast<std::size_t>(count) * sizeof(E));
      return result;
    }
  }
  const E pad = from_pad<E>(t.pad);
  int padded = 0;
  for (int i = 0; i < count; ++i) {
    if (!active(first + i)) continue;
    const bool inside = i >= in.first && i < in.last;
    if constexpr (checking() && !std::is_same_v<Active, AllLanes>) {
      if (inside) check_load(handle, c.lane, in.offset, i, i + 1);
    }
    padded += inside ? 0 : 1;
    result.lane[first + i] = inside ? row[i * t.stride[0]] : pad;
  }
  machine.outcome->padded[handle] += padded;
  return result;
}

// Elements at c become lanes first to first + count - 1 of `value`.
template <class V>
void store(const int5& c, int handle, const V& value, int switches, int first, int count) {
  using E = typename V::Element;
  refuse_switches(switches, SW_L0CS);
  const Tensor& t = tensor_of<E>(handle);
  const Inside in = lanes_inside(t, c.lane, count);
  check_store(handle, c.lane, in.offset, in.first, in.last, false);
  E* row = reinterpret_cast<E*>(t.data) + in.offset;
  if (in.last - in.first == count && t.stride[0] == 1) {
    std::memcpy(row, value.lane + first, static_cast<std::size_t>(count) * sizeof(E));
    return;
  }
  machine.outcome->dropped[handle] += count - (in.last - in.first);
  for (int i = in.first; i < in.last; ++i) row[i * t.stride[0]] = value.lane[first + i];
}

// What gen_addr returns: C lets void* be any pointer.
struct Address {
  void* pointer;
  template <class T>
  operator T*() const {
    return static_cast<T*>(pointer);
  }
};

// The element that an address from gen_addr points to, checked.
template <class E>
E* global_element(const void* pointer, bool is_store) {
  const char* verb = is_store ? "stores" : "loads";
  if (pointer == outside_page) {
    const Tensor& t = machine.tensors[machine.outside.tensor];
    fail("It %s through an address of %s at %s, which is outside: the sizes of the tensor are %s.", verb, t.name,
         coords_text(t, machine.outside.coords).c_str(), sizes_text(t).c_str());
  }
  if constexpr (checking()) {
    const auto found = machine.places.find(pointer);
    if (found == machine.places.end()) fail("It %s through an address that gen_addr has not made.", verb);
    const Place& p = found->second;
    const Tensor& t = tensor_of<E>(p.tensor);
    const std::int64_t offset = (static_cast<const char*>(pointer) - t.data) / static_cast<int>(sizeof(E));
    if (is_store) {
      check_store(p.tensor, p.coords, offset, 0, 1, false);
    } else {
      check_load(p.tensor, p.coords, offset, 0, 1);
    }
  }
  return static_cast<E*>(const_cast<void*>(pointer));
}

}  // namespace gaudi3_rt::tpc

inline gaudi3_rt::tpc::Address gen_addr(const int5& c, tensor handle, int switches = 0, const void* income = nullptr,
                                        bool predicate = true, bool polarity = false) {
  using namespace gaudi3_rt::tpc;
  if (predicate == polarity) return {const_cast<void*>(income)};
  refuse_switches(switches, 0);
  const Tensor& t = tensor_at(handle);
  const Inside in = lanes_inside(t, c.lane, 1);
  Place place = {handle, {c.lane[0], c.lane[1], c.lane[2], c.lane[3], c.lane[4]}};
  if (in.first == in.last) {
    machine.outside = place;
    std::memset(outside_page, 0xff, sizeof outside_page);
    return {outside_page};
  }
  void* pointer = t.data + in.offset * bytes_of(t.element);
  if (checking()) machine.places[pointer] = place;
  return {pointer};
}
inline gaudi3_rt::tpc::Address a_gen_addr_i(const int5& c, tensor handle) { return gen_addr(c, handle); }

// T: the name in the intrinsic; V, E: its vector and scalar; P: the vector predicate.
#define G3RT_LOADS_AND_STORES(T, V, E, P)                                                                              \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_b(const int5& c, tensor t, int switches = 0,                                        \
                                     const V& income = gaudi3_rt::tpc::unset<V>(), bool predicate = true,              \
                                     bool polarity = false) {                                                          \
    if (predicate == polarity) return income;                                                                          \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, V::kLanes, gaudi3_rt::tpc::AllLanes());                     \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_vb(const int5& c, tensor t, int switches, const V& income, const P& predicate,      \
                                      bool polarity = false) {                                                         \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, V::kLanes,                                                  \
                                gaudi3_rt::tpc::SomeLanes<V::kLanes>{predicate, polarity});                            \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_low_b(const int5& c, tensor t, int switches = 0,                                    \
                                         const V& income = gaudi3_rt::tpc::unset<V>(), bool predicate = true,          \
                                         bool polarity = false) {                                                      \
    if (predicate == polarity) return income;                                                                          \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, V::kLanes / 2, gaudi3_rt::tpc::AllLanes());                 \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_low_vb(const int5& c, tensor t, int switches, const V& income, const P& predicate,  \
                                          bool polarity = false) {                                                     \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, V::kLanes / 2,                                              \
                                gaudi3_rt::tpc::SomeLanes<V::kLanes>{predicate, polarity});                            \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_high_b(const int5& c, tensor t, int switches = 0,                                   \
                                          const V& income = gaudi3_rt::tpc::unset<V>(), bool predicate = true,         \
                                          bool polarity = false) {                                                     \
    if (predicate == polarity) return income;                                                                          \
    return gaudi3_rt::tpc::load(c, t, switches, income, V::kLanes / 2, V::kLanes / 2, gaudi3_rt::tpc::AllLanes());     \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_high_vb(const int5& c, tensor t, int switches, const V& income, const P& predicate, \
                                           bool polarity = false) {                                                    \
    return gaudi3_rt::tpc::load(c, t, switches, income, V::kLanes / 2, V::kLanes / 2,                                  \
                                gaudi3_rt::tpc::SomeLanes<V::kLanes>{predicate, polarity});                            \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_partial_b(const int5& c, tensor t, std::int8_t size, std::int8_t offset,            \
                                             int switches = 0, const V& income = gaudi3_rt::tpc::unset<V>(),           \
                                             bool predicate = true, bool polarity = false) {                           \
    const int count = gaudi3_rt::tpc::partial_lanes(size, offset, V::kLanes);                                          \
    if (predicate == polarity) return income;                                                                          \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, count, gaudi3_rt::tpc::AllLanes());                         \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_tnsr_partial_vb(const int5& c, tensor t, std::int8_t size, std::int8_t offset,           \
                                              int switches, const V& income, const P& predicate,                       \
                                              bool polarity = false) {                                                 \
    const int count = gaudi3_rt::tpc::partial_lanes(size, offset, V::kLanes);                                          \
    return gaudi3_rt::tpc::load(c, t, switches, income, 0, count,                                                      \
                                gaudi3_rt::tpc::SomeLanes<V::kLanes>{predicate, polarity});                            \
  }                                                                                                                    \
  G3RT_INTRINSIC void v_##T##_st_tnsr(const int5& c, tensor t, const V& value, int switches = 0,                       \
                                      bool predicate = true, bool polarity = false) {                                  \
    if (predicate != polarity) gaudi3_rt::tpc::store(c, t, value, switches, 0, V::kLanes);                             \
  }                                                                                                                    \
  G3RT_INTRINSIC void v_##T##_st_tnsr_low(const int5& c, tensor t, const V& value, int switches = 0,                   \
                                          bool predicate = true, bool polarity = false) {                              \
    if (predicate != polarity) gaudi3_rt::tpc::store(c, t, value, switches, 0, V::kLanes / 2);                         \
  }                                                                                                                    \
  G3RT_INTRINSIC void v_##T##_st_tnsr_high(const int5& c, tensor t, const V& value, int switches = 0,                  \
                                           bool predicate = true, bool polarity = false) {                             \
    if (predicate != polarity) gaudi3_rt::tpc::store(c, t, value, switches, V::kLanes / 2, V::kLanes / 2);             \
  }                                                                                                                    \
  G3RT_INTRINSIC void v_##T##_st_tnsr_partial(const int5& c, tensor t, const V& value, std::int8_t size,               \
                                              std::int8_t offset, int switches = 0, bool predicate = true,             \
                                              bool polarity = false) {                                                 \
    const int count = gaudi3_rt::tpc::partial_lanes(size, offset, V::kLanes);                                          \
    if (predicate != polarity) gaudi3_rt::tpc::store(c, t, value, switches, 0, count);                                 \
  }                                                                                                                    \
  G3RT_INTRINSIC void s_##T##_st_tnsr_s(const int5& c, tensor t, E value, int switches = 0, bool predicate = true,     \
                                        bool polarity = false) {                                                       \
    if (predicate != polarity) gaudi3_rt::tpc::store(c, t, gaudi3_rt::tpc::Vector<E, 1>(value), switches, 0, 1);       \
  }                                                                                                                    \
  G3RT_INTRINSIC E s_##T##_ld_g(const void* address, int switches = 0, E income = E(0), bool predicate = true,         \
                                bool polarity = false) {                                                               \
    if (predicate == polarity) return income;                                                                          \
    gaudi3_rt::tpc::refuse_switches(switches, SW_L0CS);                                                                \
    return *gaudi3_rt::tpc::global_element<E>(address, false);                                                         \
  }                                                                                                                    \
  G3RT_INTRINSIC void s_##T##_st_g(void* address, E value, int switches = 0, bool predicate = true,                    \
                                   bool polarity = false) {                                                            \
    if (predicate == polarity) return;                                                                                 \
    gaudi3_rt::tpc::refuse_switches(switches, SW_L0CS);                                                                \
    *gaudi3_rt::tpc::global_element<E>(address, true) = value;                                                         \
  }                                                                                                                    \
  /* One element, in all lanes. */                                                                                     \
  G3RT_INTRINSIC V v_##T##_ld_g(const void* address, int switches = 0, const V& income = gaudi3_rt::tpc::unset<V>(),   \
                                bool predicate = true, bool polarity = false) {                                        \
    if (predicate == polarity) return income;                                                                          \
    gaudi3_rt::tpc::refuse_switches(switches, SW_L0CS);                                                                \
    const E element = *gaudi3_rt::tpc::global_element<E>(address, false);                                              \
    V result;                                                                                                          \
    std::fill(result.lane, result.lane + V::kLanes, element);                                                          \
    return result;                                                                                                     \
  }                                                                                                                    \
  G3RT_INTRINSIC V v_##T##_ld_g_vb(const void* address, int switches, const V& income, const P& predicate,             \
                                   bool polarity = false) {                                                            \
    V result = v_##T##_ld_g(address, switches);                                                                        \
    for (int i = 0; i < V::kLanes; ++i) {                                                                              \
      if ((predicate.lane[i] != 0) == polarity) result.lane[i] = income.lane[i];                                       \
    }                                                                                                                  \
    return result;                                                                                                     \
  }
G3RT_LOADS_AND_STORES(f32, float64, float, bool64)
G3RT_LOADS_AND_STORES(bf16, bfloat128, bf16, bool128)
G3RT_LOADS_AND_STORES(f16, half128, half, bool128)
G3RT_LOADS_AND_STORES(i32, int64, std::int32_t, bool64)
G3RT_LOADS_AND_STORES(u32, uint64, std::uint32_t, bool64)
G3RT_LOADS_AND_STORES(i16, short128, std::int16_t, bool128)
G3RT_LOADS_AND_STORES(u16, ushort128, std::uint16_t, bool128)
G3RT_LOADS_AND_STORES(i8, char256, std::int8_t, bool256)
G3RT_LOADS_AND_STORES(u8, uchar256, std::uint8_t, bool256)
#undef G3RT_LOADS_AND_STORES
