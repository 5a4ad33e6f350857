// Instructions of the index registers: i_i32_*, set_indx, mov_irf_dim, and where in the index space the kernel runs.
#pragma once
#include "state.h"
#include "types.h"

namespace gaudi3_rt::tpc {

// f in the dimensions of the mask, income in the others.
template <class F>
int5 in_dimensions(int mask, bool predicate, bool polarity, const int5& income, F f) {
  if (predicate == polarity) return income;
  int5 result = income;
  for (int d = 0; d < kMaxDims; ++d) {
    if (((mask >> d) & 1) != 0) result.lane[d] = f(d);
  }
  return result;
}

}  // namespace gaudi3_rt::tpc

// Two operands in 32 bits; x and y are their values in a dimension.
#define G3RT_COORDINATES(name, expression)                                                                       \
  G3RT_INTRINSIC int5 i_i32_##name(const int5& a, const int5& b, int mask, int /*switches*/, const int5& income, \
                                   bool predicate = true, bool polarity = false) {                               \
    return gaudi3_rt::tpc::in_dimensions(mask, predicate, polarity, income, [&](int d) {                         \
      [[maybe_unused]] const int sx = a.lane[d], sy = b.lane[d];                                                 \
      [[maybe_unused]] const auto x = static_cast<std::uint32_t>(sx), y = static_cast<std::uint32_t>(sy);        \
      return static_cast<int>(expression);                                                                       \
    });                                                                                                          \
  }
G3RT_COORDINATES(add, x + y)
G3RT_COORDINATES(sub, x - y)
G3RT_COORDINATES(mul, x* y)
G3RT_COORDINATES(and, x& y)
G3RT_COORDINATES(or, x | y)
G3RT_COORDINATES(xor, x ^ y)
G3RT_COORDINATES(min, sx < sy ? sx : sy)
G3RT_COORDINATES(max, sx > sy ? sx : sy)
G3RT_COORDINATES(shl, y < 32 ? x << y : 0)
G3RT_COORDINATES(shr, y < 32 ? x >> y : 0)
#undef G3RT_COORDINATES

#define G3RT_COORDINATES(name, expression)                                                        \
  G3RT_INTRINSIC int5 i_i32_##name(const int5& a, int mask, int /*switches*/, const int5& income, \
                                   bool predicate = true, bool polarity = false) {                \
    return gaudi3_rt::tpc::in_dimensions(mask, predicate, polarity, income, [&](int d) {          \
      const int x = a.lane[d];                                                                    \
      return expression;                                                                          \
    });                                                                                           \
  }
G3RT_COORDINATES(abs, x < 0 ? -x : x)
G3RT_COORDINATES(not, ~x)
G3RT_COORDINATES(mov, x)
#undef G3RT_COORDINATES

// A comparison is of one dimension.
#define G3RT_COORDINATES(name, SYMBOL)                                                                             \
  G3RT_INTRINSIC bool i_i32_cmp_##name(const int5& a, const int5& b, int mask, bool income, bool predicate = true, \
                                       bool polarity = false) {                                                    \
    if (predicate == polarity) return income;                                                                      \
    if (mask <= 0 || (mask & (mask - 1)) != 0 || mask > 16) {                                                      \
      gaudi3_rt::tpc::fail("A comparison of coordinates in other than one dimension (mask %d) is not documented.", \
                           mask);                                                                                  \
    }                                                                                                              \
    const int d = __builtin_ctz(static_cast<unsigned>(mask));                                                      \
    return a.lane[d] SYMBOL b.lane[d];                                                                             \
  }
G3RT_COORDINATES(eq, ==)
G3RT_COORDINATES(neq, !=)
G3RT_COORDINATES(less, <)
G3RT_COORDINATES(leq, <=)
G3RT_COORDINATES(grt, >)
G3RT_COORDINATES(geq, >=)
#undef G3RT_COORDINATES

inline int5 set_indx(int value, const int5& c, int mask, int /*switches*/ = 0, bool predicate = true,
                     bool polarity = false) {
  return gaudi3_rt::tpc::in_dimensions(mask, predicate, polarity, c, [&](int) { return value; });
}
inline int mov_irf_dim(const int5& c, int dim, int /*switches*/ = 0, int income = 0, bool predicate = true,
                       bool polarity = false) {
  if (dim < 0 || dim >= gaudi3_rt::tpc::kMaxDims) gaudi3_rt::tpc::fail("Coordinates have no dimension %d.", dim);
  return predicate == polarity ? income : c.lane[dim];
}

inline int5 get_index_space_offset() {
  int5 c;
  for (int d = 0; d < 5; ++d) c.lane[d] = gaudi3_rt::tpc::machine.run->boxes[gaudi3_rt::tpc::machine.box].offset[d];
  return c;
}
inline int5 get_index_space_size() {
  int5 c;
  for (int d = 0; d < 5; ++d) c.lane[d] = gaudi3_rt::tpc::machine.run->boxes[gaudi3_rt::tpc::machine.box].size[d];
  return c;
}
