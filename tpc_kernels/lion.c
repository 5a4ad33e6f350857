/* The formula of csrc/kernels/lion.h. */
#define STATES 1
#include "step.h"

typedef struct {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, lr, decay;
} Constants;
#define CONSTANTS 6

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.beta1 = g3rt_scalar(scalars, 0);
  c.one_minus_beta1 = g3rt_scalar(scalars, 1);
  c.beta2 = g3rt_scalar(scalars, 2);
  c.one_minus_beta2 = g3rt_scalar(scalars, 3);
  c.lr = g3rt_scalar(scalars, 4);
  c.decay = g3rt_scalar(scalars, 5);
  return c;
}

static inline Elements step(Elements x, Constants c) {
  const float64 direction = v_f32_mac_b(x.state0, c.beta1, v_f32_mul_b(x.grad, c.one_minus_beta1));
  /* Its sign; zero and NaN stay what they are. */
  float64 sign = v_f32_sel_grt_f32_b(direction, 0.0f, 1.0f, direction);
  sign = v_f32_sel_less_f32_b(direction, 0.0f, -1.0f, sign);
  x.param = v_f32_sub_b(x.param, v_f32_mac_b(x.param, c.decay, v_f32_mul_b(sign, c.lr)));
  x.state0 = v_f32_mac_b(x.state0, c.beta2, v_f32_mul_b(x.grad, c.one_minus_beta2));
  return x;
}

#include "step_main.h"
