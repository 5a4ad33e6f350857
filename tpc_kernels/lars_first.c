/* LARS's first pass: for every member the sums of squares of parameter and gradient. */
#include "sums.h"

#include "lars.h"

static inline void sum_member(int member, int masked, int end, float grad_factor, tensor param_in, tensor grad_in,
                              tensor param_sums, tensor grad_sums) {
  const int begin = member * G3RT_MEMBER_ELEMENTS;
  Sum params = g3rt_zero_sum();
  Sum grads = g3rt_zero_sum();
#pragma unroll(4)
  for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += G3RT_QUAD_ELEMENTS) {
    Quad param = g3rt_load_quad_f32(element, param_in);
    Quad grad = g3rt_scale_quad(g3rt_load_quad(element, grad_in), grad_factor);
    if (masked) {
      param = g3rt_quad_below(param, element, end);
      grad = g3rt_quad_below(grad, element, end);
    }
    params = g3rt_add_squares(params, param);
    grads = g3rt_add_squares(grads, grad);
  }
  g3rt_store_sum(member, param_sums, params);
  g3rt_store_sum(member, grad_sums, grads);
}

void main(tensor param_in, tensor grad_in, tensor scalars, tensor param_sums, tensor grad_sums) {
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  G3RT_EACH_MEMBER(param_in, sum_member, grad_factor, param_in, grad_in, param_sums, grad_sums);
}
