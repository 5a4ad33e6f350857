/* x times a factor that stands in a tensor; with F32_TO_BF16 or BF16_TO_F32 from one dtype to the other, as gradients
   go into a bucket and come out of it. With COUNT_NONFINITE also how many elements of a member are infinite or NaN
   before that, which is what unscaling gradients needs. */
#include "sums.h"

#ifdef COUNT_NONFINITE
static inline void scale_member(int member, int masked, int end, float by, tensor x, tensor scaled, tensor nonfinite) {
  const int begin = member * G3RT_MEMBER_ELEMENTS;
  Sum bad = g3rt_zero_sum();
#pragma unroll(4)
  for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += G3RT_QUAD_ELEMENTS) {
    const Quad values = g3rt_load_quad(element, x);
    bad = g3rt_count_nonfinite(bad, masked ? g3rt_quad_below(values, element, end) : values);
    g3rt_store_quad(element, scaled, g3rt_scale_quad(values, by));
  }
  g3rt_store_sum(member, nonfinite, bad);
}

void main(tensor x, tensor factor, tensor scaled, tensor nonfinite) {
  const float by = g3rt_scalar(factor, 0);
  G3RT_EACH_MEMBER(x, scale_member, by, x, scaled, nonfinite);
}
#else
void main(tensor x, tensor factor, tensor scaled) {
  const float by = g3rt_scalar(factor, 0);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += G3RT_QUAD_ELEMENTS) {
    g3rt_store_quad(element, scaled, g3rt_scale_quad(g3rt_load_quad(element, x), by));
  }
}
#endif
