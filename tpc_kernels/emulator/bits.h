// Bits: v_<T>_and_b, or, xor, not, shl, shr, ash, popcnt, find_first, brev; v_i1_and_b and others on predicates; the
// same on scalars. Floats are taken as their bits. shl and shr are logical for signed elements, too; ash counts in
// char256, whose byte at the start of an element counts for it: positive is left, negative is right.
#pragma once
#include "arithmetic.h"

namespace gaudi3_rt::tpc {

template <class E, class F>
inline E with_bits(F f, E x, E y) {
  using B = BitsOf<E>;
  return std::bit_cast<E>(static_cast<B>(f(std::bit_cast<B>(x), std::bit_cast<B>(y))));
}

// `and` with SW_ANDN inverts its first operand.
template <class V>
inline V bit_and(const V& a, const V& b, int switches) {
  using E = typename V::Element;
  allow(switches, 0);
  return map<V>([](E x, E y) { return with_bits([](auto p, auto q) { return p & q; }, x, y); }, a, b);
}
template <class V>
inline V bit_or(const V& a, const V& b, int switches) {
  using E = typename V::Element;
  allow(switches, 0);
  return map<V>([](E x, E y) { return with_bits([](auto p, auto q) { return p | q; }, x, y); }, a, b);
}
template <class V>
inline V bit_xor(const V& a, const V& b, int switches) {
  using E = typename V::Element;
  allow(switches, 0);
  return map<V>([](E x, E y) { return with_bits([](auto p, auto q) { return p ^ q; }, x, y); }, a, b);
}
template <class V>
inline V bit_not(const V& a, int switches) {
  using E = typename V::Element;
  allow(switches, 0);
  return map<V>([](E x) { return with_bits([](auto p, auto) { return ~p; }, x, x); }, a);
}

// Logical shifts by the counts of another vector.
template <class E>
inline E shift_logical(E x, int n, bool left) {
  using B = BitsOf<E>;
  const B b = std::bit_cast<B>(x);
  return std::bit_cast<E>(left ? shift_left(b, n) : shift_right(b, n));
}
template <class V, class C>
inline V shl(const V& a, const C& count, int switches) {
  allow(switches, 0);
  return map<V>([](auto x, auto n) { return shift_logical(x, n, true); }, a, count);
}
template <class V, class C>
inline V shr(const V& a, const C& count, int switches) {
  allow(switches, 0);
  return map<V>([](auto x, auto n) { return shift_logical(x, n, false); }, a, count);
}

// x * 2^n: to the left with SW_SAT it saturates, to the right with SW_RHU it rounds half up.
template <class E>
inline E shift_arithmetic(E x, int n, int switches) {
  constexpr int kBits = 8 * sizeof(E);
  if (n >= 0) {
    const std::int64_t wide = n >= kBits ? (x == 0  ? 0
                                            : x < 0 ? std::numeric_limits<std::int64_t>::min() / 2
                                                    : std::numeric_limits<std::int64_t>::max() / 2)
                                         : std::int64_t{x} * (std::int64_t{1} << n);
    if ((switches & SW_SAT) != 0) return saturate<E>(wide);
    return n >= kBits ? E(0) : static_cast<E>(wide);
  }
  const int right = -n;
  if (right > 40) return (switches & SW_RHU) != 0 ? E(0) : static_cast<E>(x < 0 ? -1 : 0);
  const std::int64_t half = (switches & SW_RHU) != 0 ? std::int64_t{1} << (right - 1) : 0;
  return static_cast<E>((std::int64_t{x} + half) >> right);
}
template <class E, int N>
inline Vector<E, N> ash(const Vector<E, N>& a, const char256& count, int switches) {
  allow(switches, SW_SAT | SW_RHU);
  Vector<E, N> r;
  for (int i = 0; i < N; ++i) {
    r.lane[i] = shift_arithmetic(a.lane[i], count.lane[i * static_cast<int>(sizeof(E))], switches);
  }
  return r;
}

template <class E>
inline int popcnt(E x, int switches) {
  const auto b = std::bit_cast<BitsOf<E>>(x);
  return std::popcount((switches & SW_COUNT_ONES) != 0 ? b : static_cast<BitsOf<E>>(~b));
}

// The position of the first 0 or 1 (SW_FIND_ONE) from bit 0, or from the highest bit with SW_MSB. Without any, the
// width.
template <class E>
inline int find_first(E x, int switches) {
  const auto b = std::bit_cast<BitsOf<E>>(x);
  const auto sought = (switches & SW_FIND_ONE) != 0 ? b : static_cast<BitsOf<E>>(~b);
  if (sought == 0 && checking()) fail("What find_first returns where no bit is as sought is not known.");
  return (switches & SW_MSB) != 0 ? std::countl_zero(sought) : std::countr_zero(sought);
}

// Results of a byte lie at the start of their element; the other bytes of it are zero.
template <class E, int N, class F>
inline uchar256 bytes_of(const Vector<E, N>& a, F f) {
  uchar256 r = 0;
  for (int i = 0; i < N; ++i) r.lane[i * static_cast<int>(sizeof(E))] = static_cast<std::uint8_t>(f(a.lane[i]));
  return r;
}

template <class E>
inline BitsOf<E> brev(E x) {
  auto b = std::bit_cast<BitsOf<E>>(x);
  BitsOf<E> r = 0;
  for (unsigned i = 0; i < 8 * sizeof(E); ++i, b = static_cast<BitsOf<E>>(b >> 1)) {
    r = static_cast<BitsOf<E>>((r << 1) | (b & 1));
  }
  return r;
}

template <int N>
inline uchar256 blend(const uchar256& a, const uchar256& b, const Predicate<N>& predicate, bool polarity)
  requires(N < 256)
{
  uchar256 r;
  const int bytes = 256 / N;
  for (int i = 0; i < 256; ++i) r.lane[i] = (predicate.lane[i / bytes] != 0) != polarity ? a.lane[i] : b.lane[i];
  return r;
}

}  // namespace gaudi3_rt::tpc

