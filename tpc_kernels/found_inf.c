/* 1 if any element was infinite or NaN, else what it was: torch.amp raises found_inf and never clears it. */
#include "sums.h"

void main(tensor nonfinite, tensor found_inf_in, tensor found_inf_out) {
  const float64 before = v_f32_ld_tnsr_b(g3rt_at(0), found_inf_in);
  const float64 total = g3rt_sum_tensor(nonfinite, get_dim_size(nonfinite, 0));
  g3rt_store_one(0, found_inf_out, v_f32_sel_grt_f32_b(total, 0.0f, 1.0f, before));
}
