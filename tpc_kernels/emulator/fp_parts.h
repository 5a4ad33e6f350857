// Parts and classes of floating-point numbers: v_<T>_extract_exp_b, form_fp_num_b, form_fp_num_ie_b, nearbyint_b,
// nearbyint_cnvrt_b, fclass_b, fclass_limit_b, calc_fp_special_b, for f32, bf16 and f16; the same on scalars.
#pragma once
#include "compare.h"
#include "convert.h"

namespace gaudi3_rt::tpc {

// The bits of a format's fields.
template <class E>
struct Format {
  static constexpr int kMantissa = std::is_same_v<E, float> ? 23 : std::is_same_v<E, bf16> ? 7 : 10;
  static constexpr int kExponent = std::is_same_v<E, half> ? 5 : 8;
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr std::uint32_t kExponentMask = (1U << kExponent) - 1;
  static constexpr std::uint32_t kMantissaMask = (1U << kMantissa) - 1;
  static constexpr std::uint32_t kSign = 1U << (kMantissa + kExponent);
};

template <class E>
constexpr std::uint32_t wide_bits(E x) {
  return static_cast<std::uint32_t>(std::bit_cast<BitsOf<E>>(x));
}
template <class E>
constexpr E from_wide_bits(std::uint32_t x) {
  return std::bit_cast<E>(static_cast<BitsOf<E>>(x));
}

template <class E>
inline int extract_exp(E x, int switches) {
  allow(switches, SW_BIASED);
  const int field = static_cast<int>((wide_bits(x) >> Format<E>::kMantissa) & Format<E>::kExponentMask);
  return (switches & SW_BIASED) != 0 ? field : field - Format<E>::kBias;
}

// The number of an exponent, a sign and a mantissa: of a its exponent field (or, with SW_EXP_IS_NUM, a as an integer of
// eight bits), of b its sign (or its lowest bit with SW_SIGN_LSB), of c its mantissa field.
template <class E>
inline E form_fp_num(std::uint32_t a, E b, E c, int switches) {
  using F = Format<E>;
  const std::uint32_t number = (switches & SW_EXP_IS_NUM) != 0 ? a : a >> F::kMantissa;
  const std::uint32_t exponent = (number + ((switches & SW_ADD_BIAS) != 0 ? F::kBias : 0)) & F::kExponentMask;
  const std::uint32_t s = wide_bits(b);
  std::uint32_t sign = (switches & SW_SIGN_LSB) != 0 ? (s & 1) * F::kSign : s & F::kSign;
  if ((switches & SW_FORCE_SIGN0) != 0) sign = 0;
  if ((switches & SW_FORCE_SIGN1) != 0) sign = F::kSign;
  return from_wide_bits<E>(sign | exponent << F::kMantissa | (wide_bits(c) & F::kMantissaMask));
}
constexpr int kFormSwitches = SW_ADD_BIAS | SW_FORCE_SIGN0 | SW_FORCE_SIGN1 | SW_EXP_IS_NUM | SW_SIGN_LSB;

template <class V>
inline V form_fp_num(const V& a, const V& b, const V& c, int switches) {
  using E = typename V::Element;
  allow(switches, kFormSwitches);
  return map<V>([switches](E x, E y, E z) { return form_fp_num(wide_bits(x), y, z, switches); }, a, b, c);
}
// The exponents are the bytes at the starts of the elements.
template <class V>
inline V form_fp_num_ie(const char256& a, const V& b, const V& c, int switches) {
  using E = typename V::Element;
  allow(switches, kFormSwitches);
  V r;
  for (int i = 0; i < V::kLanes; ++i) {
    const std::uint32_t number = static_cast<std::uint8_t>(a.lane[i * static_cast<int>(sizeof(E))]);
    r.lane[i] = form_fp_num(number, b.lane[i], c.lane[i], switches | SW_EXP_IS_NUM);
  }
  return r;
}

// The whole number next to x, by the rounding; the sign of zero stays.
template <class E>
inline E nearbyint(E x, int switches) {
  allow(switches, kRoundSwitches);
  const float f = static_cast<float>(flush(x));
  if (!(f == f) || std::fabs(f) >= 0x1p23F) return narrow<E>(f);
  const double whole = std::copysign(round_whole(f, rounding(switches), 0), static_cast<double>(f));
  return narrow<E>(static_cast<float>(whole));
}

// One bit of ten: -inf, -normal, -denormal, -0, +0, +denormal, +normal, +inf, signalling NaN, quiet NaN. The mask is
// the integer value of the element's bits.
enum Class : std::uint32_t {
  kNegativeInfinity = 1,
  kNegativeNormal = 2,
  kNegativeDenormal = 4,
  kNegativeZero = 8,
  kPositiveZero = 16,
  kPositiveDenormal = 32,
  kPositiveNormal = 64,
  kPositiveInfinity = 128,
  kSignallingNan = 256,
  kQuietNan = 512,
};
template <class E>
inline std::uint32_t class_of(E x) {
  using F = Format<E>;
  const std::uint32_t b = wide_bits(x);
  const std::uint32_t exponent = (b >> F::kMantissa) & F::kExponentMask;
  const std::uint32_t mantissa = b & F::kMantissaMask;
  const bool negative = (b & F::kSign) != 0;
  if (exponent == F::kExponentMask && mantissa != 0) {
    return (mantissa >> (F::kMantissa - 1)) != 0 ? kQuietNan : kSignallingNan;
  }
  const std::uint32_t positive = exponent == F::kExponentMask ? kPositiveInfinity
                                 : exponent != 0              ? kPositiveNormal
                                 : mantissa != 0              ? kPositiveDenormal
                                                              : kPositiveZero;
  if (!negative) return positive;
  // The order of classes is mirrored.
  return kNegativeInfinity * kPositiveInfinity / positive;
}
template <class E>
inline E fclass(E x) {
  return from_wide_bits<E>(class_of(x));
}
template <class E>
inline E fclass_limit(E x, E high, E low) {
  const std::uint32_t c = class_of(x);
  if ((c & (kSignallingNan | kQuietNan)) != 0) return from_wide_bits<E>(c);
  const bool negative = (wide_bits(x) & Format<E>::kSign) != 0;
  if (compare(geq{}, absolute(x, 0), high)) return from_wide_bits<E>(negative ? kNegativeInfinity : kPositiveInfinity);
  if (extract_exp(x, 0) <= static_cast<std::int32_t>(wide_bits(low))) {
    return from_wide_bits<E>(negative ? kNegativeZero : kPositiveZero);
  }
  return from_wide_bits<E>(c);
}

// What a function is of special numbers, from their classes; false if it has to be computed.
inline bool special_value(int function, std::uint32_t x, std::uint32_t y, float& value) {
  constexpr std::uint32_t kNan = kSignallingNan | kQuietNan;
  constexpr std::uint32_t kZero = kPositiveZero | kNegativeZero | kPositiveDenormal | kNegativeDenormal;
  constexpr std::uint32_t kInfinity = kPositiveInfinity | kNegativeInfinity;
  constexpr std::uint32_t kNegative = kNegativeInfinity | kNegativeNormal | kNegativeDenormal | kNegativeZero;
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = from_bits(kCanonicalNan);
  const bool negative = (x & kNegative) != 0;
  const auto is = [&value](float v) {
    value = v;
    return true;
  };
  if ((x & kNan) != 0) return is(nan);
  switch (function) {
    case SW_RECIP:
      if ((x & kZero) != 0) return is(negative ? -inf : inf);
      if ((x & kInfinity) != 0) return is(negative ? -0.F : 0.F);
      return false;
    case SW_RSQRT:
      if ((x & kZero) != 0) return is(negative ? -inf : inf);
      if (negative) return is(nan);
      if (x == kPositiveInfinity) return is(0.F);
      return false;
    case SW_SQRT:
      if ((x & kZero) != 0) return is(negative ? -0.F : 0.F);
      if (negative) return is(nan);
      if (x == kPositiveInfinity) return is(inf);
      return false;
    case SW_LOG:
      if ((x & kZero) != 0) return is(-inf);
      if (negative) return is(nan);
      if (x == kPositiveInfinity) return is(inf);
      return false;
    case SW_EXP:
      if ((x & kZero) != 0) return is(1.F);
      if ((x & kInfinity) != 0) return is(negative ? 0.F : inf);
      return false;
    case SW_TANH:
      if ((x & kZero) != 0) return is(negative ? -0.F : 0.F);
      if ((x & kInfinity) != 0) return is(negative ? -1.F : 1.F);
      return false;
    case SW_DIV: {
      if ((y & kNan) != 0) return is(nan);
      const bool minus = negative != ((y & kNegative) != 0);
      const bool x_zero = (x & kZero) != 0;
      const bool y_zero = (y & kZero) != 0;
      const bool x_infinite = (x & kInfinity) != 0;
      const bool y_infinite = (y & kInfinity) != 0;
      if ((x_zero && y_zero) || (x_infinite && y_infinite)) return is(nan);
      if (x_zero || y_infinite) return is(minus ? -0.F : 0.F);
      if (y_zero || x_infinite) return is(minus ? -inf : inf);
      return false;
    }
    default:
      fail("Which numbers are special to the power function is not known.");
  }
}
template <class E>
inline E calc_fp_special(E x, E y, int function, E income) {
  float value;
  return special_value(function & 7, wide_bits(x), wide_bits(y), value) ? narrow<E>(value) : income;
}

}  // namespace gaudi3_rt::tpc

