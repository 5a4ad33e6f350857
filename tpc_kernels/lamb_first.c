/* LAMB's first pass: new moments, and for every member the sums of squares of parameter and direction. */
#include "sums.h"

#include "lamb.h"

/* The moments of one vector are written; returns its direction. */
static inline float64 step_vector(int element, float64 param, float64 grad, Constants c, tensor exp_avg_in,
                                  tensor exp_avg_sq_in, tensor exp_avg_out, tensor exp_avg_sq_out) {
  const int5 at = g3rt_at(element);
#ifdef L2
  grad = v_f32_mac_b(param, c.weight_decay, grad);
#endif
  float64 exp_avg = v_f32_ld_tnsr_b(at, exp_avg_in);
  exp_avg = v_f32_mac_b(exp_avg, c.beta1, v_f32_mul_b(grad, c.beta3));
  float64 exp_avg_sq = v_f32_ld_tnsr_b(at, exp_avg_sq_in);
  const float64 square = v_f32_mul_b(grad, grad);
  exp_avg_sq = v_f32_mac_b(exp_avg_sq, c.beta2, v_f32_mul_b(square, c.one_minus_beta2));
  v_f32_st_tnsr(at, exp_avg_out, exp_avg);
  v_f32_st_tnsr(at, exp_avg_sq_out, exp_avg_sq);
  return direction(param, exp_avg, exp_avg_sq, c);
}

void main(tensor param_in, tensor grad_in, tensor exp_avg_in, tensor exp_avg_sq_in, tensor scalars, tensor exp_avg_out,
          tensor exp_avg_sq_out, tensor param_sums, tensor update_sums) {
  const Constants constants = read_constants(scalars);
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = get_dim_size(param_in, 0);
  for (int member = first[0]; member < first[0] + count[0]; ++member) {
    const int begin = member * G3RT_MEMBER_ELEMENTS;
    Sum params = g3rt_zero_sum();
    Sum updates = g3rt_zero_sum();
#pragma loop_unroll(4)
    for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += 2 * G3RT_LANES) {
      const float128 param = g3rt_load_f32(element, param_in);
      const float128 grad = G3RT_LOAD(element, grad_in);
      float128 update;
      update.v1 = step_vector(element, param.v1, v_f32_mul_b(grad.v1, grad_factor), constants, exp_avg_in,
                              exp_avg_sq_in, exp_avg_out, exp_avg_sq_out);
      update.v2 = step_vector(element + G3RT_LANES, param.v2, v_f32_mul_b(grad.v2, grad_factor), constants, exp_avg_in,
                              exp_avg_sq_in, exp_avg_out, exp_avg_sq_out);
      params = g3rt_add_squares(params, g3rt_pair_below(param, element, end));
      updates = g3rt_add_squares(updates, g3rt_pair_below(update, element, end));
    }
    g3rt_store_sum(member, param_sums, params);
    g3rt_store_sum(member, update_sums, updates);
  }
}
