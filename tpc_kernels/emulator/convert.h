// Conversions between element types: v_convert_<from>_to_<to>_b, _all_b, _single_b, the older v_convert_int32_to_i8_...
// with shifts, and s_convert_<from>_to_<to>. Lane order is the heart of it:
//   from wide to narrow, one vector:   lane `lane` of each place is written, v_convert_f32_to_bf16_b: r[2i + lane] =
//   a[i] from wide to narrow, _all:         r[2i] = v1[i], r[2i + 1] = v2[i]; with SW_LINEAR r = v1, then v2 from
//   narrow to wide, one vector:   r[i] = a[2i] from narrow to wide, _all:         v1[i] = a[2i], v2[i] = a[2i + 1];
//   with SW_LINEAR v1 is the first half of a
// and with four times the width by fours.
#pragma once
#include "convert_lanes.h"

namespace gaudi3_rt::tpc {

template <class A>
inline const A& part_of(const Pair<A, A>& x, int k) {
  return k == 0 ? x.v1 : x.v2;
}
template <class A>
inline const A& part_of(const Quad<A>& x, int k) {
  return k == 0 ? x.v1 : k == 1 ? x.v2 : k == 2 ? x.v3 : x.v4;
}
template <class A>
inline A& part_of(Pair<A, A>& x, int k) {
  return k == 0 ? x.v1 : x.v2;
}
template <class A>
inline A& part_of(Quad<A>& x, int k) {
  return k == 0 ? x.v1 : k == 1 ? x.v2 : k == 2 ? x.v3 : x.v4;
}

// Lanes of a narrow vector that part `k` of the wide ones is made of.
template <int kRatio, class E, int N>
inline Vector<E, N / kRatio> take(const Vector<E, N>& a, int k, bool linear) {
  constexpr int n = N / kRatio;
  Vector<E, n> r;
  if (linear) {
    for (int i = 0; i < n; ++i) r.lane[i] = a.lane[k * n + i];
  } else {
    for (int i = 0; i < n; ++i) r.lane[i] = a.lane[kRatio * i + k];
  }
  return r;
}
template <class E, int N, int n>
inline void put(Vector<E, N>& r, const Vector<E, n>& a, int k, bool linear) {
  constexpr int kRatio = N / n;
  if (linear) {
    for (int i = 0; i < n; ++i) r.lane[k * n + i] = a.lane[i];
  } else {
    for (int i = 0; i < n; ++i) r.lane[kRatio * i + k] = a.lane[i];
  }
}

// The four shapes of conversions; the wide vectors of _all are S, the type of the part is its v1.
template <class V, class A>
inline V convert_up(const A& a, int switches) {
  constexpr int kRatio = A::kLanes / V::kLanes;
  return convert_lanes<typename V::Element>(take<kRatio>(a, 0, false), switches);
}
template <class S, class A>
inline S convert_up_all(const A& a, int switches) {
  using W = decltype(S::v1);
  constexpr int kRatio = A::kLanes / W::kLanes;
  const bool linear = (switches & SW_LINEAR) != 0;
  S r;
  for (int k = 0; k < kRatio; ++k) {
    part_of(r, k) = convert_lanes<typename W::Element>(take<kRatio>(a, k, linear), switches & ~SW_LINEAR);
  }
  return r;
}
template <class V, class A>
inline V convert_down(const A& a, int lane, int switches, const V& income) {
  constexpr int kRatio = V::kLanes / A::kLanes;
  if (lane < 0 || lane >= kRatio) fail("Lane %d of a conversion that has %d.", lane, kRatio);
  V r = income;
  put(r, convert_lanes<typename V::Element>(a, switches), lane, false);
  return r;
}
template <class V, class S>
inline V convert_down_all(const S& a, int switches) {
  using W = decltype(S::v1);
  constexpr int kRatio = V::kLanes / W::kLanes;
  const bool linear = (switches & SW_LINEAR) != 0;
  V r;
  for (int k = 0; k < kRatio; ++k) {
    put(r, convert_lanes<typename V::Element>(part_of(a, k), switches & ~SW_LINEAR), k, linear);
  }
  return r;
}

// A predicate counts the narrow lanes, in the order of the conversion.
template <class S, int N>
inline S blend_all(const S& a, const S& b, const Predicate<N>& predicate, bool polarity, int switches) {
  if ((switches & SW_LINEAR) == 0) return blend(a, b, predicate, polarity);
  using W = decltype(S::v1);
  S r;
  for (int k = 0; k < N / W::kLanes; ++k) {
    for (int i = 0; i < W::kLanes; ++i) {
      const bool written = (predicate.lane[k * W::kLanes + i] != 0) != polarity;
      part_of(r, k).lane[i] = part_of(written ? a : b, k).lane[i];
    }
  }
  return r;
}

// The older down-conversions: each number is shifted right by its count, rounded, and saturated.
template <class To, class From, int N, class C>
inline Vector<To, N> convert_shifted(const Vector<From, N>& a, const Vector<C, N>& shift, int switches) {
  allow(switches, kRoundSwitches);
  const Round round = rounding(switches);
  if (checking() && (round == Round::stochastic || round == Round::stochastic_nearest)) {
    fail("Stochastic rounding of shifted integers is not documented.");
  }
  Vector<To, N> r;
  for (int i = 0; i < N; ++i) {
    const double x = std::ldexp(static_cast<double>(a.lane[i]), -static_cast<int>(shift.lane[i]));
    r.lane[i] = saturate<To>(static_cast<std::int64_t>(round_whole(std::fmin(std::fmax(x, -1e12), 1e12), round, 0)));
  }
  return r;
}

template <class V, class A, class C>
inline V convert_down_shifted(const A& a, const C& shift, int lane, int switches, const V& income) {
  V r = income;
  put(r, convert_shifted<typename V::Element>(a, shift, switches), lane, false);
  return r;
}
template <class V, class S, class C>
inline V convert_down_all_shifted(const S& a, const C& shift, int switches) {
  constexpr int kRatio = V::kLanes / decltype(S::v1)::kLanes;
  V r;
  for (int k = 0; k < kRatio; ++k) {
    put(r, convert_shifted<typename V::Element>(part_of(a, k), take<kRatio>(shift, k, false), switches), k, false);
  }
  return r;
}

}  // namespace gaudi3_rt::tpc

