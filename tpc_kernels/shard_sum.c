/* The sum of shards, which are the rows of a tensor: added up in f32 from the first to the last, and rounded once where
   it is stored in bf16. */
#include "elements.h"

#ifdef BF16
static inline float128 load_shard(int element, int shard, const tensor shards) {
  int5 at = g3rt_at(element);
  at[1] = shard;
  return convert_bfloat128_to_float128(v_bf16_ld_tnsr_b(at, shards), SW_LINEAR);
}
#else
static inline float128 load_shard(int element, int shard, const tensor shards) {
  int5 at = g3rt_at(element);
  at[1] = shard;
  float128 pair;
  pair.v1 = v_f32_ld_tnsr_b(at, shards);
  at[0] = element + G3RT_LANES;
  pair.v2 = v_f32_ld_tnsr_b(at, shards);
  return pair;
}
#endif

static inline float128 add(float128 a, float128 b) {
  a.v1 = v_f32_add_b(a.v1, b.v1);
  a.v2 = v_f32_add_b(a.v2, b.v2);
  return a;
}

void main(tensor shards, tensor sum) {
  const int n_shards = get_dim_size(shards, 1);
  const int5 first = get_index_space_offset();
  const int5 count = get_index_space_size();
  const int end = (first[0] + count[0]) * G3RT_MEMBER_ELEMENTS;
  /* Four pairs of vectors at a time, with as many sums side by side. */
  for (int element = first[0] * G3RT_MEMBER_ELEMENTS; element < end; element += 8 * G3RT_LANES) {
    const int element1 = element + 2 * G3RT_LANES;
    const int element2 = element + 4 * G3RT_LANES;
    const int element3 = element + 6 * G3RT_LANES;
    float128 sum0 = load_shard(element, 0, shards);
    float128 sum1 = load_shard(element1, 0, shards);
    float128 sum2 = load_shard(element2, 0, shards);
    float128 sum3 = load_shard(element3, 0, shards);
    for (int shard = 1; shard < n_shards; ++shard) {
      sum0 = add(sum0, load_shard(element, shard, shards));
      sum1 = add(sum1, load_shard(element1, shard, shards));
      sum2 = add(sum2, load_shard(element2, shard, shards));
      sum3 = add(sum3, load_shard(element3, shard, shards));
    }
    G3RT_STORE(element, sum, sum0);
    G3RT_STORE(element1, sum, sum1);
    G3RT_STORE(element2, sum, sum2);
    G3RT_STORE(element3, sum, sum3);
  }
}
