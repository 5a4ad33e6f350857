/* F32_TO_BF16: to the nearest bf16, ties to even; with STOCHASTIC up or down by random bits, so that the expected value
   is the value. BF16_TO_F32: exact. */
#include "elements.h"

#ifdef STOCHASTIC
#include "random.h"

/* Adds the random bits below what bf16 keeps; a carry goes up to it. What is left is a bf16 already, so that the
   conversion after this rounds nothing. */
static inline float64 round_stochastically(float64 x, int element, Keys keys) {
  const uint64 bits = as_uint64(x);
  const uint64 rounded = v_u32_and_b(v_u32_add_b(bits, g3rt_random(element, keys)), 0xffff0000u);
  return as_float64(v_u32_sel_grt_u32_b(v_u32_and_b(bits, 0x7fffffffu), 0x7f800000u, bits, rounded));
}
#endif

void main(tensor x,
#ifdef STOCHASTIC
          tensor key_numbers,
#endif
          tensor y) {
#ifdef STOCHASTIC
  const Keys keys = g3rt_keys(key_numbers);
#endif
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
#pragma loop_unroll(4)
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 2 * G3RT_LANES) {
    float128 values = G3RT_LOAD(element, x);
#ifdef STOCHASTIC
    values.v1 = round_stochastically(values.v1, element, keys);
    values.v2 = round_stochastically(values.v2, element + G3RT_LANES, keys);
#endif
    G3RT_STORE(element, y, values);
  }
}
