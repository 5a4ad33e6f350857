// One number of all lanes, in every lane: v_<T>_reduce_add, mul, min, max, argmin, argmax and their _nolut_ spellings.
// A butterfly: dual groups change places twice, then groups, then lanes within a group at distance 1, 2, 4. So floats
// are added in the order of partners at 16, 32, 8, 1, 2, 4 lanes for f32, and likewise for narrower elements. The last
// three come from a table of the vendor's that is not public; this is the likely content.
#pragma once
#include "compare.h"
#include "move.h"

namespace gaudi3_rt::tpc {

template <class E>
struct Butterfly {
  // Two distances between dual groups, one between groups, and all within a group.
  static constexpr int kWithin = std::countr_zero(static_cast<unsigned>(kGroup<E>));
  static constexpr int kSteps = 3 + kWithin;
  static constexpr int distance(int step) {
    if (step == 0) return kDualGroup<E>;
    if (step == 1) return 2 * kDualGroup<E>;
    if (step == 2) return kGroup<E>;
    return 1 << (step - 3);
  }
};

template <class V, class F>
inline V reduce(V x, F f) {
  using B = Butterfly<typename V::Element>;
  for (int step = 0; step < B::kSteps; ++step) {
    V partner;
    for (int i = 0; i < V::kLanes; ++i) partner.lane[i] = x.lane[i ^ B::distance(step)];
    x = f(x, partner);
  }
  return x;
}

// The lane of the extremum and its value; of equal ones the lowest lane.
template <class C, class I, class V>
inline Pair<I, V> reduce_arg(const V& x) {
  int best = 0;
  for (int i = 1; i < V::kLanes; ++i) {
    if (compare(C{}, x.lane[i], x.lane[best])) best = i;
  }
  return {I(best), V(x.lane[best])};
}

}  // namespace gaudi3_rt::tpc

// Templates, so that a kernel may have a function of that name for itself, which then is taken.
#define G3RT_REDUCE(T, V, OP)                                                                        \
  template <int = 0>                                                                                 \
  V v_##T##_reduce_##OP(const V& x) {                                                                \
    return gaudi3_rt::tpc::reduce(x, [](const V& a, const V& b) { return v_##T##_##OP##_b(a, b); }); \
  }                                                                                                  \
  template <int = 0>                                                                                 \
  V v_##T##_reduce_nolut_##OP(const V& x) {                                                          \
    return v_##T##_reduce_##OP(x);                                                                   \
  }
G3RT_REDUCE(f32, float64, add)
G3RT_REDUCE(f32, float64, mul)
G3RT_REDUCE(f32, float64, min)
G3RT_REDUCE(f32, float64, max)
G3RT_REDUCE(bf16, bfloat128, add)
G3RT_REDUCE(bf16, bfloat128, min)
G3RT_REDUCE(bf16, bfloat128, max)
G3RT_REDUCE(i32, int64, add)
G3RT_REDUCE(i32, int64, min)
G3RT_REDUCE(i32, int64, max)
G3RT_REDUCE(u32, uint64, add)
G3RT_REDUCE(u32, uint64, min)
G3RT_REDUCE(u32, uint64, max)
G3RT_REDUCE(i16, short128, min)
G3RT_REDUCE(i16, short128, max)
G3RT_REDUCE(u16, ushort128, min)
G3RT_REDUCE(u16, ushort128, max)
G3RT_REDUCE(i8, char256, min)
G3RT_REDUCE(i8, char256, max)
G3RT_REDUCE(u8, uchar256, min)
G3RT_REDUCE(u8, uchar256, max)
#undef G3RT_REDUCE

#define G3RT_REDUCE_ARG(T, V)                                           \
  template <int = 0>                                                    \
  gaudi3_rt::tpc::Pair<uint64, V> v_##T##_reduce_argmin(const V& x) {   \
    return gaudi3_rt::tpc::reduce_arg<gaudi3_rt::tpc::less, uint64>(x); \
  }                                                                     \
  template <int = 0>                                                    \
  gaudi3_rt::tpc::Pair<uint64, V> v_##T##_reduce_argmax(const V& x) {   \
    return gaudi3_rt::tpc::reduce_arg<gaudi3_rt::tpc::grt, uint64>(x);  \
  }
G3RT_REDUCE_ARG(f32, float64)
G3RT_REDUCE_ARG(i32, int64)
#undef G3RT_REDUCE_ARG
