// Read-modify-write stores: v_T_st_tnsr_rmw, v_T_st_tnsr_partial_rmw, s_T_st_tnsr_s_rmw.
#pragma once
#include "arithmetic.h"
#include "memory.h"

namespace gaudi3_rt::tpc {

// The word that MkRMW makes. Gaudi 1 has the bit for "do it atomically" two places lower, in the operation's third bit.
struct RmwWord {
  int element, operation;
  bool atomic, element_of_tensor;
  explicit RmwWord(int word)
#if defined(GAUDI3_RT_ARCH) && GAUDI3_RT_ARCH == 1
      : element(word & 15),
        operation((word >> 4) & 3),
        atomic(((word >> 6) & 1) != 0),
#else
      : element(word & 15),
        operation((word >> 4) & 7),
        atomic(((word >> 8) & 1) != 0),
#endif
        element_of_tensor(((word >> 7) & 1) != 0) {
  }
};

// Held by one engine at a time, since other members may be adding to the same element.
class RmwLock {
 public:
  RmwLock() {
    while (__atomic_exchange_n(machine.run->lock, 1, __ATOMIC_ACQUIRE) != 0) {
    }
  }
  ~RmwLock() { __atomic_store_n(machine.run->lock, 0, __ATOMIC_RELEASE); }
  RmwLock(const RmwLock&) = delete;
  RmwLock& operator=(const RmwLock&) = delete;
};

constexpr Element kRmwElements[] = {Element::i8,  Element::i16,  Element::i32, Element::u8, Element::u16,
                                    Element::u32, Element::bf16, Element::f32, Element::f16};

// How the operations are computed on vectors of one type; integers saturate.
template <class V, class Add, class Sub, class Min, class Max>
void read_modify_write(const int5& c, int handle, const V& value, int rmw, int switches, int count, Add add, Sub sub,
                       Min min, Max max) {
  using E = typename V::Element;
  refuse_switches(switches, SW_L0CS);
  const Tensor& t = tensor_of<E>(handle);
  const RmwWord word(rmw);
  if (!word.atomic) fail("A read-modify-write word without the bit that makes it atomic (0x%x) is not emulated.", rmw);
  if (!word.element_of_tensor) {
    if (word.element >= 9) fail("A read-modify-write word of data type %d is not emulated.", word.element);
    if (kRmwElements[word.element] != element_of<E>()) {
      fail("The word of a read-modify-write store says %s, but the vector is %s.", name_of(kRmwElements[word.element]),
           name_of(element_of<E>()));
    }
  }
  if (t.element != element_of<E>()) {
    fail("A read-modify-write store of %s to %s, whose elements are %s.", name_of(element_of<E>()), t.name,
         name_of(t.element));
  }
  if (word.operation == 1 && checking()) {
    fail("Which of memory and vector a read-modify-write store subtracts is not documented; add the negated vector.");
  }
  if (kIsFloat<E> && (word.operation == 0 || word.operation == 1 || word.operation == 4)) {
    machine.outcome->order_matters = 1;
  }
  const Inside in = lanes_inside(t, c.lane, count);
  check_store(handle, c.lane, in.offset, in.first, in.last, true);
  machine.outcome->dropped[handle] += count - (in.last - in.first);
  E* row = reinterpret_cast<E*>(t.data) + in.offset;
  const RmwLock lock;
  V memory = value;
  for (int i = in.first; i < in.last; ++i) memory.lane[i] = row[i * t.stride[0]];
  switch (word.operation) {
    case 0:
      memory = add(memory, value);
      break;
    case 1:
      memory = sub(memory, value);
      break;
    case 2:
      memory = min(memory, value);
      break;
    case 3:
      memory = max(memory, value);
      break;
    case 4:
      memory = max(add(memory, value), V(0));
      break;
    default:
      fail("A read-modify-write word has no operation %d.", word.operation);
  }
  for (int i = in.first; i < in.last; ++i) row[i * t.stride[0]] = memory.lane[i];
}

}  // namespace gaudi3_rt::tpc

#define G3RT_RMW(T, V, E, SATURATE)                                                                                   \
  G3RT_INTRINSIC void g3rt_rmw_##T(const int5& c, tensor t, const V& value, int rmw, int switches, int count) {       \
    gaudi3_rt::tpc::read_modify_write(                                                                                \
        c, t, value, rmw, switches, count, [](const V& a, const V& b) { return v_##T##_add_b(a, b, SATURATE); },      \
        [](const V& a, const V& b) { return v_##T##_sub_b(a, b, SATURATE); },                                         \
        [](const V& a, const V& b) { return v_##T##_min_b(a, b); },                                                   \
        [](const V& a, const V& b) { return v_##T##_max_b(a, b); });                                                  \
  }                                                                                                                   \
  G3RT_INTRINSIC void v_##T##_st_tnsr_rmw(const int5& c, tensor t, const V& value, int rmw, int switches = 0,         \
                                          bool predicate = true, bool polarity = false) {                             \
    if (predicate != polarity) g3rt_rmw_##T(c, t, value, rmw, switches, V::kLanes);                                   \
  }                                                                                                                   \
  G3RT_INTRINSIC void v_##T##_st_tnsr_partial_rmw(const int5& c, tensor t, const V& value, int rmw, std::int8_t size, \
                                                  std::int8_t offset, int switches = 0, bool predicate = true,        \
                                                  bool polarity = false) {                                            \
    const int count = gaudi3_rt::tpc::partial_lanes(size, offset, V::kLanes);                                         \
    if (predicate != polarity) g3rt_rmw_##T(c, t, value, rmw, switches, count);                                       \
  }                                                                                                                   \
  G3RT_INTRINSIC void s_##T##_st_tnsr_s_rmw(const int5& c, tensor t, E value, int rmw, int switches = 0,              \
                                            bool predicate = true, bool polarity = false) {                           \
    if (predicate != polarity) g3rt_rmw_##T(c, t, V(value), rmw, switches, 1);                                        \
  }
G3RT_RMW(f32, float64, float, 0)
G3RT_RMW(bf16, bfloat128, bf16, 0)
G3RT_RMW(f16, half128, half, 0)
G3RT_RMW(i32, int64, std::int32_t, SW_SAT)
G3RT_RMW(u32, uint64, std::uint32_t, SW_SAT)
G3RT_RMW(i16, short128, std::int16_t, SW_SAT)
G3RT_RMW(u16, ushort128, std::uint16_t, SW_SAT)
G3RT_RMW(i8, char256, std::int8_t, SW_SAT)
G3RT_RMW(u8, uchar256, std::uint8_t, SW_SAT)
#undef G3RT_RMW