#define G3RT_CONVERT_SCALAR(F, FE, T, TE) \
  G3RT_SCALAR_FORMS(s_convert_##F##_to_##T, TE, (FE a), (convert_lanes<TE>(Vector<FE, 1>(a), switches).lane[0]))

// Elements of one width.
#define G3RT_CONVERT(F, FV, FE, T, TV, TE, M)                                     \
  G3RT_FORMS_1(v_convert_##F##_to_##T, TV, M, FV, convert_lanes<TE>(a, switches)) \
  G3RT_CONVERT_SCALAR(F, FE, T, TE)
// From narrow to wide: all results are an S.
#define G3RT_CONVERT_UP(F, FV, FE, FM, T, TV, TE, TM, S)                                                             \
  G3RT_FORMS_1(v_convert_##F##_to_##T, TV, TM, FV, convert_up<TV>(a, switches))                                      \
  G3RT_INTRINSIC S v_convert_##F##_to_##T##_all_b(const FV& a, int switches = 0) {                                   \
    return gaudi3_rt::tpc::convert_up_all<S>(a, switches);                                                           \
  }                                                                                                                  \
  G3RT_INTRINSIC S v_convert_##F##_to_##T##_all_b(const FV& a, int switches, const S& income, bool predicate = true, \
                                                  bool polarity = false) {                                           \
    return predicate == polarity ? income : gaudi3_rt::tpc::convert_up_all<S>(a, switches);                          \
  }                                                                                                                  \
  G3RT_INTRINSIC S v_convert_##F##_to_##T##_all_vb(const FV& a, int switches, const S& income, const FM& predicate,  \
                                                   bool polarity = false) {                                          \
    return gaudi3_rt::tpc::blend_all(gaudi3_rt::tpc::convert_up_all<S>(a, switches), income, predicate, polarity,    \
                                     switches);                                                                      \
  }                                                                                                                  \
  G3RT_CONVERT_SCALAR(F, FE, T, TE)
