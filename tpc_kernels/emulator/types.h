// The types of TPC-C: vectors of 2048 bits with their operators, predicates, pairs of vectors, coordinates, tensors.
// Where to find which instruction is said in tpc.h.
#pragma once
#include <cstddef>
#include <initializer_list>

#include "numbers.h"

// How the declaration of an intrinsic begins: what it is made of is instantiated where a kernel calls it. There are
// thousands of them; of plain functions a compiler instantiates all for every kernel, a third of a second each time.
#define G3RT_INTRINSIC \
  template <int = 0>   \
  inline

// Apart from the functions, so that a kernel's own function is never taken for one of them.
namespace gaudi3_rt::tpc::types {

template <class S>
concept Scalar = std::is_arithmetic_v<S> || std::is_enum_v<S> || std::is_same_v<S, bf16> || std::is_same_v<S, half>;

// A number as C converts it; a float that no integer of the type is near to saturates, and NaN is 0.
template <class To, class From>
constexpr To scalar_cast(From x) {
  if constexpr (kIsFloat<From> && !std::is_same_v<From, float>) {
    return scalar_cast<To>(static_cast<float>(x));
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (!(x == x)) return 0;
    if (x <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (x >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

template <class E, int N>
struct alignas(N > 1 ? 256 : alignof(E)) Vector {
  using Element = E;
  static constexpr int kLanes = N;

  E lane[N];

  Vector() = default;

  // A scalar where a vector is expected is in all lanes.
  template <Scalar S>
  constexpr Vector(S scalar) : lane{} {
    const E e = static_cast<E>(scalar);
    for (int i = 0; i < N; ++i) lane[i] = e;
  }

  // A cast between as many lanes converts the numbers...
  template <class F>
    requires(!std::is_same_v<E, F>)
  explicit Vector(const Vector<F, N>& from) {
    for (int i = 0; i < N; ++i) lane[i] = scalar_cast<E>(from.lane[i]);
  }
  // ...and one between other lane counts keeps the bits.
  template <class F, int M>
    requires(M != N && sizeof(F) * M == sizeof(E) * N)
  explicit Vector(const Vector<F, M>& from) : Vector(std::bit_cast<Vector>(from)) {}

  E& operator[](int i) { return lane[i]; }
  const E& operator[](int i) const { return lane[i]; }

#define G3RT_OPERATOR(SYMBOL, EXPRESSION, WHERE)                  \
  friend Vector operator SYMBOL(const Vector& a, const Vector& b) \
    requires(WHERE)                                               \
  {                                                               \
    Vector r;                                                     \
    for (int i = 0; i < N; ++i) {                                 \
      const E x = a.lane[i];                                      \
      const E y = b.lane[i];                                      \
      r.lane[i] = EXPRESSION;                                     \
    }                                                             \
    return r;                                                     \
  }                                                               \
  Vector& operator SYMBOL## = (const Vector& b)                   \
    requires(WHERE)                                               \
  {                                                               \
    return *this = *this SYMBOL b;                                \
  }
  G3RT_OPERATOR(+, add(x, y), true)
  G3RT_OPERATOR(-, sub(x, y), true)
  G3RT_OPERATOR(*, mul(x, y), sizeof(E) > 1)
  G3RT_OPERATOR(/, divide(x, y), kIsFloat<E>)
  G3RT_OPERATOR(&, static_cast<E>(x& y), std::is_integral_v<E>)
  G3RT_OPERATOR(|, static_cast<E>(x | y), std::is_integral_v<E>)
  G3RT_OPERATOR(^, static_cast<E>(x ^ y), std::is_integral_v<E>)
  G3RT_OPERATOR(<<, shift_left(x, y), std::is_integral_v<E>)
  // Arithmetic for signed elements, unlike v_i32_shr_b.
  G3RT_OPERATOR(>>, shift_right(x, y), std::is_integral_v<E>)
#undef G3RT_OPERATOR
  Vector operator-() const {
    Vector r;
    for (int i = 0; i < N; ++i) r.lane[i] = negate(lane[i]);
    return r;
  }
  Vector operator~() const
    requires std::is_integral_v<E>
  {
    Vector r;
    for (int i = 0; i < N; ++i) r.lane[i] = static_cast<E>(~lane[i]);
    return r;
  }
};

// One byte a lane, 0 or 1.
template <int N>
struct alignas(N) Predicate {
  static constexpr int kLanes = N;

  std::uint8_t lane[N];

  Predicate() = default;

  // A scalar is a byte of eight lanes: 0 is none of them and 0xff (or -1) all.
  template <class S>
    requires std::is_integral_v<S>
  constexpr Predicate(S byte) : lane{} {
    const int b = static_cast<int>(byte) & 0xff;
    if (b != 0 && b != 0xff && checking()) fail("A predicate of all lanes is 0 or 0xff, not %d.", b);
    for (int i = 0; i < N; ++i) lane[i] = static_cast<std::uint8_t>((b >> (i % 8)) & 1);
  }

  friend Predicate operator&(const Predicate& a, const Predicate& b) {
    Predicate r;
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] & b.lane[i];
    return r;
  }
  friend Predicate operator|(const Predicate& a, const Predicate& b) {
    Predicate r;
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] | b.lane[i];
    return r;
  }
  friend Predicate operator^(const Predicate& a, const Predicate& b) {
    Predicate r;
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] ^ b.lane[i];
    return r;
  }
  friend Predicate operator~(const Predicate& a) {
    Predicate r;
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] ^ 1;
    return r;
  }
  Predicate& operator&=(const Predicate& b) { return *this = *this & b; }
  Predicate& operator|=(const Predicate& b) { return *this = *this | b; }
  Predicate& operator^=(const Predicate& b) { return *this = *this ^ b; }
};

// A coordinate of any integer type, so that braces around several of them are no narrowing.
struct Coordinate {
  int value;
  template <Scalar S>
  constexpr Coordinate(S x) : value(static_cast<int>(x)) {}
};

// Coordinates of an element: 0 is the dimension that changes fastest.
struct Coordinates {
  int lane[5];

