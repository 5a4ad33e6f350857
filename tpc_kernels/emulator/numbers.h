// What one lane computes: the number formats bf16 and f16, denormals, NaN, roundings and a fused multiply-add that is
// exact without hardware for it. Everything here is free of branches where that matters, so loops over lanes vectorise.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "machine.h"

namespace gaudi3_rt::tpc {

// The rounding modes as SW_* switches name them, without the shift.
enum class Round : int { nearest, zero, up, down, stochastic, csr, away, stochastic_nearest };

// --- float ---

constexpr std::uint32_t kCanonicalNan = 0x7fffffffU;
constexpr std::uint32_t kCanonicalNan16 = 0x7fffU;

constexpr std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
constexpr float from_bits(std::uint32_t x) { return std::bit_cast<float>(x); }
constexpr bool is_nan_bits(std::uint32_t x) { return static_cast<std::int32_t>(x & 0x7fffffffU) > 0x7f800000; }

// A denormal number becomes the zero of its sign.
constexpr float flush(float x) {
  const std::uint32_t b = bits(x);
  return from_bits((b & 0x7f800000U) != 0 ? b : b & 0x80000000U);
}

// What an arithmetic instruction writes: no denormals, one NaN.
constexpr float finish(float x) {
  const float f = flush(x);
  return from_bits(is_nan_bits(bits(x)) ? kCanonicalNan : bits(f));
}

// The sum of doubles rounded to odd: the last bit is set when anything was cut off, so rounding once more, to at most
// 51 bits, is as good as rounding the exact sum (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums").
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  const double error = (a - (sum - b_part)) + (b - b_part);  // exact (Knuth's two-sum); NaN where sum is not finite
  const std::int64_t s = std::bit_cast<std::int64_t>(sum);
  // One step towards the exact sum, in the order of magnitudes.
  const std::int64_t inexact = error < 0 || error > 0 ? 1 : 0;
  const std::int64_t smaller = error < 0 ? -1 : 0;
  const std::int64_t negative = sum < 0 ? -1 : 0;
  const std::int64_t step = ((smaller ^ negative) | 1) & -(inexact & ~s & 1);
  return std::bit_cast<double>(s + step);
}

// double to float, rounded to odd, for formats of less than 22 bits.
inline float to_odd(double x) {
  const float f = static_cast<float>(x);
  const double error = x - static_cast<double>(f);
  const std::int32_t b = std::bit_cast<std::int32_t>(f);
  const std::int32_t inexact = error < 0 || error > 0 ? 1 : 0;
  const std::int32_t smaller = error < 0 ? -1 : 0;
  const std::int32_t negative = f < 0 || (f == 0 && x < 0) ? -1 : 0;
  return std::bit_cast<float>(b + (((smaller ^ negative) | 1) & -(inexact & ~b & 1)));
}

// double to float in a rounding mode of the FMA register; what it does not know is nearest.
inline float to_float(double x, int mode) {
  const float f = static_cast<float>(x);
  const double error = x - static_cast<double>(f);
  const bool up = static_cast<Round>(mode) == Round::up;
  const bool down = static_cast<Round>(mode) == Round::down;
  const bool zero = static_cast<Round>(mode) == Round::zero;
  if (error > 0 && (up || (zero && x < 0))) return std::nextafter(f, std::numeric_limits<float>::infinity());
  if (error < 0 && (down || (zero && x > 0))) return std::nextafter(f, -std::numeric_limits<float>::infinity());
  return f;
}

// A denormal result, by mode: rounding up makes a positive one the smallest normal number, rounding down a negative
// one.
inline float finish(float x, int mode) {
  const float f = finish(x);
  if (f == 0 && x > 0 && static_cast<Round>(mode) == Round::up) return std::numeric_limits<float>::min();
  if (f == 0 && x < 0 && static_cast<Round>(mode) == Round::down) return -std::numeric_limits<float>::min();
  return f;
}

