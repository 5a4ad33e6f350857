/* The sum of shards, which are the rows of a tensor, times a factor: added up in f32 along the canonical tree, and
   rounded once more where it is stored in bf16.

   The tree is the perfect one over the shards in order. Beyond the last shard its leaves are absent, and an absent side
   leaves the other as it is: of six shards it is ((0 + 1) + (2 + 3)) + (4 + 5). */
#include "sums.h"

static inline float128 load_pair(int element, int shard, const tensor shards) {
  int5 at = g3rt_at(element);
  at[1] = shard;
#ifdef BF16
  return convert_bfloat128_to_float128(v_bf16_ld_tnsr_b(at, shards), SW_LINEAR);
#else
  float128 pair;
  pair.v1 = v_f32_ld_tnsr_b(at, shards);
  at[0] = element + G3RT_LANES;
  pair.v2 = v_f32_ld_tnsr_b(at, shards);
  return pair;
#endif
}

static inline Quad load(int element, int shard, const tensor shards) {
  Quad quad;
  quad.first = load_pair(element, shard, shards);
  quad.second = load_pair(element + 2 * G3RT_LANES, shard, shards);
  return quad;
}

static inline Quad add(Quad left, Quad right) {
  left.first.v1 = v_f32_add_b(left.first.v1, right.first.v1);
  left.first.v2 = v_f32_add_b(left.first.v2, right.first.v2);
  left.second.v1 = v_f32_add_b(left.second.v1, right.second.v1);
  left.second.v2 = v_f32_add_b(left.second.v2, right.second.v2);
  return left;
}

/* An absent side: x + -0 is x, also if x is -0. */
static inline Quad absent(void) {
  Quad quad;
  quad.first.v1 = -0.0f;
  quad.first.v2 = -0.0f;
  quad.second.v1 = -0.0f;
  quad.second.v2 = -0.0f;
  return quad;
}

/* Perfect trees. */
static inline Quad sum_2(int element, int shard, const tensor shards) {
  return add(load(element, shard, shards), load(element, shard + 1, shards));
}

static inline Quad sum_4(int element, int shard, const tensor shards) {
  return add(sum_2(element, shard, shards), sum_2(element, shard + 2, shards));
}

static inline Quad sum_8(int element, int shard, const tensor shards) {
  return add(sum_4(element, shard, shards), sum_4(element, shard + 4, shards));
}

/* The tree of the last n shards before end, at most 8: perfect trees as the bits of n say, merged from the right. */
static inline Quad sum_few(int element, int end, int n, const tensor shards) {
  Quad sum = absent();
  if (n & 1) {
    end -= 1;
    sum = load(element, end, shards);
  }
  if (n & 2) {
    end -= 2;
    sum = add(sum_2(element, end, shards), sum);
  }
  if (n & 4) {
    end -= 4;
    sum = add(sum_4(element, end, shards), sum);
  }
  if (n & 8) {
    end -= 8;
    sum = add(sum_8(element, end, shards), sum);
  }
  return sum;
}

/* n is a constant, so that nothing is decided in the loop. Four pairs of vectors at a time. */
static inline void reduce_few(int n, int begin, int end, float by, const tensor shards, const tensor reduced) {
  for (int element = begin; element < end; element += 2 * G3RT_QUAD_ELEMENTS) {
    const int next = element + G3RT_QUAD_ELEMENTS;
    const Quad sum = sum_few(element, n, n, shards);
    const Quad next_sum = sum_few(next, n, n, shards);
    g3rt_store_quad(element, reduced, g3rt_scale_quad(sum, by));
    g3rt_store_quad(next, reduced, g3rt_scale_quad(next_sum, by));
  }
}

/* Up to 64 shards, eight at a time from the right, with half as many vectors: those that wait need registers, too. */
static inline void reduce_many(int n, int begin, int end, float by, const tensor shards, const tensor reduced) {
  for (int element = begin; element < end; element += G3RT_QUAD_ELEMENTS) {
    /* Right sides of 8, 16 and 32 shards or fewer, which wait for their left ones; each is written before it is read
       once more. */
    Quad right_8 = absent();
    Quad right_16 = absent();
    Quad right_32 = absent();
    Quad node = sum_few(element, n, n & 7, shards);
    /* The node begins at shard: at an odd multiple of 8 it is a right side, at an even one a left side; the sum of both
       is one of the two again, by multiples of 16. */
    for (int shard = n & ~7; shard > 0; shard -= 8) {
      if (shard & 8) {
        right_8 = node;
      } else {
        node = add(node, right_8);
        if (shard & 16) {
          right_16 = node;
        } else {
          right_32 = add(node, right_16);
        }
      }
      node = sum_8(element, shard - 8, shards);
    }
    node = add(add(add(node, right_8), right_16), right_32);
    g3rt_store_quad(element, reduced, g3rt_scale_quad(node, by));
  }
}

void main(tensor shards, tensor factor, tensor reduced) {
  const float by = g3rt_scalar(factor, 0);
  const int n = get_dim_size(shards, 1);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int begin = first[0] * G3RT_MEMBER_ELEMENTS;
  const int end = begin + count[0] * G3RT_MEMBER_ELEMENTS;
#define REDUCE_FEW(k) \
  if (n == k) reduce_few(k, begin, end, by, shards, reduced)
  REDUCE_FEW(2);
  REDUCE_FEW(3);
  REDUCE_FEW(4);
  REDUCE_FEW(5);
  REDUCE_FEW(6);
  REDUCE_FEW(7);
  REDUCE_FEW(8);
  if (n < 2 || n > 8) reduce_many(n, begin, end, by, shards, reduced);
}
