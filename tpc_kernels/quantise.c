/* Floats to int8 codes in blocks, stochastically rounded; the scales of each block. */
#include "log_code.h"

#include "random.h"

/* Magnitudes are coded relative to a quarter of the largest. The factor for that is a normal number as long as the
   largest is not below this, which then stands for it. */
#define BITS_OF_LEAST (3 << 23)
#ifdef POSITIVE
#define OCTAVES 32
#else
#define OCTAVES 16
#endif

typedef struct {
  int64 v1, v2, v3, v4;
} Ints;

typedef struct {
  float64 v1, v2, v3, v4;
} Floats;

typedef struct {
  float64 largest, codes_per_octave;
} Scales;

/* Partners for sums and maxima across lanes: after three exchanges the eight groups are equal. */
static inline int64 exchange_0(int64 x) {
  return v_i32_mov_dual_group_all_b(x, 0xffffffff, 1, 0, 3, 2, MkWrA(3, 3, 3, 3), 0);
}
static inline int64 exchange_1(int64 x) {
  return v_i32_mov_dual_group_all_b(x, 0xffffffff, 2, 3, 0, 1, MkWrA(3, 3, 3, 3), 0);
}
static inline int64 exchange_2(int64 x) { return v_i32_mov_group_b(x, 0xffffffff, 63, 0); }

#define LANE(x, k) v_i32_shuffle_b(x, (uchar256)(0x80 + k), 0, 0)
#define ACROSS_LANES(x, op)                                          \
  x = op(x, exchange_0(x));                                          \
  x = op(x, exchange_1(x));                                          \
  x = op(x, exchange_2(x));                                          \
  x = op(op(op(LANE(x, 0), LANE(x, 1)), op(LANE(x, 2), LANE(x, 3))), \
         op(op(LANE(x, 4), LANE(x, 5)), op(LANE(x, 6), LANE(x, 7))));

static inline int64 largest_of(Ints x) {
  int64 largest = v_i32_max_b(v_i32_max_b(x.v1, x.v2), v_i32_max_b(x.v3, x.v4));
  ACROSS_LANES(largest, v_i32_max_b)
  return largest;
}

#ifdef POSITIVE
/* The octaves from the largest down to the smallest number that is not zero, in a float's bits. */
static inline int64 range_of(Ints bits, int64 largest) {
  /* Less one, zero becomes the largest number without sign; turned by its highest bit, the order is that of numbers
     with sign. */
  const int64 turned12 =
      v_i32_min_b(v_i32_xor_b(v_i32_sub_b(bits.v1, 1), 0x80000000), v_i32_xor_b(v_i32_sub_b(bits.v2, 1), 0x80000000));
  const int64 turned34 =
      v_i32_min_b(v_i32_xor_b(v_i32_sub_b(bits.v3, 1), 0x80000000), v_i32_xor_b(v_i32_sub_b(bits.v4, 1), 0x80000000));
  int64 turned = v_i32_min_b(turned12, turned34);
  ACROSS_LANES(turned, v_i32_min_b)
  const int64 smallest = v_i32_xor_b(turned, 0x80000000);
  const int64 range = v_i32_sub_b(v_i32_sub_b(largest, smallest), 1);
  /* The bits of a denormal are no logarithm. */
  return v_i32_sel_less_i32_b(turned, (int)(0x80000000 + BITS_OF_LEAST), OCTAVES * OCTAVE, range);
}
#else
static inline int64 one_unless_zero(int64 x) { return v_i32_sel_eq_i32_b(x, 0, 0, 1); }

/* a / b of integers with 0 <= a < 2^30, 1 <= b <= 256, a / b < 2^23. */
static inline int64 divide_ints(int64 a, int64 b) {
  int64 quotient = to_int(g3rt_divide(to_float(a), to_float(b)));
  const int64 rest = v_i32_sub_b(a, quotient * b);
  quotient = v_i32_sub_b(quotient, v_i32_sel_less_i32_b(rest, 0, 1, 0));
  return v_i32_add_b(quotient, v_i32_sel_geq_i32_b(rest, b, 1, 0));
}