// I is an integer of the same width, P the pair of both vectors.
#define X(T, V, E, M, IV, I, P)                                                                                        \
  G3RT_FORMS_1(v_##T##_extract_exp, IV, M, V,                                                                          \
               map<IV>([=](E x) { return static_cast<I>(extract_exp(x, switches)); }, a))                              \
  G3RT_FORMS_3(v_##T##_form_fp_num, V, M, V, V, V, form_fp_num(a, b, c, switches))                                     \
  G3RT_FORMS_3(v_##T##_form_fp_num_ie, V, M, char256, V, V, form_fp_num_ie(a, b, c, switches))                         \
  G3RT_FORMS_1(v_##T##_nearbyint, V, M, V, map<V>([=](E x) { return gaudi3_rt::tpc::nearbyint(x, switches); }, a))     \
  G3RT_FORMS_1(v_##T##_nearbyint_cnvrt, P, M, V, (P{v_##T##_nearbyint_b(a, switches), convert_lanes<I>(a, switches)})) \
  G3RT_FORMS_1(v_##T##_fclass, V, M, V, map<V>([](E x) { return fclass(x); }, a))                                      \
  G3RT_FORMS_3(v_##T##_fclass_limit, V, M, V, V, V,                                                                    \
               map<V>([](E x, E y, E z) { return fclass_limit(x, y, z); }, a, b, c))                                   \
  G3RT_MERGES(v_##T##_calc_fp_special, V, M, (const V& a, const V& b), (a, b),                                         \
              map<V>([=](E x, E y, E z) { return calc_fp_special(x, y, switches, z); }, a, b, income))                 \
  G3RT_SCALAR_FORMS(s_##T##_extract_exp, I, (E a), static_cast<I>(extract_exp(a, switches)))                           \
  G3RT_SCALAR_FORMS(s_##T##_nearbyint, E, (E a), gaudi3_rt::tpc::nearbyint(a, switches))                               \
  G3RT_SCALAR_FORMS(s_##T##_fclass, E, (E a), fclass(a))                                                               \
  G3RT_SCALAR_FORMS(s_##T##_calc_fp_special, E, (E a, E b), calc_fp_special(a, b, switches, income))
X(f32, float64, float, bool64, int64, int32_t, float64_int64)
X(bf16, bfloat128, bf16, bool128, short128, int16_t, bfloat128_short128)
X(f16, half128, half, bool128, short128, int16_t, half128_short128)
#undef X