inline float add(float a, float b) { return finish(flush(a) + flush(b)); }
inline float mul(float a, float b) { return finish(flush(a) * flush(b)); }

// a * b + c, rounded once.
inline float fma(float a, float b, float c) {
#ifdef __FMA__
  return finish(__builtin_fmaf(flush(a), flush(b), flush(c)));
#else
  const double product = static_cast<double>(flush(a)) * static_cast<double>(flush(b));  // exact: 48 bits
  return finish(static_cast<float>(add_to_odd(product, static_cast<double>(flush(c)))));
#endif
}

inline float add(float a, float b, int mode) { return finish(to_float(add_to_odd(flush(a), flush(b)), mode), mode); }
inline float mul(float a, float b, int mode) {
  return finish(to_float(static_cast<double>(flush(a)) * static_cast<double>(flush(b)), mode), mode);
}
inline float fma(float a, float b, float c, int mode) {
  const double product = static_cast<double>(flush(a)) * static_cast<double>(flush(b));
  return finish(to_float(add_to_odd(product, flush(c)), mode), mode);
}

// --- bf16 and f16 ---

// Whether the magnitude grows when the `dropped` bits (left-aligned in 32 bits) go: `odd` is the last bit that stays.
template <Round kMode>
constexpr bool rounds_up(std::uint32_t dropped, bool odd, bool negative, std::uint32_t random) {
  const bool guard = (dropped >> 31) != 0;
  const bool sticky = (dropped << 1) != 0;
  switch (kMode) {
    case Round::zero:
      return false;
    case Round::up:
      return dropped != 0 && !negative;
    case Round::down:
      return dropped != 0 && negative;
    case Round::away:
      return guard;
    case Round::stochastic:
    case Round::stochastic_nearest:
      return dropped != 0 && dropped >= random;
    default:
      return guard && (sticky || odd);
  }
}

// f32 bits to bf16 bits. Denormal numbers are rounded like all others; only results of arithmetic are flushed.
template <Round kMode>
constexpr std::uint16_t bf16_bits(std::uint32_t x, std::uint32_t random = 0, bool clip = false) {
  constexpr bool kNearestWhenDenormal = kMode == Round::stochastic_nearest;
  const std::uint32_t kept = x >> 16;
  const bool odd = (kept & 1) != 0;
  const bool negative = (x >> 31) != 0;
  const bool denormal = (x & 0x7f800000U) == 0;
  const bool grows = kNearestWhenDenormal && denormal ? rounds_up<Round::nearest>(x << 16, odd, negative, 0)
                                                      : rounds_up<kMode>(x << 16, odd, negative, random);
  std::uint32_t y = kept + (grows ? 1U : 0U);
  y -= clip && (y & 0x7fffU) == 0x7f80U ? 1U : 0U;
  return static_cast<std::uint16_t>(is_nan_bits(x) ? kCanonicalNan16 : y);
}

// f32 bits to f16 bits, with denormal results.
template <Round kMode>
constexpr std::uint16_t half_bits(std::uint32_t x, std::uint32_t random = 0, bool clip = false) {
  if (is_nan_bits(x)) return kCanonicalNan16;
  const std::uint32_t sign = (x >> 16) & 0x8000U;
  const bool negative = sign != 0;
  const std::uint32_t exponent = (x >> 23) & 0xffU;
  std::uint32_t y = 0x7c00U;  // infinity
  if (exponent != 0xffU) {
    const int e = static_cast<int>(exponent) - 127 + 15;
    const std::uint32_t mantissa = (x & 0x7fffffU) | (exponent != 0 ? 0x800000U : 0U);
    const bool denormal = e < 1;
    const int shift = denormal ? 13 + 1 - e : 13;
    const std::uint32_t kept = shift < 32 ? mantissa >> shift : 0;
    // All that does not fit into 32 bits is far below half a unit: a sticky bit stands for it.
    const std::uint32_t dropped = shift <= 31 ? mantissa << (32 - shift) : (mantissa != 0 ? 1U : 0U);
    y = denormal ? kept : (static_cast<std::uint32_t>(e - 1) << 10) + kept;
    const bool odd = (y & 1) != 0;
    const bool grows = kMode == Round::stochastic_nearest && denormal
                           ? rounds_up<Round::nearest>(dropped, odd, negative, 0)
                           : rounds_up<kMode>(dropped, odd, negative, random);
    y += grows ? 1U : 0U;
    if (y > 0x7c00U || e > 30) {  // beyond the largest number
      const bool to_infinity = kMode == Round::nearest || kMode == Round::away || kMode == Round::stochastic ||
                               kMode == Round::stochastic_nearest || (kMode == Round::up && !negative) ||
                               (kMode == Round::down && negative);
      y = to_infinity ? 0x7c00U : 0x7bffU;
    }
  }
  if (clip && y == 0x7c00U) y = 0x7bffU;
  return static_cast<std::uint16_t>(sign | y);
}

