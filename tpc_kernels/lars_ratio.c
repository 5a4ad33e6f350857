/* By how much LARS scales the gradient: Lars::trust() of csrc/kernels/lars.h, in f32. */
#include "roots.h"
#include "sums.h"

#include "lars.h"

void main(tensor param_sums, tensor grad_sums, tensor scalars, tensor ratio) {
  const float rate = g3rt_scalar(scalars, RATE);
  const float coeff = g3rt_scalar(scalars, TRUST_COEFF);
  const float decay = g3rt_scalar(scalars, DECAY);
  const float eps = g3rt_scalar(scalars, EPS_NORM);
  const float clips = g3rt_scalar(scalars, CLIPS);
  const float adapts = g3rt_scalar(scalars, ADAPTS);
  const float64 param = g3rt_sqrt(g3rt_sum_tensor(param_sums, get_dim_size(param_sums, 0)));
  const float64 grad = g3rt_sqrt(g3rt_sum_tensor(grad_sums, get_dim_size(grad_sums, 0)));

  const float64 size = v_f32_add_b(v_f32_mac_b(param, decay, grad), eps);
  float64 trust = g3rt_divide(v_f32_mul_b(param, coeff), size);
  trust = v_f32_sel_eq_f32_b(param, 0.0f, 1.0f, trust);
  trust = v_f32_sel_eq_f32_b(grad, 0.0f, 1.0f, trust);
  /* So written that a NaN stays one. */
  const float64 per_rate = g3rt_divide(trust, rate);
  const float64 clipped = v_f32_sel_grt_f32_b(per_rate, 1.0f, 1.0f, per_rate);
  trust = v_f32_sel_eq_f32_b(clips, 0.0f, trust, clipped);
  g3rt_store_one(0, ratio, v_f32_sel_eq_f32_b(adapts, 0.0f, 1.0f, trust));
}
