/* What the kernels share: where a member begins, scalars, lanes beyond the end, bf16 next to f32, sums across lanes. */
#ifndef GAUDI3_RT_TPC_ELEMENTS_H
#define GAUDI3_RT_TPC_ELEMENTS_H

#include "geometry.h"

/* Products and sums are rounded one by one where they are written one by one: a * b + c is no fused operation here. */
#pragma clang fp contract(off)

#define G3RT_LANES 64

/* Number i of a tensor; read once an invocation, because such a read takes long. */
static inline float g3rt_scalar(tensor numbers, int i) {
  int5 at = {0};
  at[0] = i;
  return s_f32_ld_g((__global__ float*)gen_addr(at, numbers));
}

static inline int g3rt_key(tensor keys, int i) {
  int5 at = {0};
  at[0] = i;
  return s_i32_ld_g((__global__ int*)gen_addr(at, keys));
}

/* A position in a row of elements. */
static inline int5 g3rt_at(int element) {
  int5 at = {0};
  at[0] = element;
  return at;
}

/* x with zeros in the lanes of elements that are not below end: what a load puts there is not ours to say. */
static inline float64 g3rt_below(float64 x, int element, int end) {
  return v_f32_sel_less_i32_b(v_i32_add_b(as_int64(read_lane_id_4b_b()), element), end, x, 0.0f);
}

/* 128 elements as two vectors in the order of memory, from f32 or from bf16. */
static inline float128 g3rt_load_f32(int element, const tensor x) {
  float128 pair;
  pair.v1 = v_f32_ld_tnsr_b(g3rt_at(element), x);
  pair.v2 = v_f32_ld_tnsr_b(g3rt_at(element + G3RT_LANES), x);
  return pair;
}

static inline float128 g3rt_load_bf16(int element, const tensor x) {
  return convert_bfloat128_to_float128(v_bf16_ld_tnsr_b(g3rt_at(element), x), SW_LINEAR);
}

static inline void g3rt_store_f32(int element, const tensor x, float128 pair) {
  v_f32_st_tnsr(g3rt_at(element), x, pair.v1);
  v_f32_st_tnsr(g3rt_at(element + G3RT_LANES), x, pair.v2);
}

static inline void g3rt_store_bf16(int element, const tensor x, float128 pair) {
  v_bf16_st_tnsr(g3rt_at(element), x, convert_float128_to_bfloat128(pair, SW_RHNE | SW_LINEAR));
}

/* Both f32, both bf16, or one of each. */
#if defined(BF16) || defined(BF16_TO_F32)
#define G3RT_LOAD g3rt_load_bf16
#else
#define G3RT_LOAD g3rt_load_f32
#endif
#if defined(BF16) || defined(F32_TO_BF16)
#define G3RT_STORE g3rt_store_bf16
#else
#define G3RT_STORE g3rt_store_f32
#endif

/* The sum of all lanes, in every lane; always added in the same order. */
static inline float64 g3rt_sum_lanes(float64 x) {
  x = v_f32_add_b(x, v_f32_mov_dual_group_all_b(x, 0xffffffff, 1, 0, 3, 2, MkWrA(3, 3, 3, 3), 0.0f));
  x = v_f32_add_b(x, v_f32_mov_dual_group_all_b(x, 0xffffffff, 2, 3, 0, 1, MkWrA(3, 3, 3, 3), 0.0f));
  x = v_f32_add_b(x, v_f32_mov_group_b(x, 0xffffffff, 63, 0.0f));
  /* The eight groups are equal now; lane k of its group to all lanes, for every k. */
#define G3RT_LANE(k) v_f32_shuffle_b(x, (uchar256)(0x80 + k), 0, 0.0f)
  const float64 sum01 = v_f32_add_b(G3RT_LANE(0), G3RT_LANE(1));
  const float64 sum23 = v_f32_add_b(G3RT_LANE(2), G3RT_LANE(3));
  const float64 sum45 = v_f32_add_b(G3RT_LANE(4), G3RT_LANE(5));
  const float64 sum67 = v_f32_add_b(G3RT_LANE(6), G3RT_LANE(7));
#undef G3RT_LANE
  return v_f32_add_b(v_f32_add_b(sum01, sum23), v_f32_add_b(sum45, sum67));
}

/* Writes the first lane as element i. */
static inline void g3rt_store_one(int i, const tensor x, float64 value) {
  v_f32_st_tnsr_partial(g3rt_at(i), x, value, 0, 0);
}

#endif
