/* The formula of csrc/kernels/adagrad.h. */
#define STATES 1
#include "step.h"

typedef struct {
  float step_size, weight_decay, eps;
} Constants;
#define CONSTANTS 3

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.step_size = g3rt_scalar(scalars, 0);
  c.weight_decay = g3rt_scalar(scalars, 1);
  c.eps = g3rt_scalar(scalars, 2);
  return c;
}

static inline Elements step(Elements x, Constants c) {
  const float64 grad = v_f32_mac_b(x.param, c.weight_decay, x.grad);
  x.state0 = v_f32_mac_b(grad, grad, x.state0);
  const float64 update = g3rt_divide(grad, v_f32_add_b(g3rt_sqrt(x.state0), c.eps));
  x.param = v_f32_mac_b(update, c.step_size, x.param, SW_NEG);
  return x;
}

#include "step_main.h"
