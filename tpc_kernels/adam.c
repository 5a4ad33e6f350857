/* Adam: AdamW's update of the gradient of the penalised loss, as csrc/kernels/adam.h; with AMSGRAD its variant. */
#include "adamw.h"

typedef struct {
  AdamWConstants of_update;
  float weight_decay;
} Constants;
#define CONSTANTS (ADAMW_CONSTANTS + 1)

static inline Constants read_constants(tensor scalars) {
  Constants c;
  c.of_update = read_adamw_constants(scalars);
  c.weight_decay = g3rt_scalar(scalars, ADAMW_CONSTANTS);
  return c;
}

static inline Elements step(Elements x, Constants c) {
  x.grad = v_f32_mac_b(x.param, c.weight_decay, x.grad);
  return adamw_step(x, c.of_update);
}

#include "step_main.h"
