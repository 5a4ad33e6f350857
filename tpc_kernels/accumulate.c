/* Gradients of micro-batches are added up in f32: main_grad + factor * grad, the product rounded before the sum. */
#include "elements.h"

void main(tensor main_grad, tensor grad, tensor factor, tensor accumulated) {
  const float by = g3rt_scalar(factor, 0);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 2 * G3RT_LANES) {
    const float128 addend = G3RT_LOAD(element, grad);
    float128 sum = g3rt_load_f32(element, main_grad);
    sum.v1 = v_f32_add_b(sum.v1, v_f32_mul_b(addend.v1, by));
    sum.v2 = v_f32_add_b(sum.v2, v_f32_mul_b(addend.v2, by));
    g3rt_store_f32(element, accumulated, sum);
  }
}
