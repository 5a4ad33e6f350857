// How an instruction is made of what it computes: its switches, its predicate, and what a lane keeps that it skips.
#pragma once
#include "switches.h"
#include "types.h"

namespace gaudi3_rt::tpc {

// r.lane[i] = f(a.lane[i], ...): the loop that everything is.
template <class R, class F, class... V>
inline R map(F f, const V&... v) {
  R r;
  for (int i = 0; i < R::kLanes; ++i) r.lane[i] = f(v.lane[i]...);
  return r;
}

// Lanes of `a` where the predicate is not the polarity, else of `b`.
template <class V, int N>
  requires(V::kLanes == N)
inline V blend(const V& a, const V& b, const Predicate<N>& predicate, bool polarity) {
  V r;
  const std::uint8_t p = polarity ? 1 : 0;
  for (int i = 0; i < N; ++i) r.lane[i] = predicate.lane[i] != p ? a.lane[i] : b.lane[i];
  return r;
}
template <class A, class B>
inline Pair<A, B> blend(const Pair<A, B>& a, const Pair<A, B>& b, const Predicate<A::kLanes>& predicate,
                        bool polarity) {
  return {blend(a.v1, b.v1, predicate, polarity), blend(a.v2, b.v2, predicate, polarity)};
}
template <class A>
inline Quad<A> blend(const Quad<A>& a, const Quad<A>& b, const Predicate<A::kLanes>& predicate, bool polarity) {
  return {blend(a.v1, b.v1, predicate, polarity), blend(a.v2, b.v2, predicate, polarity),
          blend(a.v3, b.v3, predicate, polarity), blend(a.v4, b.v4, predicate, polarity)};
}

// Two vectors of wide lanes, written by an instruction that counts narrow ones: v1 are the even lanes, v2 the odd ones.
template <class A>
inline Pair<A, A> blend(const Pair<A, A>& a, const Pair<A, A>& b, const Predicate<2 * A::kLanes>& predicate,
                        bool polarity) {
  Predicate<A::kLanes> even;
  Predicate<A::kLanes> odd;
  for (int i = 0; i < A::kLanes; ++i) {
    even.lane[i] = predicate.lane[2 * i];
    odd.lane[i] = predicate.lane[2 * i + 1];
  }
  return {blend(a.v1, b.v1, even, polarity), blend(a.v2, b.v2, odd, polarity)};
}
template <class A>
inline Quad<A> blend(const Quad<A>& a, const Quad<A>& b, const Predicate<4 * A::kLanes>& predicate, bool polarity) {
  Predicate<A::kLanes> part[4];
  for (int i = 0; i < 4 * A::kLanes; ++i) part[i % 4].lane[i / 4] = predicate.lane[i];
  return {blend(a.v1, b.v1, part[0], polarity), blend(a.v2, b.v2, part[1], polarity),
          blend(a.v3, b.v3, part[2], polarity), blend(a.v4, b.v4, part[3], polarity)};
}

// A switch that an instruction does not have, or whose meaning is not known, is an error in checking mode.
inline void allow(int switches, int allowed) {
  if (checking() && (switches & ~allowed) != 0) {
    fail("The switches 0x%x are not defined for this instruction; it has 0x%x.", static_cast<unsigned>(switches),
         static_cast<unsigned>(allowed));
  }
}

}  // namespace gaudi3_rt::tpc