  Coordinates() = default;
  constexpr Coordinates(std::initializer_list<Coordinate> list) : lane{} {
    int i = 0;
    for (const Coordinate c : list) lane[i++] = c.value;
  }
  template <Scalar S>
  constexpr Coordinates(S scalar) : lane{} {
    for (int& l : lane) l = static_cast<int>(scalar);
  }
  int& operator[](int i) { return lane[i]; }
  const int& operator[](int i) const { return lane[i]; }

#define G3RT_OPERATOR(SYMBOL)                                                      \
  friend Coordinates operator SYMBOL(const Coordinates& a, const Coordinates& b) { \
    Coordinates r;                                                                 \
    for (int i = 0; i < 5; ++i) r.lane[i] = a.lane[i] SYMBOL b.lane[i];            \
    return r;                                                                      \
  }                                                                                \
  Coordinates& operator SYMBOL## = (const Coordinates& b) { return *this = *this SYMBOL b; }
  G3RT_OPERATOR(+)
  G3RT_OPERATOR(-)
  G3RT_OPERATOR(*)
  G3RT_OPERATOR(&)
  G3RT_OPERATOR(|)
  G3RT_OPERATOR(^)
  G3RT_OPERATOR(<<)
  G3RT_OPERATOR(>>)
#undef G3RT_OPERATOR
};

template <class A, class B>
struct Pair {
  A v1;
  B v2;
};
template <class A>
struct Quad {
  A v1;
  A v2;
  A v3;
  A v4;
};

}  // namespace gaudi3_rt::tpc::types

namespace gaudi3_rt::tpc {
using types::Coordinates;
using types::Pair;
using types::Predicate;
using types::Quad;
using types::Vector;
}  // namespace gaudi3_rt::tpc

using float64 = gaudi3_rt::tpc::Vector<float, 64>;
using int64 = gaudi3_rt::tpc::Vector<std::int32_t, 64>;
using uint64 = gaudi3_rt::tpc::Vector<std::uint32_t, 64>;
using bfloat128 = gaudi3_rt::tpc::Vector<bf16, 128>;
using half128 = gaudi3_rt::tpc::Vector<half, 128>;
using short128 = gaudi3_rt::tpc::Vector<std::int16_t, 128>;
using ushort128 = gaudi3_rt::tpc::Vector<std::uint16_t, 128>;
using char256 = gaudi3_rt::tpc::Vector<std::int8_t, 256>;
using uchar256 = gaudi3_rt::tpc::Vector<std::uint8_t, 256>;
using bool64 = gaudi3_rt::tpc::Predicate<64>;
using bool128 = gaudi3_rt::tpc::Predicate<128>;
using bool256 = gaudi3_rt::tpc::Predicate<256>;
using int5 = gaudi3_rt::tpc::Coordinates;

