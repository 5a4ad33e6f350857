/* Floats of int8 codes in blocks. */
#include "log_code.h"

/* The numbers of 64 codes, as bytes without sign. */
static inline float64 value(int64 byte, float64 step, float64 largest) {
#ifdef POSITIVE
  const int64 code = byte;
#else
  const int64 code = v_i32_and_b(byte, 0x7f);
#endif
  const float64 distance = v_f32_mul_b(to_float(v_i32_sub_b(HIGHEST, code)), step);
  const int64 bits = v_i32_sub_b(BITS_OF_ONE, to_int(distance));
  const float64 relative = as_float64(v_i32_sel_eq_i32_b(code, 0, 0, bits));
  const float64 magnitude = v_f32_mul_b(relative, largest);
#ifdef POSITIVE
  return magnitude;
#else
  const int64 sign = v_i32_shl_b(v_i32_and_b(byte, 0x80), 24);
  return as_float64(v_i32_or_b(as_int64(magnitude), sign));
#endif
}

void main(tensor codes, tensor largest, tensor codes_per_octave, tensor x) {
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int blocks = G3RT_MEMBER_ELEMENTS / G3RT_BLOCK_ELEMENTS;
  /* Beyond the last block there is no scale to read. */
  const int end = s_i32_min((first[0] + count[0]) * blocks, get_dim_size(largest, 0));
#pragma loop_unroll(3) unaligned_trip_count
  for (int block = first[0] * blocks; block < end; ++block) {
    const int element = block * G3RT_BLOCK_ELEMENTS;
    const float64 scale = v_f32_ld_g((__global__ float*)gen_addr(g3rt_at(block), largest));
    const float64 step = bits_per_code(v_f32_ld_g((__global__ float*)gen_addr(g3rt_at(block), codes_per_octave)));
#ifdef POSITIVE
    const uint256 bytes = convert_uchar256_to_uint256(v_u8_ld_tnsr_b(g3rt_at(element), codes), SW_LINEAR);
#else
    const int256 bytes = convert_char256_to_int256(v_i8_ld_tnsr_b(g3rt_at(element), codes), SW_LINEAR);
#endif
    v_f32_st_tnsr(g3rt_at(element), x, value((int64)bytes.v1, step, scale));
    v_f32_st_tnsr(g3rt_at(element + G3RT_LANES), x, value((int64)bytes.v2, step, scale));
    v_f32_st_tnsr(g3rt_at(element + 2 * G3RT_LANES), x, value((int64)bytes.v3, step, scale));
    v_f32_st_tnsr(g3rt_at(element + 3 * G3RT_LANES), x, value((int64)bytes.v4, step, scale));
  }
}
