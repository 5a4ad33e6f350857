/* The formula of csrc/kernels/ema.h: the average stands in the place of the parameter, what it follows in that of the
   gradient. */
#define STATES 0
#include "step.h"

typedef struct {
  float one_minus_decay;
} Constants;
#define CONSTANTS 1

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.one_minus_decay = g3rt_scalar(scalars, 0);
  return c;
}

static inline Elements step(Elements x, Constants c) {
  x.param = v_f32_mac_b(v_f32_sub_b(x.grad, x.param), c.one_minus_decay, x.param);
  return x;
}

#include "step_main.h"
