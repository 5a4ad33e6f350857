// The traffic of an optimizer step without its arithmetic: what no implementation on this machine can be much faster
// than. Everything is treated as 64-bit words, so the dtype does not matter, and every word is written back as it was
// (`zero` is 0, which the compiler cannot know), so the loops may run over tensors that are in use.
#include <stdint.h>

typedef struct {
  uint64_t* param;
  const uint64_t* grad;
  uint64_t* first;
  uint64_t* second;
  int64_t words;
} Chunk;

// Reads four arrays, writes three of them in place: AdamW.
void update(const Chunk* chunks, int64_t count, int n_threads, uint64_t zero) {
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4)
  for (int64_t c = 0; c < count; ++c) {
    uint64_t* restrict param = chunks[c].param;
    const uint64_t* restrict grad = chunks[c].grad;
    uint64_t* restrict first = chunks[c].first;
    uint64_t* restrict second = chunks[c].second;
    for (int64_t i = 0; i < chunks[c].words; ++i) {
      const uint64_t nothing = grad[i] & zero;
      param[i] ^= nothing;
      first[i] ^= nothing;
      second[i] ^= nothing;
    }
  }
}

// Reads the gradients: their norm. Four streams at a time, because one alone does not keep a core's memory requests full.
uint64_t read(const Chunk* chunks, int64_t count, int n_threads) {
  uint64_t total = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4) reduction(+ : total)
  for (int64_t c = 0; c < count; ++c) {
    const uint64_t* grad = chunks[c].grad;
    const int64_t quarter = chunks[c].words / 4;
    for (int64_t i = 0; i < quarter; ++i) {
      total += grad[i] + grad[quarter + i] + grad[2 * quarter + i] + grad[3 * quarter + i];
    }
    for (int64_t i = 4 * quarter; i < chunks[c].words; ++i) total += grad[i];
  }
  return total;
}