// The position of a tensor among the tensor parameters of main.
struct tensor {
  int index;
  tensor() = default;
  constexpr tensor(int i) : index(i) {}
  constexpr operator int() const { return index; }
};

// Pairs: float64_int64 and float64_int64_pair_t are v1 of float64 and v2 of int64.
#define G3RT_PAIR(A, B)                       \
  using A##_##B = gaudi3_rt::tpc::Pair<A, B>; \
  using A##_##B##_pair_t = gaudi3_rt::tpc::Pair<A, B>;
#define G3RT_PAIRS_OF(A, B, C, D) G3RT_PAIR(A, A) G3RT_PAIR(A, B) G3RT_PAIR(A, C) G3RT_PAIR(A, D)
G3RT_PAIR(float64, float64)
G3RT_PAIR(float64, int64)
G3RT_PAIR(float64, uint64)
G3RT_PAIR(int64, float64)
G3RT_PAIR(int64, int64)
G3RT_PAIR(int64, uint64)
G3RT_PAIR(uint64, float64)
G3RT_PAIR(uint64, int64)
G3RT_PAIR(uint64, uint64)
G3RT_PAIRS_OF(bfloat128, half128, short128, ushort128)
G3RT_PAIRS_OF(half128, bfloat128, short128, ushort128)
G3RT_PAIRS_OF(short128, bfloat128, half128, ushort128)
G3RT_PAIRS_OF(ushort128, bfloat128, half128, short128)
G3RT_PAIR(char256, char256)
G3RT_PAIR(char256, uchar256)
G3RT_PAIR(uchar256, char256)
G3RT_PAIR(uchar256, uchar256)
#undef G3RT_PAIRS_OF
#undef G3RT_PAIR

using float64_pair_t = float64_float64;
using int64_pair_t = int64_int64;
using uint64_pair_t = uint64_uint64;
using bfloat128_pair_t = bfloat128_bfloat128;
using half128_pair_t = half128_half128;
using short128_pair_t = short128_short128;
using ushort128_pair_t = ushort128_ushort128;
using char256_pair_t = char256_char256;
using uchar256_pair_t = uchar256_uchar256;

// The number in these names is the lanes of all vectors together.
using float128 = float64_float64;
using int128 = int64_int64;
using uint128 = uint64_uint64;
using bfloat256 = bfloat128_bfloat128;
using half256 = half128_half128;
using short256 = short128_short128;
using ushort256 = ushort128_ushort128;
using char512 = char256_char256;
using uchar512 = uchar256_uchar256;
using float256 = gaudi3_rt::tpc::Quad<float64>;
using int256 = gaudi3_rt::tpc::Quad<int64>;
using uint256 = gaudi3_rt::tpc::Quad<uint64>;

struct int32_t_pair_t {
  std::int32_t v1;
  std::int32_t v2;
};
struct uint32_t_pair_t {
  std::uint32_t v1;
  std::uint32_t v2;
};

// The same bits as another type: as_int64(x), as_float(x), ...
#define G3RT_AS(name, TYPE)              \
  template <class T>                     \
  constexpr TYPE as_##name(const T& x) { \
    return std::bit_cast<TYPE>(x);       \
  }
G3RT_AS(float, float)
G3RT_AS(int, std::int32_t)
G3RT_AS(uint, std::uint32_t)
G3RT_AS(bf16, bf16)
G3RT_AS(bfloat, bf16)
G3RT_AS(half, half)
G3RT_AS(short, std::int16_t)
G3RT_AS(ushort, std::uint16_t)
G3RT_AS(char, std::int8_t)
G3RT_AS(uchar, std::uint8_t)
G3RT_AS(float64, float64)
G3RT_AS(int64, int64)
G3RT_AS(uint64, uint64)
G3RT_AS(bfloat128, bfloat128)
G3RT_AS(half128, half128)
G3RT_AS(short128, short128)
G3RT_AS(ushort128, ushort128)
G3RT_AS(char256, char256)
G3RT_AS(uchar256, uchar256)
#undef G3RT_AS
