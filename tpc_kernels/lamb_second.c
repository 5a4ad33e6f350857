/* LAMB's second pass: the step, by the direction that the moments give once more, times the ratio. */
#include "elements.h"

#include "lamb.h"

static inline float64 step_vector(int element, float64 param, Constants c, float rate, tensor exp_avg,
                                  tensor exp_avg_sq) {
  const int5 at = g3rt_at(element);
  const float64 update = direction(param, v_f32_ld_tnsr_b(at, exp_avg), v_f32_ld_tnsr_b(at, exp_avg_sq), c);
  return v_f32_mac_b(update, rate, param, SW_NEG);
}

void main(tensor param_in, tensor exp_avg, tensor exp_avg_sq, tensor ratio, tensor scalars, tensor param_out
#ifdef BF16
          ,
          tensor param_bf16
#endif
) {
  const Constants constants = read_constants(scalars);
  const float rate = constants.lr * g3rt_scalar(ratio, 0);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 2 * G3RT_LANES) {
    float128 param = g3rt_load_f32(element, param_in);
    param.v1 = step_vector(element, param.v1, constants, rate, exp_avg, exp_avg_sq);
    param.v2 = step_vector(element + G3RT_LANES, param.v2, constants, rate, exp_avg, exp_avg_sq);
    g3rt_store_f32(element, param_out, param);
#ifdef BF16
    g3rt_store_bf16(element, param_bf16, param);
#endif
  }
}
