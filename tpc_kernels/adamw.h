/* The formula of csrc/kernels/adamw.h, which says where it comes from, operation by operation. */
#ifndef GAUDI3_RT_TPC_ADAMW_H
#define GAUDI3_RT_TPC_ADAMW_H

#ifdef AMSGRAD
#define STATES 3
#else
#define STATES 2
#endif
#include "step.h"

typedef struct {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, step_size, rsqrt_c2;
} AdamWConstants;
#define ADAMW_CONSTANTS 8

static inline AdamWConstants read_adamw_constants(tensor scalars) {
  AdamWConstants c;
  c.beta1 = g3rt_scalar(scalars, 0);
  c.one_minus_beta1 = g3rt_scalar(scalars, 1);
  c.beta2 = g3rt_scalar(scalars, 2);
  c.one_minus_beta2 = g3rt_scalar(scalars, 3);
  c.eps = g3rt_scalar(scalars, 4);
  c.decay = g3rt_scalar(scalars, 5);
  c.step_size = g3rt_scalar(scalars, 6);
  c.rsqrt_c2 = g3rt_scalar(scalars, 7);
  return c;
}

/* state0: exp_avg, state1: exp_avg_sq, state2: its maximum. */
static inline Elements adamw_step(Elements x, AdamWConstants c) {
  x.state0 = v_f32_mac_b(x.state0, c.beta1, v_f32_mul_b(x.grad, c.one_minus_beta1));
  const float64 square = v_f32_mul_b(x.grad, x.grad);
  x.state1 = v_f32_mac_b(x.state1, c.beta2, v_f32_mul_b(square, c.one_minus_beta2));
#ifdef AMSGRAD
  /* The larger one; a NaN on either side wins. What was loaded may be denormal, and whether a comparison takes that for
     zero is not public: a product does. */
  const float64 flushed = v_f32_mul_b(x.state2, 1.0f);
  const float64 larger = v_f32_sel_less_f32_b(flushed, x.state1, x.state1, x.state2);
  x.state2 = v_f32_sel_neq_f32_b(x.state1, x.state1, x.state1, larger);
  const float64 second = x.state2;
#else
  const float64 second = x.state1;
#endif
  float64 denominator = c.eps;
  denominator = v_f32_mac_b(g3rt_sqrt(second), c.rsqrt_c2, denominator);
  const float64 update = v_f32_mul_b(g3rt_divide(x.state0, denominator), c.step_size);
  x.param = v_f32_sub_b(x.param, v_f32_mac_b(x.param, c.decay, update));
  return x;
}

#endif
