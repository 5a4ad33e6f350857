// Gradients on their way between tensors: sums of shards, casts into buckets, what is sent. Each is one parallel region
// over a list; equal bits for any number of threads and any way of cutting.
#pragma once
#include <vector>

#include "chunks.h"
#include "table.h"

namespace gaudi3_rt {

// Sums of nodes, all along the same tree. chunks has their lengths; chunk_sums, if it is not null, takes the sum of
// squares of what is stored of each chunk.
void tree_sums(const IsaTable& table, const Chunks& chunks, std::vector<TreeSum>& sums, double* chunk_sums,
               int n_threads);

// A pair of tensors of one length.
struct Pair {
  Operand from, into;
};

void transfer(const IsaTable& table, TransferId transfer, float factor, const Chunks& chunks,
              const std::vector<Pair>& pairs, int n_threads);

// One tensor and the wire; residual may be null.
void compress(const IsaTable& table, WireId wire, float factor, const Operand& x, float* residual, char* to,
              std::int64_t n, int n_threads);
void decompress(const IsaTable& table, WireId wire, float factor, const char* from, const Operand& x, std::int64_t n,
                int n_threads);

// Memory [begin, end) of one of a list of tensors.
struct Stretch {
  std::uintptr_t begin, end;
  std::size_t tensor;
};

// Whether something written shares memory with something else that is written or read, which parallel work may not.
// Equal stretches of one tensor, which is read and written, do no harm.
bool overlap(std::vector<Stretch> written, const std::vector<Stretch>& read);

}  // namespace gaudi3_rt
