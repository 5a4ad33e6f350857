/* The formula of csrc/kernels/sgd.h; with MOMENTUM and NESTEROV its variants. The constant undampened is what makes the
   first step differ. */
#ifdef MOMENTUM
#define STATES 1
#else
#define STATES 0
#endif
#include "step.h"

typedef struct {
  float lr, momentum, undampened, weight_decay;
} Constants;
#define CONSTANTS 4

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.lr = g3rt_scalar(scalars, 0);
  c.momentum = g3rt_scalar(scalars, 1);
  c.undampened = g3rt_scalar(scalars, 2);
  c.weight_decay = g3rt_scalar(scalars, 3);
  return c;
}

static inline Elements step(Elements x, Constants c) {
  const float64 grad = v_f32_mac_b(x.param, c.weight_decay, x.grad);
  float64 direction = grad;
#ifdef MOMENTUM
  x.state0 = v_f32_mac_b(x.state0, c.momentum, v_f32_mul_b(grad, c.undampened));
#ifdef NESTEROV
  direction = v_f32_mac_b(x.state0, c.momentum, direction);
#else
  direction = x.state0;
#endif
#endif
  x.param = v_f32_mac_b(direction, c.lr, x.param, SW_NEG);
  return x;
}

#include "step_main.h"
