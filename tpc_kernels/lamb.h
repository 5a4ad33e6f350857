/* What the passes of LAMB share: the constants and the direction of csrc/kernels/lamb.h. With L2 the decay is part of
   the gradient instead of the direction. */
#ifndef GAUDI3_RT_TPC_LAMB_H
#define GAUDI3_RT_TPC_LAMB_H

#include "roots.h"

typedef struct {
  float lr, beta1, beta3, beta2, one_minus_beta2, eps, weight_decay, rcp_c1, rsqrt_c2;
} Constants;
/* The ratio of before the norms are known, and whether there is to be one. */
#define ADAPTS 10
#define CONSTANTS 11

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.lr = g3rt_scalar(scalars, 0);
  c.beta1 = g3rt_scalar(scalars, 1);
  c.beta3 = g3rt_scalar(scalars, 2);
  c.beta2 = g3rt_scalar(scalars, 3);
  c.one_minus_beta2 = g3rt_scalar(scalars, 4);
  c.eps = g3rt_scalar(scalars, 5);
  c.weight_decay = g3rt_scalar(scalars, 6);
  c.rcp_c1 = g3rt_scalar(scalars, 7);
  c.rsqrt_c2 = g3rt_scalar(scalars, 8);
  return c;
}

static inline float64 direction(float64 param, float64 exp_avg, float64 exp_avg_sq, Constants c) {
  float64 denominator = c.eps;
  denominator = v_f32_mac_b(g3rt_sqrt(exp_avg_sq), c.rsqrt_c2, denominator);
  const float64 update = g3rt_divide(v_f32_mul_b(exp_avg, c.rcp_c1), denominator);
#ifdef L2
  return update;
#else
  return v_f32_mac_b(param, c.weight_decay, update);
#endif
}

#endif