constexpr float float_from_bf16_bits(std::uint16_t x) { return from_bits(static_cast<std::uint32_t>(x) << 16); }

constexpr float float_from_half_bits(std::uint16_t x) {
  const std::uint32_t sign = (x & 0x8000U) << 16;
  const std::uint32_t exponent = (x >> 10) & 0x1fU;
  const std::uint32_t mantissa = x & 0x3ffU;
  if (exponent == 31) return from_bits(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) return from_bits(sign | ((exponent + 127 - 15) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return from_bits(sign | bits(magnitude));
}

}  // namespace gaudi3_rt::tpc

// The scalar types of TPC-C. They compute as float: every operation is rounded when it is stored.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  template <class S>
    requires std::is_arithmetic_v<S>
  constexpr bf16(S x)
      : bits(gaudi3_rt::tpc::bf16_bits<gaudi3_rt::tpc::Round::nearest>(
            std::bit_cast<std::uint32_t>(static_cast<float>(x)))) {}
  constexpr operator float() const { return gaudi3_rt::tpc::float_from_bf16_bits(bits); }
  bf16& operator+=(float x) { return *this = bf16(float(*this) + x); }
  bf16& operator-=(float x) { return *this = bf16(float(*this) - x); }
  bf16& operator*=(float x) { return *this = bf16(float(*this) * x); }
};
using bfloat = bf16;

struct half {
  std::uint16_t bits;
  half() = default;
  template <class S>
    requires std::is_arithmetic_v<S>
  constexpr half(S x)
      : bits(gaudi3_rt::tpc::half_bits<gaudi3_rt::tpc::Round::nearest>(
            std::bit_cast<std::uint32_t>(static_cast<float>(x)))) {}
  constexpr operator float() const { return gaudi3_rt::tpc::float_from_half_bits(bits); }
  half& operator+=(float x) { return *this = half(float(*this) + x); }
  half& operator-=(float x) { return *this = half(float(*this) - x); }
  half& operator*=(float x) { return *this = half(float(*this) * x); }
};

