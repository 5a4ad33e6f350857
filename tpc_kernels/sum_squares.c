/* For every member the sum of the squares of its elements, and how many are infinite or NaN. */
#include "sums.h"

void main(tensor x, tensor sums, tensor nonfinite) {
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = get_dim_size(x, 0);
  for (int member = first[0]; member < first[0] + count[0]; ++member) {
    const int begin = member * G3RT_MEMBER_ELEMENTS;
    Sum squares = g3rt_zero_sum();
    Sum bad = g3rt_zero_sum();
#pragma loop_unroll(4)
    for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += 2 * G3RT_LANES) {
      const float128 values = g3rt_pair_below(G3RT_LOAD(element, x), element, end);
      squares = g3rt_add_squares(squares, values);
      bad = g3rt_count_nonfinite(bad, values);
    }
    g3rt_store_sum(member, sums, squares);
    g3rt_store_sum(member, nonfinite, bad);
  }
}
