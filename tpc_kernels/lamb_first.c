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

static inline void step_member(int member, int masked, int end, Constants c, float grad_factor, tensor param_in,
                               tensor grad_in, tensor exp_avg_in, tensor exp_avg_sq_in, tensor exp_avg_out,
                               tensor exp_avg_sq_out, tensor param_sums, tensor update_sums) {
  const int begin = member * G3RT_MEMBER_ELEMENTS;
  Sum params = g3rt_zero_sum();
  Sum updates = g3rt_zero_sum();
#pragma unroll(2)
  for (int element = begin; element < begin + G3RT_MEMBER_ELEMENTS; element += G3RT_QUAD_ELEMENTS) {
    Quad param = g3rt_load_quad_f32(element, param_in);
    const Quad grad = g3rt_scale_quad(g3rt_load_quad(element, grad_in), grad_factor);
    Quad update;
#define STEP(place, offset)                                                                                        \
  update.place = step_vector(element + offset * G3RT_LANES, param.place, grad.place, c, exp_avg_in, exp_avg_sq_in, \
                             exp_avg_out, exp_avg_sq_out);
    STEP(first.v1, 0)
    STEP(first.v2, 1)
    STEP(second.v1, 2)
    STEP(second.v2, 3)
#undef STEP
    if (masked) {
      param = g3rt_quad_below(param, element, end);
      update = g3rt_quad_below(update, element, end);
    }
    params = g3rt_add_squares(params, param);
    updates = g3rt_add_squares(updates, update);
  }
  g3rt_store_sum(member, param_sums, params);
  g3rt_store_sum(member, update_sums, updates);
}

void main(tensor param_in, tensor grad_in, tensor exp_avg_in, tensor exp_avg_sq_in, tensor scalars, tensor exp_avg_out,
          tensor exp_avg_sq_out, tensor param_sums, tensor update_sums) {
  const Constants constants = read_constants(scalars);
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  G3RT_EACH_MEMBER(param_in, step_member, constants, grad_factor, param_in, grad_in, exp_avg_in, exp_avg_sq_in,
                   exp_avg_out, exp_avg_sq_out, param_sums, update_sums);
}
