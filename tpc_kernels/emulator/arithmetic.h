// Addition, subtraction, products and their sums: v_<T>_add_b, sub, mul, mac, madd, mul_round, mac_acc32, mul_acc32,
// their x2 and zero-point forms, and the same on scalars (s_<T>_add, ...).
// Floats: denormals are zero on both sides, NaN is canonical, mac and madd round once. Integers wrap unless SW_SAT.
// Products and sums of a wider type lie as conversions lay them: v1 the even lanes, v2 the odd (of four: lanes mod 4).
#pragma once
#include "instruction.h"

namespace gaudi3_rt::tpc {

// The FMA rounding register: float32 follows it; what the 16-bit formats do is not known.
template <class E>
inline int fma_mode() {
  const int mode = fma_csr();
  if (mode != 0 && sizeof(E) != 4 && checking())
    fail("What 16-bit floats do in FMA rounding mode %d is not known.", mode);
  return sizeof(E) == 4 ? mode : 0;
}

template <class E, int N>
inline Vector<E, N> add(const Vector<E, N>& a, const Vector<E, N>& b, int switches) {
  using V = Vector<E, N>;
  if constexpr (kIsFloat<E>) {
    allow(switches, 0);
    const int mode = fma_mode<E>();
    if constexpr (sizeof(E) == 4) {
      if (mode != 0) return map<V>([mode](E x, E y) { return add(x, y, mode); }, a, b);
    }
  } else {
    allow(switches, SW_SAT);
    if ((switches & SW_SAT) != 0) {
      return map<V>([](E x, E y) { return saturate<E>(std::int64_t{x} + y); }, a, b);
    }
  }
  return map<V>([](E x, E y) { return add(x, y); }, a, b);
}

template <class E, int N>
inline Vector<E, N> sub(const Vector<E, N>& a, const Vector<E, N>& b, int switches) {
  using V = Vector<E, N>;
  if ((switches & SW_NEG) != 0) return map<V>([](E x) { return negate(x); }, sub(a, b, switches & ~SW_NEG));
  if constexpr (kIsFloat<E>) {
    return add(a, map<V>([](E y) { return negate(y); }, b), switches);
  } else {
    allow(switches, SW_SAT);
    if ((switches & SW_SAT) != 0) {
      return map<V>([](E x, E y) { return saturate<E>(std::int64_t{x} - y); }, a, b);
    }
    return map<V>([](E x, E y) { return sub(x, y); }, a, b);
  }
}

template <class E, int N>
inline Vector<E, N> mul(const Vector<E, N>& a, const Vector<E, N>& b, int switches) {
  using V = Vector<E, N>;
  allow(switches, 0);
  const int mode = fma_mode<E>();
  if constexpr (sizeof(E) == 4) {
    if (mode != 0) return map<V>([mode](E x, E y) { return mul(x, y, mode); }, a, b);
  }
  return map<V>([](E x, E y) { return mul(x, y); }, a, b);
}

// c + a * b, or c - a * b with SW_NEG.
template <class E, int N>
inline Vector<E, N> mac(const Vector<E, N>& a, const Vector<E, N>& b, const Vector<E, N>& c, int switches) {
  using V = Vector<E, N>;
  allow(switches, SW_NEG);
  const int mode = fma_mode<E>();
  const bool subtract = (switches & SW_NEG) != 0;
  if constexpr (sizeof(E) == 4) {
    if (mode != 0) {
      return map<V>([=](E x, E y, E z) { return fma(subtract ? negate(x) : x, y, z, mode); }, a, b, c);
    }
  }
  if (subtract) return map<V>([](E x, E y, E z) { return fma(negate(x), y, z); }, a, b, c);
  return map<V>([](E x, E y, E z) { return fma(x, y, z); }, a, b, c);
}

// --- products and sums of a wider type ---

// Lane i of v_(k+1) for each narrow lane j = parts * i + k.
template <class W, class F>
inline Pair<W, W> widen(F f, const Pair<W, W>&) {
  Pair<W, W> r;
  for (int i = 0; i < W::kLanes; ++i) {
    r.v1.lane[i] = f(2 * i, 0, i);
    r.v2.lane[i] = f(2 * i + 1, 1, i);
  }
  return r;
}
template <class W, class F>
inline Quad<W> widen(F f, const Quad<W>&) {
  Quad<W> r;
  for (int i = 0; i < W::kLanes; ++i) {
    r.v1.lane[i] = f(4 * i, 0, i);
    r.v2.lane[i] = f(4 * i + 1, 1, i);
    r.v3.lane[i] = f(4 * i + 2, 2, i);
    r.v4.lane[i] = f(4 * i + 3, 3, i);
  }
  return r;
}
template <class W>
inline auto lane_of(const Pair<W, W>& x, int part, int i) {
  return part == 0 ? x.v1.lane[i] : x.v2.lane[i];
}
template <class W>
inline auto lane_of(const Quad<W>& x, int part, int i) {
  return part == 0 ? x.v1.lane[i] : part == 1 ? x.v2.lane[i] : part == 2 ? x.v3.lane[i] : x.v4.lane[i];
}

// acc + sum of products, in the type of acc's lanes: integers wrap or saturate, floats round once for each product.
template <class R, class V>
inline R mac_wide(const V& a, const V& b, const R& acc, int switches) {
  allow(switches, kIsFloat<typename V::Element> ? SW_NEG : SW_NEG | SW_SAT);
  const bool subtract = (switches & SW_NEG) != 0;
  const bool saturates = (switches & SW_SAT) != 0;
  return widen(
      [&](int j, int part, int i) {
        using E = typename V::Element;
        const auto c = lane_of(acc, part, i);
        if constexpr (kIsFloat<E>) {
          const float x = static_cast<float>(flush(a.lane[j]));
          return fma(subtract ? negate(x) : x, static_cast<float>(flush(b.lane[j])), c);
        } else {
          using W = std::remove_const_t<decltype(c)>;
          const std::int64_t product = std::int64_t{a.lane[j]} * b.lane[j];
          const std::int64_t sum = c + (subtract ? -product : product);
          return saturates ? saturate<W>(sum) : static_cast<W>(sum);
        }
      },
      acc);
}

// The product of 32-bit integers: v1 the low words, v2 the high words.
template <class V>
inline Pair<V, V> mul_words(const V& a, const V& b, int switches) {
  allow(switches, 0);
  using E = typename V::Element;
  using Wide = std::conditional_t<std::is_signed_v<E>, std::int64_t, std::uint64_t>;
  Pair<V, V> r;
  for (int i = 0; i < V::kLanes; ++i) {
    const Wide p = static_cast<Wide>(a.lane[i]) * static_cast<Wide>(b.lane[i]);
    r.v1.lane[i] = static_cast<E>(p);
    r.v2.lane[i] = static_cast<E>(p >> 32);
  }
  return r;
}

// The high word, rounded half up. Which rounding the instruction has is not known.
template <class V>
inline V mul_round(const V& a, const V& b, int switches) {
  if (checking()) fail("What v_i32_mul_round_b and v_u32_mul_round_b compute is not known.");
  (void)switches;
  using E = typename V::Element;
  using Wide = std::conditional_t<std::is_signed_v<E>, std::int64_t, std::uint64_t>;
  return map<V>(
      [](E x, E y) {
        const Wide p = static_cast<Wide>(x) * static_cast<Wide>(y);
        return static_cast<E>((p >> 32) + ((p >> 31) & 1));
      },
      a, b);
}

// a - zp, as the zero-point forms see b; it wraps to the width of the element.
template <class V>
inline V less_zero_point(const V& b, const V& zp, int switches) {
  if (checking()) fail("The zero-point forms of mac are not known well enough to be checked.");
  const bool add_it = (switches & SW_NEG_ZP) != 0;
  return add_it ? b + zp : b - zp;
}

template <class V>
inline Pair<V, V> each(const Pair<V, V>& a, const V& b, const V& c, V (*f)(const V&, const V&, int), int switches) {
  return {f(a.v1, b, switches), f(a.v2, c, switches)};
}

}  // namespace gaudi3_rt::tpc

