// convert_<from>_to_<to>(x, options): conversions between types of as many lanes, whatever their width; options are the
// rounding and SW_LINEAR. A type of R vectors has lane j in v(j mod R) at j / R, and with SW_LINEAR in order.
#pragma once
#include "convert.h"

namespace gaudi3_rt::tpc {

template <class V>
struct Parts {
  static constexpr int count = 1;
  using Part = V;
};
template <class V>
struct Parts<Pair<V, V>> {
  static constexpr int count = 2;
  using Part = V;
};
template <class V>
struct Parts<Quad<V>> {
  static constexpr int count = 4;
  using Part = V;
};

template <class To, class From>
inline To convert_all(const From& a, int options) {
  constexpr int kFrom = Parts<From>::count;
  constexpr int kTo = Parts<To>::count;
  using Source = typename Parts<From>::Part;
  using Result = typename Parts<To>::Part;
  constexpr int kLanes = kFrom * Source::kLanes;
  static_assert(kLanes == kTo * Result::kLanes);
  const bool linear = (options & SW_LINEAR) != 0;
  if (checking() && kFrom != kTo && kFrom * kTo == 8 && !linear) {
    fail("The lane order of conversions between four and two vectors without SW_LINEAR is not documented.");
  }
  Vector<typename Source::Element, kLanes> lanes;
  if constexpr (kFrom == 1) {
    lanes = a;
  } else {
    for (int k = 0; k < kFrom; ++k) put(lanes, part_of(a, k), k, linear);
  }
  const auto converted = convert_lanes<typename Result::Element>(lanes, options & ~SW_LINEAR);
  if constexpr (kTo == 1) {
    return converted;
  } else {
    To r;
    for (int k = 0; k < kTo; ++k) part_of(r, k) = take<kTo>(converted, k, linear);
    return r;
  }
}

}  // namespace gaudi3_rt::tpc

#define G3RT_WRAPPER(F, T) \
  G3RT_INTRINSIC T convert_##F##_to_##T(const F& x, int options) { return gaudi3_rt::tpc::convert_all<T>(x, options); }
#define G3RT_TO_2(T, A, B) G3RT_WRAPPER(A, T) G3RT_WRAPPER(B, T)
#define G3RT_TO_6(T, A, B, C, D, E, F) G3RT_TO_2(T, A, B) G3RT_TO_2(T, C, D) G3RT_TO_2(T, E, F)
G3RT_TO_2(float64, int64, uint64)
G3RT_TO_2(int64, float64, uint64)
G3RT_TO_2(uint64, float64, int64)
G3RT_TO_6(float128, int128, uint128, bfloat128, half128, short128, ushort128)
G3RT_TO_6(int128, float128, uint128, bfloat128, half128, short128, ushort128)
G3RT_TO_6(uint128, float128, int128, bfloat128, half128, short128, ushort128)
G3RT_TO_6(bfloat128, float128, int128, uint128, half128, short128, ushort128)
G3RT_TO_6(half128, float128, int128, uint128, bfloat128, short128, ushort128)
G3RT_TO_6(short128, float128, int128, uint128, bfloat128, half128, ushort128)
G3RT_TO_6(ushort128, float128, int128, uint128, bfloat128, half128, short128)
#define G3RT_TO_8(T, A, B, C, D, E, F, G, H) G3RT_TO_6(T, A, B, C, D, E, F) G3RT_TO_2(T, G, H)
G3RT_TO_8(float256, int256, uint256, bfloat256, half256, short256, ushort256, char256, uchar256)
G3RT_TO_8(int256, float256, uint256, bfloat256, half256, short256, ushort256, char256, uchar256)
G3RT_TO_8(uint256, float256, int256, bfloat256, half256, short256, ushort256, char256, uchar256)
G3RT_TO_8(bfloat256, float256, int256, uint256, half256, short256, ushort256, char256, uchar256)
G3RT_TO_8(half256, float256, int256, uint256, bfloat256, short256, ushort256, char256, uchar256)
G3RT_TO_8(short256, float256, int256, uint256, bfloat256, half256, ushort256, char256, uchar256)
G3RT_TO_8(ushort256, float256, int256, uint256, bfloat256, half256, short256, char256, uchar256)
G3RT_TO_8(char256, float256, int256, uint256, bfloat256, half256, short256, ushort256, uchar256)
G3RT_TO_8(uchar256, float256, int256, uint256, bfloat256, half256, short256, ushort256, char256)
#undef G3RT_TO_8
#undef G3RT_TO_6
#undef G3RT_TO_2
#undef G3RT_WRAPPER

// The forms that shift right first.
inline short128 int_convert_int128_to_short128(const int128& x, const short128& shift, int options) {
  return v_convert_int32_to_i16_all_b(x, shift, options);
}
inline char256 int_convert_int256_to_char256(const int256& x, const char256& shift, int options) {
  return v_convert_int32_to_i8_all_b(x, shift, options);
}
inline ushort128 uint_convert_uint128_to_ushort128(const uint128& x, const ushort128& shift, int options) {
  return v_convert_uint32_to_u16_all_b(x, as_short128(shift), options);
}
inline uchar256 uint_convert_uint256_to_uchar256(const uint256& x, const uchar256& shift, int options) {
  return v_convert_uint32_to_u8_all_b(x, as_char256(shift), options);
}
