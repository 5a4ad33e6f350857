/* Sums over the elements of a member, one number a member, and the sum of such numbers. */
#ifndef GAUDI3_RT_TPC_SUMS_H
#define GAUDI3_RT_TPC_SUMS_H

#include "elements.h"

/* Two running sums of vectors, so that one addition need not wait for the other. */
typedef struct {
  float64 even, odd;
} Sum;

static inline Sum g3rt_zero_sum(void) {
  Sum sum;
  sum.even = 0.0f;
  sum.odd = 0.0f;
  return sum;
}

static inline Sum g3rt_add_squares(Sum sum, float128 x) {
  sum.even = v_f32_mac_b(x.v1, x.v1, sum.even);
  sum.odd = v_f32_mac_b(x.v2, x.v2, sum.odd);
  return sum;
}

static inline float64 g3rt_one_unless_finite(float64 x) {
  return v_f32_sel_geq_i32_b(v_i32_and_b(as_int64(x), 0x7fffffff), 0x7f800000, 1.0f, 0.0f);
}

/* Counts the elements that are infinite or NaN. */
static inline Sum g3rt_count_nonfinite(Sum sum, float128 x) {
  sum.even = v_f32_add_b(sum.even, g3rt_one_unless_finite(x.v1));
  sum.odd = v_f32_add_b(sum.odd, g3rt_one_unless_finite(x.v2));
  return sum;
}

/* Writes the sum as the member's. */
static inline void g3rt_store_sum(int member, const tensor partials, Sum sum) {
  g3rt_store_one(member, partials, g3rt_sum_lanes(v_f32_add_b(sum.even, sum.odd)));
}

/* x with zeros in the lanes of elements that are not below end. */
static inline float128 g3rt_pair_below(float128 x, int element, int end) {
  x.v1 = g3rt_below(x.v1, element, end);
  x.v2 = g3rt_below(x.v2, element + G3RT_LANES, end);
  return x;
}

/* The sum of a tensor, in every lane. What an addition rounds away is summed up too, so the error does not grow with
   the number of elements. */
static inline float64 g3rt_sum_tensor(const tensor x) {
  const int end = get_dim_size(x, 0);
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
