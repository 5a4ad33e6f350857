/* Sums over the elements of a member, one number a member, and the sum of such numbers. */
#ifndef GAUDI3_RT_TPC_SUMS_H
#define GAUDI3_RT_TPC_SUMS_H

#include "elements.h"

/* Four running sums of vectors, so that an addition need not wait for the one before. */
typedef struct {
  float64 v1, v2, v3, v4;
} Sum;

/* 256 elements in the order of memory. */
typedef struct {
  float128 first, second;
} Quad;

#define G3RT_QUAD_ELEMENTS (4 * G3RT_LANES)

static inline Quad g3rt_load_quad_f32(int element, const tensor x) {
  Quad quad;
  quad.first = g3rt_load_f32(element, x);
  quad.second = g3rt_load_f32(element + 2 * G3RT_LANES, x);
  return quad;
}

static inline Quad g3rt_load_quad(int element, const tensor x) {
  Quad quad;
  quad.first = G3RT_LOAD(element, x);
  quad.second = G3RT_LOAD(element + 2 * G3RT_LANES, x);
  return quad;
}

static inline void g3rt_store_quad(int element, const tensor x, Quad quad) {
  G3RT_STORE(element, x, quad.first);
  G3RT_STORE(element + 2 * G3RT_LANES, x, quad.second);
}

static inline Quad g3rt_scale_quad(Quad x, float by) {
  x.first.v1 = v_f32_mul_b(x.first.v1, by);
  x.first.v2 = v_f32_mul_b(x.first.v2, by);
  x.second.v1 = v_f32_mul_b(x.second.v1, by);
  x.second.v2 = v_f32_mul_b(x.second.v2, by);
  return x;
}

/* x with zeros in the lanes of elements that are not below end. */
static inline Quad g3rt_quad_below(Quad x, int element, int end) {
  x.first.v1 = g3rt_below(x.first.v1, element, end);
  x.first.v2 = g3rt_below(x.first.v2, element + G3RT_LANES, end);
  x.second.v1 = g3rt_below(x.second.v1, element + 2 * G3RT_LANES, end);
  x.second.v2 = g3rt_below(x.second.v2, element + 3 * G3RT_LANES, end);
  return x;
}

static inline Sum g3rt_zero_sum(void) {
  Sum sum;
  sum.v1 = 0.0f;
  sum.v2 = 0.0f;
  sum.v3 = 0.0f;
  sum.v4 = 0.0f;
  return sum;
}

static inline Sum g3rt_add_squares(Sum sum, Quad x) {
  sum.v1 = v_f32_mac_b(x.first.v1, x.first.v1, sum.v1);
  sum.v2 = v_f32_mac_b(x.first.v2, x.first.v2, sum.v2);
  sum.v3 = v_f32_mac_b(x.second.v1, x.second.v1, sum.v3);
  sum.v4 = v_f32_mac_b(x.second.v2, x.second.v2, sum.v4);
  return sum;
}

static inline float64 g3rt_one_unless_finite(float64 x) {
  return v_f32_sel_geq_i32_b(v_i32_and_b(as_int64(x), 0x7fffffff), 0x7f800000, 1.0f, 0.0f);
}

/* Counts the elements that are infinite or NaN. */
static inline Sum g3rt_count_nonfinite(Sum sum, Quad x) {
  sum.v1 = v_f32_add_b(sum.v1, g3rt_one_unless_finite(x.first.v1));
  sum.v2 = v_f32_add_b(sum.v2, g3rt_one_unless_finite(x.first.v2));
  sum.v3 = v_f32_add_b(sum.v3, g3rt_one_unless_finite(x.second.v1));
  sum.v4 = v_f32_add_b(sum.v4, g3rt_one_unless_finite(x.second.v2));
  return sum;
}

/* Writes the sum as the member's. */
static inline void g3rt_store_sum(int member, const tensor partials, Sum sum) {
  const float64 all = v_f32_add_b(v_f32_add_b(sum.v1, sum.v2), v_f32_add_b(sum.v3, sum.v4));
  g3rt_store_one(member, partials, g3rt_sum_lanes(all));
}

/* treat(member, masked, end, ...) for each member of an invocation. Only the last can reach past the end of x and so
   have lanes to mask; masked is a constant, so that the loop over the others has no trace of it. */
#define G3RT_EACH_MEMBER(x, treat, ...)                                  \
  do {                                                                   \
    const int5 first = get_index_space_offset();                         \
    const int5 count = get_index_space_size();                           \
    const int end = get_dim_size(x, 0);                                  \
    const int members = first[0] + count[0];                             \
    const int whole = s_i32_min(members, end / G3RT_MEMBER_ELEMENTS);    \
    int member = first[0];                                               \
    for (; member < whole; ++member) treat(member, 0, end, __VA_ARGS__); \
    if (member < members) treat(member, 1, end, __VA_ARGS__);            \
  } while (0)

/* The sum of a tensor, in every lane. What an addition rounds away is summed up too, so the error does not grow with
   the number of elements. */
static inline float64 g3rt_sum_tensor(const tensor x, int end) {
  float64 sum = 0.0f;
  float64 lost = 0.0f;
#pragma loop_unroll(4) unaligned_trip_count
  for (int element = 0; element < end; element += G3RT_LANES) {
    const float64 next = g3rt_below(v_f32_ld_tnsr_b(g3rt_at(element), x), element, end);
    const float64 larger = v_f32_add_b(sum, next);
    const float64 added = v_f32_sub_b(larger, sum);
    const float64 of_sum = v_f32_sub_b(sum, v_f32_sub_b(larger, added));
    lost = v_f32_add_b(lost, v_f32_add_b(of_sum, v_f32_sub_b(next, added)));
    sum = larger;
  }
  /* Of an infinite sum nothing is lost. */
  const float64 both = v_f32_add_b(sum, lost);
  return g3rt_sum_lanes(v_f32_sel_eq_f32_b(both, both, both, sum));
}

#endif
