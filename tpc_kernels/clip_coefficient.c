/* Norm of all gradients, from the sums of squares of their tensors, and what clipping multiplies them by, as
   torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + eps)); a NaN stays one. scalars: max_norm, eps. */
#include "roots.h"
#include "sums.h"

void main(tensor sums, tensor scalars, tensor norm, tensor coefficient) {
  const float max_norm = g3rt_scalar(scalars, 0);
  const float eps = g3rt_scalar(scalars, 1);
  const float64 root = g3rt_sqrt(g3rt_sum_tensor(sums, get_dim_size(sums, 0)));
  const float64 ratio = g3rt_divide(max_norm, v_f32_add_b(root, eps));
  g3rt_store_one(0, norm, root);
  g3rt_store_one(0, coefficient, v_f32_sel_grt_f32_b(ratio, 1.0f, 1.0f, ratio));
}