/* Twice the octaves from the largest to the geometric mean, and one. */
static inline int64 range_of(Ints bits, int64 largest) {
  int64 count = v_i32_add_b(v_i32_add_b(one_unless_zero(bits.v1), one_unless_zero(bits.v2)),
                            v_i32_add_b(one_unless_zero(bits.v3), one_unless_zero(bits.v4)));
  ACROSS_LANES(count, v_i32_add_b)
  int64 sum = v_i32_add_b(v_i32_add_b(v_i32_shr_b(bits.v1, 9), v_i32_shr_b(bits.v2, 9)),
                          v_i32_add_b(v_i32_shr_b(bits.v3, 9), v_i32_shr_b(bits.v4, 9)));
  ACROSS_LANES(sum, v_i32_add_b)
  const int64 mean = v_i32_shl_b(divide_ints(sum, v_i32_max_b(count, 1)), 9);
  const int64 to_mean = v_i32_sel_eq_i32_b(count, 0, 0, v_i32_sub_b(largest, mean));
  const int64 range = v_i32_add_b(v_i32_shl_b(to_mean, 1), OCTAVE);
  return v_i32_sel_less_i32_b(to_mean, OCTAVES / 2 * OCTAVE, range, OCTAVES * OCTAVE);
}
#endif

static inline Scales fit(Ints bits) {
  const int64 largest = largest_of(bits);
  const int64 range = range_of(bits, largest);
  int64 octaves = v_i32_shr_b(v_i32_add_b(range, OCTAVE - 1), 23);
  octaves = v_i32_min_b(v_i32_max_b(octaves, 1), OCTAVES);
  const float64 codes = to_float(to_int(g3rt_divide((float)(HIGHEST - 1), to_float(octaves))));
  Scales scales;
  scales.codes_per_octave = v_f32_sel_geq_i32_b(largest, 0x7f800000, 1.0f, codes);
  const int64 stands = v_i32_max_b(largest, BITS_OF_LEAST);
  scales.largest = as_float64(v_i32_sel_geq_i32_b(largest, 0x7f800000, G3RT_NAN_BITS, stands));
  return scales;
}

/* The codes of 64 numbers, and their signs as 128. */
static inline int64 encode(float64 x, Scales scales, float64 per_quarter, float64 smallest, int element, Keys keys) {
  const int64 bits = as_int64(x);
  const int64 magnitude = v_i32_and_b(bits, 0x7fffffff);
  const float64 relative = v_f32_mul_b(as_float64(magnitude), per_quarter);
  const float64 uniform = v_f32_mul_b(to_float(as_int64(g3rt_random(element, keys))), 0x1p-16f);
  /* Less one unit, because the largest may come out as the float below 4. */
  const int64 distance = v_i32_sub_b(BITS_OF_FOUR - 1, as_int64(relative));
  const float64 per_step = v_f32_mul_b(scales.codes_per_octave, 1.0f / OCTAVE);
  const float64 below_highest = v_f32_mul_b(to_float(distance), per_step);
  int64 code = v_i32_sub_b(HIGHEST, to_int(v_f32_add_b(below_highest, uniform)));
#ifdef POSITIVE
  /* What is not zero is not stored as zero: an update divides by its root. */
  code = v_i32_max_b(code, v_i32_sel_eq_i32_b(magnitude, 0, 0, 1));
#else
  const int64 near_zero = v_i32_sel_less_f32_b(v_f32_mul_b(uniform, smallest), relative, 1, 0);
  code = v_i32_sel_less_f32_b(relative, smallest, near_zero, code);
  code = v_i32_or_b(code, v_i32_and_b(v_i32_shr_b(bits, 24), 0x80));
#endif
  /* With any code, one that is not finite makes its block NaN. */
  return v_i32_sel_eq_f32_b(scales.largest, scales.largest, code, 0);
}

