/* The random bits of csrc/random.h for the elements of a vector. keys: two keys, the number of the first element within
   its parameter, and at which bit of a word this operand's 16 bits begin. */
#ifndef GAUDI3_RT_TPC_RANDOM_H
#define GAUDI3_RT_TPC_RANDOM_H

#include "elements.h"

typedef struct {
  int key0, key1, base, shift;
} Keys;

static inline Keys g3rt_keys(tensor keys) {
  Keys k;
  k.key0 = g3rt_key(keys, 0);
  k.key1 = g3rt_key(keys, 1);
  k.base = g3rt_key(keys, 2);
  k.shift = g3rt_key(keys, 3);
  return k;
}

/* 16 bits for each of the elements [element, element + 64). A product's lower 32 bits are the same for signed numbers.
 */
static inline uint64 g3rt_random(int element, Keys keys) {
  uint64 x = v_u32_add_b(read_lane_id_4b_b(), (unsigned)element + (unsigned)keys.base);
  x = v_u32_xor_b(x, (unsigned)keys.key0);
  x = v_u32_xor_b(x, v_u32_shr_b(x, 16)) * 0x7feb352du;
  x = v_u32_add_b(v_u32_xor_b(x, v_u32_shr_b(x, 15)), (unsigned)keys.key1) * 0x846ca68bu;
  x = v_u32_xor_b(x, v_u32_shr_b(x, 16));
  return v_u32_and_b(v_u32_shr_b(x, keys.shift), 0xffffu);
}

#endif