#define X(T, V, E, M)                                                                                      \
  G3RT_FORMS_2(v_##T##_add, V, M, V, V, add(a, b, switches))                                               \
  G3RT_FORMS_2(v_##T##_sub, V, M, V, V, sub(a, b, switches))                                               \
  G3RT_SCALAR_FORMS(s_##T##_add, E, (E a, E b), (add(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0])) \
  G3RT_SCALAR_FORMS(s_##T##_sub, E, (E a, E b), (sub(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0]))
G3RT_NUMBERS(X)
#undef X

#define X(T, V, E, M)                                                                                           \
  G3RT_FORMS_2(v_##T##_mul, V, M, V, V, mul(a, b, switches))                                                    \
  G3RT_ACCUMULATES(v_##T##_mac, V, M, V, V, mac(a, b, c, switches))                                             \
  G3RT_FORMS_3(v_##T##_madd, V, M, V, V, V, mac(a, b, c, switches))                                             \
  G3RT_SCALAR_FORMS(s_##T##_mul, E, (E a, E b), (mul(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0]))      \
  G3RT_INTRINSIC E s_##T##_mac(E a, E b, E c, int switches = 0, bool predicate = true, bool polarity = false) { \
    using V1 = gaudi3_rt::tpc::Vector<E, 1>;                                                                    \
    return predicate == polarity ? c : gaudi3_rt::tpc::mac(V1(a), V1(b), V1(c), switches).lane[0];              \
  }
G3RT_FLOATS(X)
#undef X

// v_<T>_mul_b of integers to twice or four times the width, and the sums of such products. Of v_i8_mac_b and others
// `c` is the accumulator.
#define G3RT_WIDE(T, V, M, R, ACC)                                            \
  G3RT_ACCUMULATES(v_##T##_mac##ACC, R, M, V, V, mac_wide(a, b, c, switches)) \
  G3RT_FORMS_3(v_##T##_madd##ACC, R, M, V, V, R, mac_wide(a, b, c, switches))
G3RT_WIDE(i16, short128, bool128, int128, )
G3RT_WIDE(u16, ushort128, bool128, uint128, )
G3RT_WIDE(u16, ushort128, bool128, int128, _acc32)
G3RT_WIDE(i8, char256, bool256, int256, )
G3RT_WIDE(u8, uchar256, bool256, uint256, )
G3RT_WIDE(u8, uchar256, bool256, int256, _acc32)
G3RT_WIDE(i8, char256, bool256, short256, _acc16)
G3RT_WIDE(u8, uchar256, bool256, ushort256, _acc16)
G3RT_WIDE(bf16, bfloat128, bool128, float128, _acc32)
G3RT_WIDE(f16, half128, bool128, float128, _acc32)
#undef G3RT_WIDE
G3RT_FORMS_2(v_i32_mul, int128, bool64, int64, int64, mul_words(a, b, switches))
G3RT_FORMS_2(v_u32_mul, uint128, bool64, uint64, uint64, mul_words(a, b, switches))
G3RT_FORMS_2(v_i16_mul, int128, bool128, short128, short128, mac_wide(a, b, int128{0, 0}, switches))
G3RT_FORMS_2(v_u16_mul, uint128, bool128, ushort128, ushort128, mac_wide(a, b, uint128{0, 0}, switches))
G3RT_FORMS_2(v_i8_mul, int256, bool256, char256, char256, mac_wide(a, b, int256{0, 0, 0, 0}, switches))
G3RT_FORMS_2(v_u8_mul, uint256, bool256, uchar256, uchar256, mac_wide(a, b, uint256{0, 0, 0, 0}, switches))
// The sign of a product that is zero needs a zero of its own sign to be added to.
G3RT_FORMS_2(v_bf16_mul_acc32, float128, bool128, bfloat128, bfloat128, mac_wide(a, b, float128{-0.F, -0.F}, switches))
G3RT_FORMS_2(v_f16_mul_acc32, float128, bool128, half128, half128, mac_wide(a, b, float128{-0.F, -0.F}, switches))
G3RT_FORMS_2(v_i32_mul_round, int64, bool64, int64, int64, mul_round(a, b, switches))
G3RT_FORMS_2(v_u32_mul_round, uint64, bool64, uint64, uint64, mul_round(a, b, switches))

// Two vectors an instruction: (a.v1 op b, a.v2 op c); `svv` takes one scalar for both halves of a.
G3RT_FORMS_3(v_f32_add_x2, float128, bool128, float128, float64, float64, each(a, b, c, add<float, 64>, switches))
G3RT_FORMS_3(v_f32_sub_x2, float128, bool128, float128, float64, float64, each(a, b, c, sub<float, 64>, switches))
G3RT_FORMS_3(v_f32_mul_x2, float128, bool128, float128, float64, float64, each(a, b, c, mul<float, 64>, switches))
G3RT_FORMS_3(v_f32_mul_x2_svv, float128, bool128, float, float64, float64,
             (each(float128{a, a}, b, c, mul<float, 64>, switches)))
#define G3RT_MAC_X2(name, A, FIRST, SECOND)                                                                            \
  G3RT_INTRINSIC float128 name##_b(const A& a, const float64& b, const float64& c, const float128& acc,                \
                                   int switches = 0, bool predicate = true, bool polarity = false) {                   \
    using gaudi3_rt::tpc::mac;                                                                                         \
    if (predicate == polarity) return acc;                                                                             \
    return {mac(float64(FIRST), b, acc.v1, switches), mac(float64(SECOND), c, acc.v2, switches)};                      \
  }                                                                                                                    \
  G3RT_INTRINSIC float128 name##_vb(const A& a, const float64& b, const float64& c, const float128& acc, int switches, \
                                    const bool128& predicate, bool polarity = false) {                                 \
    return gaudi3_rt::tpc::blend(name##_b(a, b, c, acc, switches), acc, predicate, polarity);                          \
  }
G3RT_MAC_X2(v_f32_mac_x2, float128, a.v1, a.v2)
G3RT_MAC_X2(v_f32_mac_x2_svv, float, a, a)
#undef G3RT_MAC_X2
// (a.v1 * b + c.v1, a.v2 * d + c.v2). Which operands belong together is read off the operand names of the declarations.
#define G3RT_MADD_X2(name, A, C, A1, A2, C1, C2)                \
  G3RT_FORMS_4(name, float128, bool128, A, float64, C, float64, \
               (float128{mac(float64(A1), b, float64(C1), switches), mac(float64(A2), d, float64(C2), switches)}))
G3RT_MADD_X2(v_f32_madd_x2, float128, float128, a.v1, a.v2, c.v1, c.v2)
G3RT_MADD_X2(v_f32_madd_x2_svvv, float, float128, a, a, c.v1, c.v2)
G3RT_MADD_X2(v_f32_madd_x2_vvsv, float128, float, a.v1, a.v2, c, c)
#undef G3RT_MADD_X2

// Forms with a zero point that is taken from b, and sums of two products (a * b + c * d).
#define G3RT_BYTES(T, V, R, ACC)                                                                                       \
  G3RT_INTRINSIC R v_##T##_mac_zp##ACC##_b(const V& a, const V& b, const V& zp, const R& acc, int switches = 0,        \
                                           bool predicate = true, bool polarity = false) {                             \
    using namespace gaudi3_rt::tpc;                                                                                    \
    return v_##T##_mac##ACC##_b(a, less_zero_point(b, zp, switches), acc, switches & ~SW_NEG_ZP, predicate, polarity); \
  }                                                                                                                    \
  G3RT_INTRINSIC R v_##T##_mac_x2##ACC##_b(const V& a, const V& b, const V& c, const V& d, const R& acc,               \
                                           int switches = 0, bool predicate = true, bool polarity = false) {           \
    return v_##T##_mac##ACC##_b(c, d, v_##T##_mac##ACC##_b(a, b, acc, switches, predicate, polarity), switches,        \
                                predicate, polarity);                                                                  \
  }                                                                                                                    \
  G3RT_INTRINSIC R v_##T##_mac_x2##ACC##_vb(const V& a, const V& b, const V& c, const V& d, const R& acc,              \
                                            int switches, const bool256& predicate, bool polarity = false) {           \
    return gaudi3_rt::tpc::blend(v_##T##_mac_x2##ACC##_b(a, b, c, d, acc, switches), acc, predicate, polarity);        \
  }
G3RT_BYTES(i8, char256, int256, )
G3RT_BYTES(u8, uchar256, uint256, )
G3RT_BYTES(u8, uchar256, int256, _acc32)
G3RT_BYTES(i8, char256, short256, _acc16)
G3RT_BYTES(u8, uchar256, ushort256, _acc16)
#undef G3RT_BYTES