#ifndef POSITIVE
/* The numbers of a byte with sign that have these bits. */
static inline int64 as_signed_byte(int64 byte) { return v_i32_sub_b(byte, v_i32_shl_b(v_i32_and_b(byte, 0x80), 1)); }
#endif

void main(tensor x, tensor key_numbers, tensor codes, tensor largest, tensor codes_per_octave) {
  const Keys keys = g3rt_keys(key_numbers);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int blocks = G3RT_MEMBER_ELEMENTS / G3RT_BLOCK_ELEMENTS;
  const int end = get_dim_size(x, 0);
#pragma loop_unroll(2)
  for (int block = first[0] * blocks; block < (first[0] + count[0]) * blocks; ++block) {
    const int element = block * G3RT_BLOCK_ELEMENTS;
    const int element2 = element + G3RT_LANES, element3 = element2 + G3RT_LANES, element4 = element3 + G3RT_LANES;
    Floats values;
    values.v1 = g3rt_below(v_f32_ld_tnsr_b(g3rt_at(element), x), element, end);
    values.v2 = g3rt_below(v_f32_ld_tnsr_b(g3rt_at(element2), x), element2, end);
    values.v3 = g3rt_below(v_f32_ld_tnsr_b(g3rt_at(element3), x), element3, end);
    values.v4 = g3rt_below(v_f32_ld_tnsr_b(g3rt_at(element4), x), element4, end);
    Ints bits;
    bits.v1 = v_i32_and_b(as_int64(values.v1), 0x7fffffff);
    bits.v2 = v_i32_and_b(as_int64(values.v2), 0x7fffffff);
    bits.v3 = v_i32_and_b(as_int64(values.v3), 0x7fffffff);
    bits.v4 = v_i32_and_b(as_int64(values.v4), 0x7fffffff);
    const Scales scales = fit(bits);

    /* The divisor is kept where a quotient is exact. */
    const float64 down = v_f32_sel_grt_f32_b(scales.largest, 1.0f, 0x1p-64f, 1.0f);
    const float64 per_quarter = v_f32_mul_b(g3rt_divide(4.0f, v_f32_mul_b(scales.largest, down)), down);
    const float64 step = bits_per_code(scales.codes_per_octave);
    const int64 lowest = to_int(v_f32_mul_b((float)(HIGHEST - 1), step));
    const float64 smallest = as_float64(v_i32_sub_b(BITS_OF_FOUR, lowest));

    Ints bytes;
    bytes.v1 = encode(values.v1, scales, per_quarter, smallest, element, keys);
    bytes.v2 = encode(values.v2, scales, per_quarter, smallest, element2, keys);
    bytes.v3 = encode(values.v3, scales, per_quarter, smallest, element3, keys);
    bytes.v4 = encode(values.v4, scales, per_quarter, smallest, element4, keys);
#ifdef POSITIVE
    uint256 wide;
    wide.v1 = as_uint64(bytes.v1);
    wide.v2 = as_uint64(bytes.v2);
    wide.v3 = as_uint64(bytes.v3);
    wide.v4 = as_uint64(bytes.v4);
    v_u8_st_tnsr(g3rt_at(element), codes, convert_uint256_to_uchar256(wide, SW_LINEAR));
#else
    int256 wide;
    wide.v1 = as_signed_byte(bytes.v1);
    wide.v2 = as_signed_byte(bytes.v2);
    wide.v3 = as_signed_byte(bytes.v3);
    wide.v4 = as_signed_byte(bytes.v4);
    v_i8_st_tnsr(g3rt_at(element), codes, convert_int256_to_char256(wide, SW_LINEAR));
#endif
    g3rt_store_one(block, largest, scales.largest);
    g3rt_store_one(block, codes_per_octave, scales.codes_per_octave);
  }
}