// V's counts are C, bit-reversed it is U.
#define X(T, V, E, M, C, U)                                                                                      \
  G3RT_FORMS_2(v_##T##_and, V, M, V, V,                                                                          \
               bit_and((switches & SW_ANDN) != 0 ? bit_not(a, 0) : a, b, switches & ~SW_ANDN))                   \
  G3RT_FORMS_2(v_##T##_or, V, M, V, V, bit_or(a, b, switches))                                                   \
  G3RT_FORMS_2(v_##T##_xor, V, M, V, V, bit_xor(a, b, switches))                                                 \
  G3RT_FORMS_1(v_##T##_not, V, M, V, bit_not(a, switches))                                                       \
  G3RT_FORMS_2(v_##T##_shl, V, M, V, C, shl(a, b, switches))                                                     \
  G3RT_FORMS_2(v_##T##_shr, V, M, V, C, shr(a, b, switches))                                                     \
  G3RT_FORMS_1(v_##T##_brev, U, M, V, map<U>([](auto x) { return brev(x); }, a))                                 \
  G3RT_FORMS_1(v_##T##_popcnt, uchar256, M, V, bytes_of(a, [=](auto x) { return popcnt(x, switches); }))         \
  G3RT_FORMS_1(v_##T##_find_first, uchar256, M, V, bytes_of(a, [=](auto x) { return find_first(x, switches); })) \
  G3RT_SCALAR_FORMS(s_##T##_and, E, (E a, E b), (bit_and(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0]))   \
  G3RT_SCALAR_FORMS(s_##T##_or, E, (E a, E b), (bit_or(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0]))     \
  G3RT_SCALAR_FORMS(s_##T##_xor, E, (E a, E b), (bit_xor(Vector<E, 1>(a), Vector<E, 1>(b), switches).lane[0]))   \
  G3RT_SCALAR_FORMS(s_##T##_not, E, (E a), (bit_not(Vector<E, 1>(a), switches).lane[0]))                         \
  G3RT_SCALAR_FORMS(s_##T##_shl, E, (E a, int8_t b), shift_logical(a, b, true))                                  \
  G3RT_SCALAR_FORMS(s_##T##_shr, E, (E a, int8_t b), shift_logical(a, b, false))                                 \
  G3RT_SCALAR_FORMS(s_##T##_brev, gaudi3_rt::tpc::BitsOf<E>, (E a), brev(a))                                     \
  G3RT_SCALAR_FORMS(s_##T##_popcnt, uint8_t, (E a), static_cast<uint8_t>(popcnt(a, switches)))                   \
  G3RT_SCALAR_FORMS(s_##T##_find_first, uint8_t, (E a), static_cast<uint8_t>(find_first(a, switches)))
X(f32, float64, float, bool64, int64, uint64)
X(bf16, bfloat128, bf16, bool128, short128, ushort128)
X(f16, half128, half, bool128, short128, ushort128)
X(i32, int64, int32_t, bool64, int64, uint64)
X(u32, uint64, uint32_t, bool64, int64, uint64)
X(i16, short128, int16_t, bool128, short128, ushort128)
X(u16, ushort128, uint16_t, bool128, short128, ushort128)
X(i8, char256, int8_t, bool256, char256, uchar256)
X(u8, uchar256, uint8_t, bool256, char256, uchar256)
#undef X

#define X(T, V, E, M)                                              \
  G3RT_FORMS_2(v_##T##_ash, V, M, V, char256, ash(a, b, switches)) \
  G3RT_SCALAR_FORMS(s_##T##_ash, E, (E a, int8_t b), shift_arithmetic(a, b, switches))
G3RT_INTEGERS(X)
#undef X

G3RT_FORMS_2(v_i1_and, bool256, bool256, bool256, bool256, (switches & SW_ANDN) != 0 ? ~a & b : a & b)
G3RT_FORMS_2(v_i1_or, bool256, bool256, bool256, bool256, a | b)
G3RT_FORMS_2(v_i1_xor, bool256, bool256, bool256, bool256, a ^ b)
G3RT_FORMS_1(v_i1_not, bool256, bool256, bool256, ~a)
G3RT_SCALAR_FORMS(s_i1_and, bool, (bool a, bool b), a&& b)
G3RT_SCALAR_FORMS(s_i1_or, bool, (bool a, bool b), a || b)
G3RT_SCALAR_FORMS(s_i1_xor, bool, (bool a, bool b), a != b)
G3RT_SCALAR_FORMS(s_i1_not, bool, (bool a), !a)
