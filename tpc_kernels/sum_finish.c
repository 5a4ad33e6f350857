/* The sum of the partial results of all members, or of several tensors' sums. */
#include "sums.h"

void main(tensor partials, tensor total) {
  g3rt_store_one(0, total, g3rt_sum_tensor(partials, get_dim_size(partials, 0)));
}
