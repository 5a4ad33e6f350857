// Comparisons and what follows from them: v_<T>_cmp_<condition>_b, v_<R>_sel_<condition>_<T>_b, v_<R>_sel2_..., max,
// min, abs; the same on scalars. A comparison with NaN is false, except neq. Where it would matter whether comparisons
// take denormal numbers for zero, which is not known, the checking mode stops; else they do.
#pragma once
#include "arithmetic.h"

namespace gaudi3_rt::tpc {

// What a comparison sees of a lane, if it takes denormal numbers for zero or not.
template <class E>
inline auto compared(E x, bool flushes) {
  if constexpr (kIsFloat<E>) {
    return static_cast<float>(flushes ? flush(x) : x);
  } else {
    (void)flushes;
    return x;
  }
}

template <class C, class E>
inline bool compare(C condition, E x, E y) {
  const bool r = condition(compared(x, true), compared(y, true));
  if (kIsFloat<E> && checking() && r != condition(compared(x, false), compared(y, false))) {
    fail("This comparison of %g and %g depends on whether denormal numbers are zero, which is not known.",
         static_cast<double>(x), static_cast<double>(y));
  }
  return r;
}

// The conditions by the names they have in intrinsics. `mask` is SW_MASK_EQ_ZERO of eq: no bit is set in both.
struct eq {
  template <class E>
  bool operator()(E x, E y) const {
    return x == y;
  }
};
struct neq {
  template <class E>
  bool operator()(E x, E y) const {
    return x != y;
  }
};
struct less {
  template <class E>
  bool operator()(E x, E y) const {
    return x < y;
  }
};
struct leq {
  template <class E>
  bool operator()(E x, E y) const {
    return x <= y;
  }
};
struct grt {
  template <class E>
  bool operator()(E x, E y) const {
    return x > y;
  }
};
struct geq {
  template <class E>
  bool operator()(E x, E y) const {
    return x >= y;
  }
};

template <class E>
inline bool disjoint(E x, E y) {
  using B = BitsOf<E>;
  return (std::bit_cast<B>(x) & std::bit_cast<B>(y)) == 0;
}

template <class C, class E, int N>
inline Predicate<N> compare_lanes(const Vector<E, N>& a, const Vector<E, N>& b, int switches) {
  allow(switches, std::is_same_v<C, eq> ? SW_MASK_EQ_ZERO : 0);
  Predicate<N> r;
  if (std::is_same_v<C, eq> && (switches & SW_MASK_EQ_ZERO) != 0) {
    for (int i = 0; i < N; ++i) r.lane[i] = disjoint(a.lane[i], b.lane[i]) ? 1 : 0;
  } else {
    for (int i = 0; i < N; ++i) r.lane[i] = compare(C{}, a.lane[i], b.lane[i]) ? 1 : 0;
  }
  return r;
}

// c where the condition holds of a and b, else d: bits are moved, never changed.
template <class C, class E, class R, int N>
inline Vector<R, N> select(const Vector<E, N>& a, const Vector<E, N>& b, const Vector<R, N>& c, const Vector<R, N>& d,
                           int switches) {
  allow(switches, std::is_same_v<C, eq> ? SW_MASK_EQ_ZERO : 0);
  Vector<R, N> r;
  if (std::is_same_v<C, eq> && (switches & SW_MASK_EQ_ZERO) != 0) {
    for (int i = 0; i < N; ++i) r.lane[i] = disjoint(a.lane[i], b.lane[i]) ? c.lane[i] : d.lane[i];
  } else {
    for (int i = 0; i < N; ++i) {
      const R x = c.lane[i];
      const R y = d.lane[i];
      r.lane[i] = compare(C{}, a.lane[i], b.lane[i]) ? x : y;
    }
  }
  return r;
}

// sel2 returns the selected of c and d, and the operand of the comparison that won: of a and b.
template <class C, class E, class R, int N>
inline Pair<Vector<R, N>, Vector<E, N>> select2(const Vector<E, N>& a, const Vector<E, N>& b, const Vector<R, N>& c,
                                                const Vector<R, N>& d, int switches) {
  return {select<C>(a, b, c, d, switches), select<C>(a, b, a, b, switches)};
}

// max is a >= b ? a : b and min a <= b ? a : b, so one NaN gives b. That is what memory's read-modify-write does; of
// the vector unit it is not known, and in checking mode any NaN gives NaN. With SW_SUP_NAN a single NaN loses.
template <class C, class E>
inline E extremum(E x, E y, int switches) {
  if constexpr (kIsFloat<E>) {
    const bool x_nan = !(static_cast<float>(x) == static_cast<float>(x));
    const bool y_nan = !(static_cast<float>(y) == static_cast<float>(y));
    if ((switches & SW_SUP_NAN) != 0) {
      if (x_nan) return y;
      if (y_nan) return x;
    } else if (checking() && (x_nan || y_nan)) {
      return narrow<E>(from_bits(kCanonicalNan));
    }
  }
  return compare(C{}, x, y) ? x : y;
}
template <class C, class V>
inline V extrema(const V& a, const V& b, int switches) {
  using E = typename V::Element;
  allow(switches, kIsFloat<E> ? SW_SUP_NAN : 0);
  if ((switches & SW_SUP_NAN) != 0) return map<V>([](E x, E y) { return extremum<C>(x, y, SW_SUP_NAN); }, a, b);
  return map<V>([](E x, E y) { return extremum<C>(x, y, 0); }, a, b);
}

// The sign bit alone; of integers the most negative becomes the largest, or stays with SW_NO_SAT.
template <class E>
inline E absolute(E x, int switches) {
  if constexpr (kIsFloat<E>) {
    using B = BitsOf<E>;
    return std::bit_cast<E>(static_cast<B>(std::bit_cast<B>(x) & static_cast<B>(static_cast<B>(~B{0}) >> 1)));
  } else {
    const E y = x < 0 ? negate(x) : x;
    return y < 0 && (switches & SW_NO_SAT) == 0 ? std::numeric_limits<E>::max() : y;
  }
}
template <class V>
inline V abs(const V& a, int switches) {
  using E = typename V::Element;
  allow(switches, kIsFloat<E> ? 0 : SW_NO_SAT);
  return map<V>([switches](E x) { return absolute(x, switches); }, a);
}

}  // namespace gaudi3_rt::tpc