namespace gaudi3_rt::tpc {

constexpr bf16 bf16_from_bits(std::uint16_t x) { return std::bit_cast<bf16>(x); }
constexpr half half_from_bits(std::uint16_t x) { return std::bit_cast<half>(x); }

template <class E>
inline constexpr bool kIsFloat = std::is_same_v<E, float> || std::is_same_v<E, bf16> || std::is_same_v<E, half>;

// The unsigned integer of an element's width.
template <class E>
using BitsOf =
    std::conditional_t<sizeof(E) == 4, std::uint32_t, std::conditional_t<sizeof(E) == 2, std::uint16_t, std::uint8_t>>;

constexpr bf16 flush(bf16 x) { return bf16_from_bits((x.bits & 0x7f80U) != 0 ? x.bits : x.bits & 0x8000U); }
constexpr half flush(half x) { return half_from_bits((x.bits & 0x7c00U) != 0 ? x.bits : x.bits & 0x8000U); }

// A float that stands for an exact result, to an element: rounded once, without denormals.
template <class E>
inline E narrow(float x) {
  if constexpr (std::is_same_v<E, bf16>) return flush(bf16_from_bits(bf16_bits<Round::nearest>(bits(x))));
  if constexpr (std::is_same_v<E, half>) return flush(half_from_bits(half_bits<Round::nearest>(bits(x))));
  if constexpr (std::is_same_v<E, float>) return finish(x);
}

template <class E>
  requires(sizeof(E) == 2 && kIsFloat<E>)
inline E add(E a, E b) {
  return narrow<E>(static_cast<float>(flush(a)) + static_cast<float>(flush(b)));
}
template <class E>
  requires(sizeof(E) == 2 && kIsFloat<E>)
inline E mul(E a, E b) {
  return narrow<E>(static_cast<float>(flush(a)) * static_cast<float>(flush(b)));
}
template <class E>
  requires(sizeof(E) == 2 && kIsFloat<E>)
inline E fma(E a, E b, E c) {
  const double product = static_cast<double>(float(flush(a))) * static_cast<double>(float(flush(b)));
  return narrow<E>(to_odd(add_to_odd(product, static_cast<double>(float(flush(c))))));
}

// --- the lane operations that vectors' operators have ---

template <class E>
  requires std::is_integral_v<E>
constexpr E add(E a, E b) {
  return static_cast<E>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}
template <class E>
  requires std::is_integral_v<E>
constexpr E mul(E a, E b) {
  return static_cast<E>(static_cast<std::uint32_t>(a) * static_cast<std::uint32_t>(b));
}

// The sign bit alone; integers wrap.
constexpr float negate(float x) { return from_bits(bits(x) ^ 0x80000000U); }
constexpr bf16 negate(bf16 x) { return bf16_from_bits(x.bits ^ 0x8000U); }
constexpr half negate(half x) { return half_from_bits(x.bits ^ 0x8000U); }
template <class E>
  requires std::is_integral_v<E>
constexpr E negate(E x) {
  return static_cast<E>(0U - static_cast<std::uint32_t>(x));
}

template <class E>
inline E sub(E a, E b) {
  return add(a, negate(b));
}

// x / y as the compiler lowers it: times the rounded reciprocal, so not correctly rounded.
inline float divide(float x, float y) { return mul(x, finish(1.0F / flush(y))); }
template <class E>
  requires(sizeof(E) == 2 && kIsFloat<E>)
inline E divide(E x, E y) {
  return narrow<E>(divide(float(flush(x)), float(flush(y))));
}

// The nearest number of a type.
template <class E>
constexpr E saturate(std::int64_t x) {
  constexpr std::int64_t low = std::numeric_limits<E>::min();
  constexpr std::int64_t high = std::numeric_limits<E>::max();
  return static_cast<E>(x < low ? low : x > high ? high : x);
}

// Shifts. What hardware does with counts beyond the width is not known: here all bits leave.
template <class E>
inline bool shift_leaves(E, int count) {
  const bool leaves = count < 0 || count >= static_cast<int>(8 * sizeof(E));
  if (leaves && checking()) fail("A shift by %d of %d bits is not defined.", count, static_cast<int>(8 * sizeof(E)));
  return leaves;
}
template <class E, class C>
inline E shift_left(E x, C count) {
  const int n = static_cast<int>(count);
  return shift_leaves(x, n) ? E(0) : static_cast<E>(static_cast<std::uint32_t>(x) << n);
}
// Fills with the sign of a signed type.
template <class E, class C>
inline E shift_right(E x, C count) {
  const int n = static_cast<int>(count);
  return shift_leaves(x, n) ? static_cast<E>(x < 0 ? -1 : 0) : static_cast<E>(x >> n);
}

}  // namespace gaudi3_rt::tpc
