/* x times a factor that stands in a tensor; with COUNT_NONFINITE also how many elements of a member are infinite or NaN
   before that, which is what unscaling gradients needs. */
#include "sums.h"

void main(tensor x, tensor factor, tensor scaled
#ifdef COUNT_NONFINITE
          ,
          tensor nonfinite
#endif
) {
  const float by = g3rt_scalar(factor, 0);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
#ifdef COUNT_NONFINITE
  const int end = get_dim_size(x, 0);
#endif
  for (int member = first[0]; member < first[0] + count[0]; ++member) {
    const int begin = member * G3RT_MEMBER_ELEMENTS;
#ifdef COUNT_NONFINITE
    Sum bad = g3rt_zero_sum();
#endif
#pragma loop_unroll(4)
    for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += 2 * G3RT_LANES) {
      float128 values = G3RT_LOAD(element, x);
#ifdef COUNT_NONFINITE
      bad = g3rt_count_nonfinite(bad, g3rt_pair_below(values, element, end));
#endif
      values.v1 = v_f32_mul_b(values.v1, by);
      values.v2 = v_f32_mul_b(values.v2, by);
      G3RT_STORE(element, scaled, values);
    }
#ifdef COUNT_NONFINITE
    g3rt_store_sum(member, nonfinite, bad);
#endif
  }
}