#define G3RT_CONDITIONS(Y, ...) \
  Y(eq, __VA_ARGS__)            \
  Y(neq, __VA_ARGS__) Y(less, __VA_ARGS__) Y(leq, __VA_ARGS__) Y(grt, __VA_ARGS__) Y(geq, __VA_ARGS__)

#define G3RT_CMP(C, T, V, E, M)                                                               \
  G3RT_FORMS_2(v_##T##_cmp_##C, M, M, V, V, compare_lanes<gaudi3_rt::tpc::C>(a, b, switches)) \
  G3RT_SCALAR_FORMS(s_##T##_cmp_##C, bool, (E a, E b),                                        \
                    (compare_lanes<gaudi3_rt::tpc::C>(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0] != 0))
#define X(T, V, E, M)                                                                          \
  G3RT_CONDITIONS(G3RT_CMP, T, V, E, M)                                                        \
  G3RT_FORMS_2(v_##T##_max, V, M, V, V, extrema<gaudi3_rt::tpc::geq>(a, b, switches))          \
  G3RT_FORMS_2(v_##T##_min, V, M, V, V, extrema<gaudi3_rt::tpc::leq>(a, b, switches))          \
  G3RT_SCALAR_FORMS(s_##T##_max, E, (E a, E b), extremum<gaudi3_rt::tpc::geq>(a, b, switches)) \
  G3RT_SCALAR_FORMS(s_##T##_min, E, (E a, E b), extremum<gaudi3_rt::tpc::leq>(a, b, switches))
G3RT_NUMBERS(X)
#undef X
#undef G3RT_CMP

#define X(T, V, E, M)                                                  \
  G3RT_FORMS_1(v_##T##_abs, V, M, V, gaudi3_rt::tpc::abs(a, switches)) \
  G3RT_SCALAR_FORMS(s_##T##_abs, E, (E a), absolute(a, switches))
G3RT_FLOATS(X)
G3RT_SIGNED(X)
#undef X

// R is what is selected, T what is compared: all pairs of elements of one width.
#define G3RT_SEL(C, R, RV, T, V, M) \
  G3RT_FORMS_4(v_##R##_sel_##C##_##T, RV, M, V, V, RV, RV, select<gaudi3_rt::tpc::C>(a, b, c, d, switches))
#define G3RT_SEL2(C, R, RV, T, V, M) \
  G3RT_FORMS_4(v_##R##_sel2_##C##_##T, RV##_##V, M, V, V, RV, RV, select2<gaudi3_rt::tpc::C>(a, b, c, d, switches))
#define X(R, RV, T, V, M)                   \
  G3RT_CONDITIONS(G3RT_SEL, R, RV, T, V, M) \
  G3RT_SEL2(less, R, RV, T, V, M)           \
  G3RT_SEL2(leq, R, RV, T, V, M) G3RT_SEL2(grt, R, RV, T, V, M) G3RT_SEL2(geq, R, RV, T, V, M)
#define G3RT_SEL_32(R, RV) X(R, RV, f32, float64, bool64) X(R, RV, i32, int64, bool64) X(R, RV, u32, uint64, bool64)
#define G3RT_SEL_16(R, RV)           \
  X(R, RV, bf16, bfloat128, bool128) \
  X(R, RV, f16, half128, bool128) X(R, RV, i16, short128, bool128) X(R, RV, u16, ushort128, bool128)
#define G3RT_SEL_8(R, RV) X(R, RV, i8, char256, bool256) X(R, RV, u8, uchar256, bool256)
G3RT_SEL_32(f32, float64)
G3RT_SEL_32(i32, int64)
G3RT_SEL_32(u32, uint64)
G3RT_SEL_16(bf16, bfloat128)
G3RT_SEL_16(f16, half128)
G3RT_SEL_16(i16, short128)
G3RT_SEL_16(u16, ushort128)
G3RT_SEL_8(i8, char256)
G3RT_SEL_8(u8, uchar256)
#undef G3RT_SEL_8
#undef G3RT_SEL_16
#undef G3RT_SEL_32
#undef X
#undef G3RT_SEL2
#undef G3RT_SEL
#undef G3RT_CONDITIONS
