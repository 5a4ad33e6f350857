/* By how much LAMB's direction is scaled: the norm of the parameter over its own, unless one of them is zero. */
#include "sums.h"

#include "lamb.h"

void main(tensor param_sums, tensor update_sums, tensor scalars, tensor ratio) {
  const float adapts = g3rt_scalar(scalars, ADAPTS);
  const float64 param = g3rt_sqrt(g3rt_sum_tensor(param_sums, get_dim_size(param_sums, 0)));
  const float64 update = g3rt_sqrt(g3rt_sum_tensor(update_sums, get_dim_size(update_sums, 0)));
  float64 value = g3rt_divide(param, update);
  value = v_f32_sel_eq_f32_b(param, 0.0f, 1.0f, value);
  value = v_f32_sel_eq_f32_b(update, 0.0f, 1.0f, value);
  g3rt_store_one(0, ratio, v_f32_sel_eq_f32_b(adapts, 0.0f, 1.0f, value));
}
