/* For every member the sum of the squares of its elements, and how many are infinite or NaN. */
#include "sums.h"

static inline void sum_member(int member, int masked, int end, tensor x, tensor sums, tensor nonfinite) {
  const int begin = member * G3RT_MEMBER_ELEMENTS;
  Sum squares = g3rt_zero_sum();
  Sum bad = g3rt_zero_sum();
#pragma unroll(4)
  for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += G3RT_QUAD_ELEMENTS) {
    Quad values = g3rt_load_quad(element, x);
    if (masked) values = g3rt_quad_below(values, element, end);
    squares = g3rt_add_squares(squares, values);
    bad = g3rt_count_nonfinite(bad, values);
  }
  g3rt_store_sum(member, sums, squares);
  g3rt_store_sum(member, nonfinite, bad);
}

void main(tensor x, tensor sums, tensor nonfinite) { G3RT_EACH_MEMBER(x, sum_member, x, sums, nonfinite); }