// The forms of an instruction `name` that computes `expression` of its arguments (a, b, ...) and `switches`:
//   name_b(a, b, switches = 0)                                      always
//   name_b(a, b, switches, income, predicate = 1, polarity = 0)     if predicate != polarity, else income
//   name_vb(a, b, switches, income, predicate, polarity = 0)        the same lane by lane; M is the predicate's type
// A kernel that leaves the income out leaves the predicate out, too, so an income is never made up here.
#define G3RT_FORMS(name, R, M, PARAMETERS, ARGUMENTS, expression)                                       \
  G3RT_INTRINSIC R name##_b(G3RT_LIST PARAMETERS, [[maybe_unused]] int switches = 0) {                  \
    using namespace gaudi3_rt::tpc;                                                                     \
    return expression;                                                                                  \
  }                                                                                                     \
  G3RT_INTRINSIC R name##_b(G3RT_LIST PARAMETERS, int switches, const R& income, bool predicate = true, \
                            bool polarity = false) {                                                    \
    if (predicate == polarity) return income;                                                           \
    return name##_b(G3RT_LIST ARGUMENTS, switches);                                                     \
  }                                                                                                     \
  G3RT_INTRINSIC R name##_vb(G3RT_LIST PARAMETERS, int switches, const R& income, const M& predicate,   \
                             bool polarity = false) {                                                   \
    return gaudi3_rt::tpc::blend(name##_b(G3RT_LIST ARGUMENTS, switches), income, predicate, polarity); \
  }
#define G3RT_LIST(...) __VA_ARGS__
#define G3RT_FORMS_1(name, R, M, A, expression) G3RT_FORMS(name, R, M, (const A& a), (a), expression)
#define G3RT_FORMS_2(name, R, M, A, B, expression) G3RT_FORMS(name, R, M, (const A& a, const B& b), (a, b), expression)
#define G3RT_FORMS_3(name, R, M, A, B, C, expression) \
  G3RT_FORMS(name, R, M, (const A& a, const B& b, const C& c), (a, b, c), expression)
#define G3RT_FORMS_4(name, R, M, A, B, C, D, expression) \
  G3RT_FORMS(name, R, M, (const A& a, const B& b, const C& c, const D& d), (a, b, c, d), expression)

// The form of an instruction whose income is one of its arguments, the accumulator `c`.
#define G3RT_ACCUMULATES(name, R, M, A, B, expression)                                             \
  G3RT_INTRINSIC R name##_b(const A& a, const B& b, const R& c, [[maybe_unused]] int switches = 0, \
                            bool predicate = true, bool polarity = false) {                        \
    using namespace gaudi3_rt::tpc;                                                                \
    if (predicate == polarity) return c;                                                           \
    return expression;                                                                             \
  }                                                                                                \
  G3RT_INTRINSIC R name##_vb(const A& a, const B& b, const R& c, int switches, const M& predicate, \
                             bool polarity = false) {                                              \
    return gaudi3_rt::tpc::blend(name##_b(a, b, c, switches), c, predicate, polarity);             \
  }

// s_name(a, b, switches = 0, income = 0, predicate = 1, polarity = 0) on scalars.
#define G3RT_SCALAR_FORMS(name, R, PARAMETERS, expression)                                        \
  G3RT_INTRINSIC R name(G3RT_LIST PARAMETERS, [[maybe_unused]] int switches = 0, R income = R(0), \
                        bool predicate = true, bool polarity = false) {                           \
    using namespace gaudi3_rt::tpc;                                                               \
    if (predicate == polarity) return income;                                                     \
    return expression;                                                                            \
  }

// X(T, VECTOR, SCALAR, MASK, WIDE) for every type: its infix, its vector, its element, its predicate.
#define G3RT_FLOATS(X) X(f32, float64, float, bool64) X(bf16, bfloat128, bf16, bool128) X(f16, half128, half, bool128)
#define G3RT_SIGNED(X) X(i32, int64, int32_t, bool64) X(i16, short128, int16_t, bool128) X(i8, char256, int8_t, bool256)
#define G3RT_UNSIGNED(X) \
  X(u32, uint64, uint32_t, bool64) X(u16, ushort128, uint16_t, bool128) X(u8, uchar256, uint8_t, bool256)
#define G3RT_INTEGERS(X) G3RT_SIGNED(X) G3RT_UNSIGNED(X)
#define G3RT_NUMBERS(X) G3RT_FLOATS(X) G3RT_INTEGERS(X)
