// Memory traffic without arithmetic: what no implementation on this machine can be much faster than. Everything is
// treated as 64-bit words, so the dtype does not matter, and every word is written back as it was (`zero` is 0, which
// the compiler cannot know), so the loops may run over tensors that are in use.
#include <stdint.h>

// Words of one array in one chunk.
typedef struct {
  uint64_t* data;
  int64_t words;
} Span;

// Each chunk has n_read arrays that are read, then n_update arrays that are read and written. They may have different
// sizes, and are visited in turn, a piece of each that fits the L1 cache, as a kernel does that converts on its way.
uint64_t touch(const Span* spans, int64_t count, int n_read, int n_update, int n_threads, uint64_t zero) {
  enum { kPieces = 32 };
  const int n_arrays = n_read + n_update;
  uint64_t total = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4) reduction(+ : total)
  for (int64_t c = 0; c < count; ++c) {
    const Span* const chunk = spans + c * n_arrays;
    for (int64_t piece = 0; piece < kPieces; ++piece) {
      for (int j = 0; j < n_arrays; ++j) {
        uint64_t* const data = chunk[j].data;
        const int64_t begin = chunk[j].words * piece / kPieces;
        const int64_t end = chunk[j].words * (piece + 1) / kPieces;
        if (j < n_read) {
          for (int64_t i = begin; i < end; ++i) total += data[i];
        } else {
          for (int64_t i = begin; i < end; ++i) data[i] ^= data[i] & zero;
        }
      }
    }
  }
  return total;
}

// Reads chunks of one array each, in four streams: one alone does not keep a core busy with requests to memory.
uint64_t read_one(const Span* spans, int64_t count, int n_threads) {
  uint64_t total = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4) reduction(+ : total)
  for (int64_t c = 0; c < count; ++c) {
    const uint64_t* const data = spans[c].data;
    const int64_t quarter = spans[c].words / 4;
    for (int64_t i = 0; i < quarter; ++i) {
      total += data[i] + data[quarter + i] + data[2 * quarter + i] + data[3 * quarter + i];
    }
    for (int64_t i = 4 * quarter; i < spans[c].words; ++i) total += data[i];
  }
  return total;
}