// From wide to narrow: all operands are an S.
#define G3RT_CONVERT_DOWN(F, FV, FE, S, T, TV, TE, TM)                                     \
  G3RT_MERGES(v_convert_##F##_to_##T, TV, TM, (const FV& a, int lane), (a, lane),          \
              convert_down(a, lane, switches, income))                                     \
  G3RT_FORMS_1(v_convert_##F##_to_##T##_all, TV, TM, S, convert_down_all<TV>(a, switches)) \
  G3RT_CONVERT_SCALAR(F, FE, T, TE)

// clang-format off
G3RT_CONVERT(f32, float64, float, i32, int64, int32_t, bool64)
G3RT_CONVERT(f32, float64, float, u32, uint64, uint32_t, bool64)
G3RT_CONVERT(i32, int64, int32_t, f32, float64, float, bool64)
G3RT_CONVERT(i32, int64, int32_t, u32, uint64, uint32_t, bool64)
G3RT_CONVERT(u32, uint64, uint32_t, f32, float64, float, bool64)
G3RT_CONVERT(u32, uint64, uint32_t, i32, int64, int32_t, bool64)
G3RT_CONVERT(bf16, bfloat128, bf16, f16, half128, half, bool128)
G3RT_CONVERT(bf16, bfloat128, bf16, i16, short128, int16_t, bool128)
G3RT_CONVERT(bf16, bfloat128, bf16, u16, ushort128, uint16_t, bool128)
G3RT_CONVERT(f16, half128, half, bf16, bfloat128, bf16, bool128)
G3RT_CONVERT(f16, half128, half, i16, short128, int16_t, bool128)
G3RT_CONVERT(f16, half128, half, u16, ushort128, uint16_t, bool128)
G3RT_CONVERT(i16, short128, int16_t, bf16, bfloat128, bf16, bool128)
G3RT_CONVERT(i16, short128, int16_t, f16, half128, half, bool128)
G3RT_CONVERT(i16, short128, int16_t, u16, ushort128, uint16_t, bool128)
G3RT_CONVERT(u16, ushort128, uint16_t, bf16, bfloat128, bf16, bool128)
G3RT_CONVERT(u16, ushort128, uint16_t, f16, half128, half, bool128)
G3RT_CONVERT(u16, ushort128, uint16_t, i16, short128, int16_t, bool128)
G3RT_CONVERT(i8, char256, int8_t, u8, uchar256, uint8_t, bool256)
G3RT_CONVERT(u8, uchar256, uint8_t, i8, char256, int8_t, bool256)

// v_convert_bf16_to_f32, v_convert_f32_to_bf16 and so on: of every type of 16 bits with every type of 32.
#define X(N, NV, NE, W, WV, WE, S)                          \
  G3RT_CONVERT_UP(N, NV, NE, bool128, W, WV, WE, bool64, S) \
  G3RT_CONVERT_DOWN(W, WV, WE, S, N, NV, NE, bool128)
X(bf16, bfloat128, bf16, f32, float64, float, float128)
X(bf16, bfloat128, bf16, i32, int64, int32_t, int128)
X(bf16, bfloat128, bf16, u32, uint64, uint32_t, uint128)
X(f16, half128, half, f32, float64, float, float128)
X(f16, half128, half, i32, int64, int32_t, int128)
X(f16, half128, half, u32, uint64, uint32_t, uint128)
X(i16, short128, int16_t, f32, float64, float, float128)
X(i16, short128, int16_t, i32, int64, int32_t, int128)
X(i16, short128, int16_t, u32, uint64, uint32_t, uint128)
X(u16, ushort128, uint16_t, f32, float64, float, float128)
X(u16, ushort128, uint16_t, i32, int64, int32_t, int128)
X(u16, ushort128, uint16_t, u32, uint64, uint32_t, uint128)
#undef X
// And of 8 bits with every wider one.
#define X(N, NV, NE, W, WV, WE, WM, S)                  \
  G3RT_CONVERT_UP(N, NV, NE, bool256, W, WV, WE, WM, S) \
  G3RT_CONVERT_DOWN(W, WV, WE, S, N, NV, NE, bool256)
X(i8, char256, int8_t, f32, float64, float, bool64, float256)
X(i8, char256, int8_t, i32, int64, int32_t, bool64, int256)
X(i8, char256, int8_t, u32, uint64, uint32_t, bool64, uint256)
X(i8, char256, int8_t, bf16, bfloat128, bf16, bool128, bfloat256)
X(i8, char256, int8_t, f16, half128, half, bool128, half256)
X(i8, char256, int8_t, i16, short128, int16_t, bool128, short256)
X(i8, char256, int8_t, u16, ushort128, uint16_t, bool128, ushort256)
X(u8, uchar256, uint8_t, f32, float64, float, bool64, float256)
X(u8, uchar256, uint8_t, i32, int64, int32_t, bool64, int256)
X(u8, uchar256, uint8_t, u32, uint64, uint32_t, bool64, uint256)
X(u8, uchar256, uint8_t, bf16, bfloat128, bf16, bool128, bfloat256)
X(u8, uchar256, uint8_t, f16, half128, half, bool128, half256)
X(u8, uchar256, uint8_t, i16, short128, int16_t, bool128, short256)
X(u8, uchar256, uint8_t, u16, ushort128, uint16_t, bool128, ushort256)
#undef X
#undef G3RT_CONVERT_DOWN
#undef G3RT_CONVERT_UP
#undef G3RT_CONVERT
#undef G3RT_CONVERT_SCALAR

// _single is lane 0 of the down-conversion.
G3RT_MERGES(v_convert_f32_to_bf16_single, bfloat128, bool128, (const float64& a), (a),
            convert_down(a, 0, switches, income))
G3RT_MERGES(v_convert_f32_to_f16_single, half128, bool128, (const float64& a), (a),
            convert_down(a, 0, switches, income))

#define X(F, S2, S4)                                                                                     \
  G3RT_FORMS_1(v_convert_##F##_to_f32_x2, float128, bool128, S2,                                         \
               (float128{convert_lanes<float>(a.v1, switches), convert_lanes<float>(a.v2, switches)}))   \
  G3RT_FORMS_1(v_convert_##F##_to_f32_x4, float256, bool256, S4,                                         \
               (float256{convert_lanes<float>(a.v1, switches), convert_lanes<float>(a.v2, switches),     \
                         convert_lanes<float>(a.v3, switches), convert_lanes<float>(a.v4, switches)}))
X(i32, int128, int256)
X(u32, uint128, uint256)
#undef X

// v_convert_int32_to_i8_b(value, shift, lane, ...) writes one lane of each place; _all counts for each narrow lane.
#define X(F, FV, C, S, AC, T, TV, TE, TM)                                                                          \
  G3RT_MERGES(v_convert_##F##_to_##T, TV, TM, (const FV& a, const C& shift, int lane), (a, shift, lane),           \
              convert_down_shifted(a, shift, lane, switches, income))                                              \
  G3RT_MERGES(v_convert_##F##_to_##T##_single, TV, TM, (const FV& a, const C& shift, int lane), (a, shift, lane),  \
              convert_down_shifted(a, shift, lane, switches, income))                                              \
  G3RT_FORMS_2(v_convert_##F##_to_##T##_all, TV, TM, S, AC, convert_down_all_shifted<TV>(a, b, switches))
X(int32, int64, int64, int128, short128, i16, short128, int16_t, bool128)
X(int32, int64, int64, int256, char256, i8, char256, int8_t, bool256)
X(uint32, uint64, int64, uint128, short128, u16, ushort128, uint16_t, bool128)
X(uint32, uint64, int64, uint256, char256, u8, uchar256, uint8_t, bool256)
X(int16, short128, short128, short256, char256, i8, char256, int8_t, bool256)
X(uint16, ushort128, short128, ushort256, char256, u8, uchar256, uint8_t, bool256)
#undef X
// clang-format on
