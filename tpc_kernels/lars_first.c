/* LARS's first pass: for every member the sums of squares of parameter and gradient. */
#include "sums.h"

#include "lars.h"

void main(tensor param_in, tensor grad_in, tensor scalars, tensor param_sums, tensor grad_sums) {
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = get_dim_size(param_in, 0);
  for (int member = first[0]; member < first[0] + count[0]; ++member) {
    const int begin = member * G3RT_MEMBER_ELEMENTS;
    Sum params = g3rt_zero_sum();
    Sum grads = g3rt_zero_sum();
#pragma loop_unroll(4)
    for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += 2 * G3RT_LANES) {
      float128 grad = G3RT_LOAD(element, grad_in);
      grad.v1 = v_f32_mul_b(grad.v1, grad_factor);
      grad.v2 = v_f32_mul_b(grad.v2, grad_factor);
      params = g3rt_add_squares(params, g3rt_pair_below(g3rt_load_f32(element, param_in), element, end));
      grads = g3rt_add_squares(grads, g3rt_pair_below(grad, element, end));
    }
    g3rt_store_sum(member, param_sums, params);
    g3rt_store_sum(member, grad_sums, grads);
  }
}
