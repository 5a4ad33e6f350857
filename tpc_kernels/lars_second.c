/* LARS's second pass: Lars::second() of csrc/kernels/lars.h; with NESTEROV its variant. */
#include "elements.h"

#include "lars.h"

typedef struct {
  float lr, momentum, one_minus_dampening, weight_decay, ratio;
} Constants;

/* The momentum of one vector is written; returns the new parameters. */
static inline float64 step_vector(int element, float64 param, float64 grad, Constants c, tensor momentum_in,
                                  tensor momentum_out) {
  const int5 at = g3rt_at(element);
  const float64 scaled = v_f32_mul_b(v_f32_mac_b(param, c.weight_decay, grad), c.ratio);
  float64 momentum = v_f32_ld_tnsr_b(at, momentum_in);
  momentum = v_f32_mac_b(momentum, c.momentum, v_f32_mul_b(scaled, c.one_minus_dampening));
  v_f32_st_tnsr(at, momentum_out, momentum);
#ifdef NESTEROV
  return v_f32_mac_b(v_f32_mac_b(momentum, c.momentum, scaled), c.lr, param, SW_NEG);
#else
  return v_f32_mac_b(momentum, c.lr, param, SW_NEG);
#endif
}

void main(tensor param_in, tensor grad_in, tensor momentum_in, tensor ratio, tensor scalars, tensor param_out,
          tensor momentum_out
#ifdef BF16
          ,
          tensor param_bf16
#endif
) {
  Constants constants;
  constants.lr = g3rt_scalar(scalars, LR);
  constants.momentum = g3rt_scalar(scalars, MOMENTUM);
  constants.one_minus_dampening = g3rt_scalar(scalars, ONE_MINUS_DAMPENING);
  constants.weight_decay = g3rt_scalar(scalars, WEIGHT_DECAY);
  constants.ratio = g3rt_scalar(ratio, 0);
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 2 * G3RT_LANES) {
    const float128 grad = G3RT_LOAD(element, grad_in);
    float128 param = g3rt_load_f32(element, param_in);
    param.v1 = step_vector(element, param.v1, v_f32_mul_b(grad.v1, grad_factor), constants, momentum_in, momentum_out);
    param.v2 = step_vector(element + G3RT_LANES, param.v2, v_f32_mul_b(grad.v2, grad_factor), constants, momentum_in,
                           momentum_out);
    g3rt_store_f32(element, param_out, param);
#ifdef BF16
    g3rt_store_bf16(element, param_bf16, param);
#endif
  }
}
