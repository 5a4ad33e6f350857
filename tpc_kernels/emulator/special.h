// The vendor's special functions: v_exp_f32, exp_f32, v_exp_bf16, exp_bf16 and so on, the _fast_ and _cephes_ ones too.
// On hardware they are tables and polynomials that are not public, so no result here is the hardware's, bit for bit: it
// is the correctly rounded one, moved by at most special_ulps() numbers (of _fast_ functions fast_special_ulps()) by a
// hash of the argument and the run's seed. Zeros, infinities and NaN of the result stay what they are.
// Tables themselves (v_f32_lookup_1c and others) are an error when they are reached.
#pragma once
#include "fp_parts.h"

namespace gaudi3_rt::tpc {

// y, or a number at most `ulps` numbers from it.
template <class E>
inline E perturb(E y, double ulps, std::uint64_t key) {
  const std::uint32_t steps = static_cast<std::uint32_t>(ulps);
  if (steps == 0) return y;
  using F = Format<E>;
  const std::uint32_t b = wide_bits(y);
  const std::uint32_t magnitude = b & ~F::kSign;
  const std::uint32_t low = 1U << F::kMantissa;
  const std::uint32_t high = (F::kExponentMask << F::kMantissa) - 1;
  if (magnitude < low || magnitude > high) return y;
  const std::int64_t step = static_cast<std::int64_t>(hash_bits(run_seed() ^ key) % (2 * steps + 1)) - steps;
  const std::int64_t moved = static_cast<std::int64_t>(magnitude) + step;
  return from_wide_bits<E>((b & F::kSign) | static_cast<std::uint32_t>(moved < low    ? low
                                                                       : moved > high ? high
                                                                                      : moved));
}

// The value of a function in double, as an element; with 29 bits to spare, rounding twice is as good as once, nearly.
template <class E>
inline E from_double(double x) {
  if constexpr (std::is_same_v<E, float>) {
    return finish(static_cast<float>(x));
  } else {
    return narrow<E>(to_odd(x));
  }
}

template <class V, class F>
inline V special(const V& a, F f, double ulps) {
  using E = typename V::Element;
  V r;
  for (int i = 0; i < V::kLanes; ++i) {
    const E y = from_double<E>(f(static_cast<double>(static_cast<float>(flush(a.lane[i])))));
    r.lane[i] = perturb(y, ulps, wide_bits(a.lane[i]));
  }
  return r;
}
template <class V, class F>
inline V special(const V& a, const V& b, F f, double ulps) {
  using E = typename V::Element;
  V r;
  for (int i = 0; i < V::kLanes; ++i) {
    const double x = static_cast<double>(static_cast<float>(flush(a.lane[i])));
    const double y = static_cast<double>(static_cast<float>(flush(b.lane[i])));
    r.lane[i] =
        perturb(from_double<E>(f(x, y)), ulps, std::uint64_t{wide_bits(a.lane[i])} << 32 | wide_bits(b.lane[i]));
  }
  return r;
}

namespace functions {
// What lies below -87.33655 is a denormal number, so 0, and what lies above 88.72284 is infinite, as the vendor's.
inline double exp(double x) { return std::exp(x); }
inline double log(double x) { return std::log(x); }
inline double log2(double x) { return std::log2(x); }
inline double pow2(double x) { return std::exp2(x); }
inline double reciprocal(double x) { return 1 / x; }
inline double sqrt(double x) { return std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline double tanh(double x) { return std::tanh(x); }
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double expm1(double x) { return std::expm1(x); }
inline double sin(double x) { return std::sin(x); }
inline double cos(double x) { return std::cos(x); }
inline double tan(double x) { return std::tan(x); }
inline double asin(double x) { return std::asin(x); }
inline double acos(double x) { return std::acos(x); }
inline double atan(double x) { return std::atan(x); }
inline double sinh(double x) { return std::sinh(x); }
inline double cosh(double x) { return std::cosh(x); }
inline double asinh(double x) { return std::asinh(x); }
inline double acosh(double x) { return std::acosh(x); }
inline double atanh(double x) { return std::atanh(x); }
inline double div(double x, double y) { return x / y; }
inline double pow(double x, double y) { return std::pow(x, y); }
// What is left of x / y, with the sign of x.
inline double mod(double x, double y) { return std::fmod(x, y); }
}  // namespace functions

}  // namespace gaudi3_rt::tpc

// Templates, so that a kernel may have a function of that name for itself, which then is taken.
#define G3RT_SPECIAL_1(name, function, ulps) \
  G3RT_SPECIAL_1_OF(name##_f32, float64, function, ulps) G3RT_SPECIAL_1_OF(name##_bf16, bfloat128, function, ulps)
#define G3RT_SPECIAL_1_OF(name, V, function, ulps)                                                  \
  template <int = 0>                                                                                \
  V v_##name(const V& x) {                                                                          \
    return gaudi3_rt::tpc::special(x, gaudi3_rt::tpc::functions::function, gaudi3_rt::tpc::ulps()); \
  }                                                                                                 \
  template <int = 0>                                                                                \
  V name(const V& x) {                                                                              \
    return v_##name(x);                                                                             \
  }
#define G3RT_SPECIAL_2(name, function, ulps) \
  G3RT_SPECIAL_2_OF(name##_f32, float64, function, ulps) G3RT_SPECIAL_2_OF(name##_bf16, bfloat128, function, ulps)
#define G3RT_SPECIAL_2_OF(name, V, function, ulps)                                                     \
  template <int = 0>                                                                                   \
  V v_##name(const V& x, const V& y) {                                                                 \
    return gaudi3_rt::tpc::special(x, y, gaudi3_rt::tpc::functions::function, gaudi3_rt::tpc::ulps()); \
  }                                                                                                    \
  template <int = 0>                                                                                   \
  V name(const V& x, const V& y) {                                                                     \
    return v_##name(x, y);                                                                             \
  }
G3RT_SPECIAL_1(exp, exp, special_ulps)
G3RT_SPECIAL_1(exp_fast, exp, fast_special_ulps)
G3RT_SPECIAL_1(exp_cephes, exp, special_ulps)
G3RT_SPECIAL_1(exp_cephes_fast, exp, fast_special_ulps)
G3RT_SPECIAL_1(expm1, expm1, special_ulps)
G3RT_SPECIAL_1(log, log, special_ulps)
G3RT_SPECIAL_1(log_fast, log, fast_special_ulps)
G3RT_SPECIAL_1(log2, log2, special_ulps)
G3RT_SPECIAL_1(log2_fast, log2, fast_special_ulps)
G3RT_SPECIAL_1(pow2, pow2, special_ulps)
G3RT_SPECIAL_1(pow2_fast, pow2, fast_special_ulps)
G3RT_SPECIAL_1(reciprocal, reciprocal, special_ulps)
G3RT_SPECIAL_1(reciprocal_fast, reciprocal, fast_special_ulps)
G3RT_SPECIAL_1(sqrt, sqrt, special_ulps)
G3RT_SPECIAL_1(sqrt_fast, sqrt, fast_special_ulps)
G3RT_SPECIAL_1(rsqrt, rsqrt, special_ulps)
G3RT_SPECIAL_1(rsqrt_fast, rsqrt, fast_special_ulps)
G3RT_SPECIAL_1(tanh, tanh, special_ulps)
G3RT_SPECIAL_1(tanh_fast, tanh, fast_special_ulps)
G3RT_SPECIAL_1(sigmoid, sigmoid, special_ulps)
G3RT_SPECIAL_1(sin, sin, special_ulps)
G3RT_SPECIAL_1(sin_fast, sin, fast_special_ulps)
G3RT_SPECIAL_1(cos, cos, special_ulps)
G3RT_SPECIAL_1(cos_fast, cos, fast_special_ulps)
G3RT_SPECIAL_1(tan_cephes, tan, special_ulps)
G3RT_SPECIAL_1(asin_cephes, asin, special_ulps)
G3RT_SPECIAL_1(acos_cephes, acos, special_ulps)
G3RT_SPECIAL_1(atan_cephes, atan, special_ulps)
G3RT_SPECIAL_1(sinh_cephes, sinh, special_ulps)
G3RT_SPECIAL_1(cosh_cephes, cosh, special_ulps)
G3RT_SPECIAL_1(asinh, asinh, special_ulps)
G3RT_SPECIAL_1(acosh, acosh, special_ulps)
G3RT_SPECIAL_1(atanh, atanh, special_ulps)
G3RT_SPECIAL_2(div, div, special_ulps)
G3RT_SPECIAL_2(div_fast, div, fast_special_ulps)
G3RT_SPECIAL_2(pow, pow, special_ulps)
G3RT_SPECIAL_2(pow_fast, pow, fast_special_ulps)
G3RT_SPECIAL_2(mod, mod, special_ulps)
#undef G3RT_SPECIAL_1
#undef G3RT_SPECIAL_1_OF
#undef G3RT_SPECIAL_2
#undef G3RT_SPECIAL_2_OF

// x / y from a reciprocal of y, with one correction of the quotient (Markstein).
template <int = 0>
float s_div_fast_f32(float x, float y, float reciprocal) {
  using namespace gaudi3_rt::tpc;
  const float quotient = mul(x, reciprocal);
  return gaudi3_rt::tpc::fma(gaudi3_rt::tpc::fma(negate(y), quotient, x), reciprocal, quotient);
}

#define G3RT_LOOKUP(name, R)                                                                                  \
  [[noreturn]] inline R name(const uint64& /*interval*/, int function, int /*switches*/, const R& /*income*/, \
                             bool /*predicate*/ = true, bool /*polarity*/ = false) {                          \
    gaudi3_rt::tpc::fail(#name ": the contents of table %d are not public. Compute the function.", function); \
  }
G3RT_LOOKUP(v_f32_lookup, float64)
G3RT_LOOKUP(v_f32_lookup_c0, float64)
G3RT_LOOKUP(v_f32_lookup_1c, float64)
G3RT_LOOKUP(v_f32_lookup_c1c2, float128)
G3RT_LOOKUP(v_f32_lookup_2c, float128)
#undef G3RT_LOOKUP
[[noreturn]] inline uint64_float64 v_f32_get_lut_entry_and_interval_start_b(const float64& /*x*/, int /*shift*/,
                                                                            int /*switches*/ = 0,
                                                                            const uint64_float64& /*income*/ = {},
                                                                            bool /*predicate*/ = true,
                                                                            bool /*polarity*/ = false) {
  gaudi3_rt::tpc::fail("v_f32_get_lut_entry_and_interval_start_b: how tables are indexed is not public.");
}
[[noreturn]] inline void set_lut_32(tensor /*table*/) {
  gaudi3_rt::tpc::fail("set_lut_32: how tables lie in memory is not public.");
}
enum e_func_variant {
  e_func_variant_default = 0,
  e_func_variant_tanh = 1,
  e_func_variant_sqrt_rsqrt = 2,
  e_func_variant_sin_cos = 3,
};
enum e_function_id { e_fp32_sin_cos = 0 };
