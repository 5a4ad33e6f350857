#include "reduce.h"

#include <atomic>

#include "threads.h"

namespace gaudi3_rt {

std::vector<double> fold(ReductionId reduction, const Chunks& chunks, const std::vector<double>& partial) {
  const ReductionInfo& how = info(reduction);
  std::vector<double> result;
  result.reserve(chunks.lengths().size());
  std::size_t chunk = 0;
  for (const std::int64_t length : chunks.lengths()) {
    double total = how.identity;
    for (std::int64_t begin = 0; begin < length; begin += kChunk) total = how.fold(total, partial[chunk++]);
    result.push_back(total);
  }
  return result;
}

std::vector<double> reduce(const IsaTable& table, ReductionId reduction, const Chunks& chunks,
                           const std::vector<Operand>& tensors, int n_threads) {
  const ReduceChunk reduce_chunk = table.reduce[static_cast<int>(reduction)];
  std::vector<double> partial(static_cast<std::size_t>(chunks.count()));
  std::atomic<std::int64_t> queue{0};
  parallel(chunks.useful_threads(n_threads), [&](const Team& team) {
    team.share(queue, chunks.count(), chunks.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks.piece(i);
      partial[static_cast<std::size_t>(i)] = reduce_chunk(tensors[p.tensor], p.begin, p.length);
    });
  });
  return fold(reduction, chunks, partial);
}

}  // namespace gaudi3_rt
