/* The loop of a kernel that steps elements one by one: see step.h. With BF16 the gradient is bf16, and a copy of the
   parameter is written in bf16 besides. */
#define STATE_INPUT(k) tensor state##k##_in,
#define STATE_OUTPUT(k) , tensor state##k##_out
#define STATE_HANDLE_IN(k) state##k##_in,
#define STATE_HANDLE_OUT(k) , state##k##_out
#define LOAD_STATE(k) x.state##k = v_f32_ld_tnsr_b(at, state##k##_in);
#define STORE_STATE(k) v_f32_st_tnsr(at, state##k##_out, x.state##k);

/* Steps one vector; returns the new parameters. */
static inline float64 step_vector(int element, float64 grad, Constants constants, tensor param_in,
                                  EACH_STATE(STATE_INPUT) tensor param_out EACH_STATE(STATE_OUTPUT)) {
  const int5 at = g3rt_at(element);
  Elements x;
  x.param = v_f32_ld_tnsr_b(at, param_in);
  x.grad = grad;
  EACH_STATE(LOAD_STATE)
  x = step(x, constants);
  v_f32_st_tnsr(at, param_out, x.param);
  EACH_STATE(STORE_STATE)
  return x.param;
}

void main(tensor param_in, tensor grad_in, EACH_STATE(STATE_INPUT) tensor scalars,
          tensor param_out EACH_STATE(STATE_OUTPUT)
#ifdef BF16
              ,
          tensor param_bf16
#endif
) {
  const Constants constants = read_constants(scalars);
  const float grad_factor = g3rt_scalar(scalars, CONSTANTS);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 2 * G3RT_LANES) {
    const float128 grad = G3RT_LOAD(element, grad_in);
    float128 param;
    param.v1 = step_vector(element, v_f32_mul_b(grad.v1, grad_factor), constants, param_in,
                           EACH_STATE(STATE_HANDLE_IN) param_out EACH_STATE(STATE_HANDLE_OUT));
    param.v2 = step_vector(element + G3RT_LANES, v_f32_mul_b(grad.v2, grad_factor), constants, param_in,
                           EACH_STATE(STATE_HANDLE_IN) param_out EACH_STATE(STATE_HANDLE_OUT));
#ifdef BF16
    g3rt_store_bf16(element, param_bf16, param);
#endif
  }
}
