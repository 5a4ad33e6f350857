#include "shards.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "threads.h"

namespace gaudi3_rt {
namespace {

// Sums of which this many bytes are stored do not stay in the caches anyway.
constexpr std::int64_t kBypassBytes = 4 * 1024 * 1024;

constexpr std::uintptr_t kLine = 64;

std::int64_t bytes_of(Codec codec) { return codec == Codec::f32 ? 4 : 2; }

template <class Work>
void for_each_chunk(const Chunks& chunks, int n_threads, const Work& work) {
  std::atomic<std::int64_t> queue{0};
  parallel(chunks.useful_threads(n_threads), [&](const Team& team) {
    team.share(queue, chunks.count(), chunks.batch(), [&](std::int64_t i) { work(i, chunks.piece(i)); });
  });
}

}  // namespace

void tree_sums(const IsaTable& table, const Chunks& chunks, std::vector<TreeSum>& sums, double* chunk_sums,
               int n_threads) {
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) bytes += chunks.lengths()[i] * bytes_of(sums[i].out.codec);
  for (TreeSum& sum : sums) {
    if (std::isnan(sum.factor)) sum.factor = std::numeric_limits<float>::quiet_NaN();  // whatever its lower bits were
    const bool in_place =
        std::any_of(sum.nodes, sum.nodes + sum.n_nodes, [&](const Operand& node) { return node.data == sum.out.data; });
    const bool aligned = reinterpret_cast<std::uintptr_t>(sum.out.data) % kLine == 0;
    sum.bypass = bytes >= kBypassBytes && aligned && !in_place;
  }
  for_each_chunk(chunks, n_threads, [&](std::int64_t i, const Chunks::Piece& p) {
    const double sum_squares = table.tree_sum(sums[p.tensor], p.begin, p.length, chunk_sums != nullptr);
    if (chunk_sums != nullptr) chunk_sums[i] = sum_squares;
  });
}

void transfer(const IsaTable& table, TransferId transfer, float factor, const Chunks& chunks,
              const std::vector<Pair>& pairs, int n_threads) {
  const TransferChunk transfer_chunk = table.transfer[static_cast<int>(transfer)];
  for_each_chunk(chunks, n_threads, [&](std::int64_t, const Chunks::Piece& p) {
    transfer_chunk(factor, pairs[p.tensor].from, pairs[p.tensor].into, p.begin, p.length);
  });
}

void compress(const IsaTable& table, WireId wire, float factor, const Operand& x, float* residual, char* to,
              std::int64_t n, int n_threads) {
  Chunks chunks;
  chunks.add(n);
  const CompressChunk compress_chunk = table.compress[static_cast<int>(wire)];
  for_each_chunk(chunks, n_threads, [&](std::int64_t, const Chunks::Piece& p) {
    compress_chunk(factor, x, residual, to, p.begin, p.length);
  });
}

void decompress(const IsaTable& table, WireId wire, float factor, const char* from, const Operand& x, std::int64_t n,
                int n_threads) {
  Chunks chunks;
  chunks.add(n);
  const DecompressChunk decompress_chunk = table.decompress[static_cast<int>(wire)];
  for_each_chunk(chunks, n_threads,
                 [&](std::int64_t, const Chunks::Piece& p) { decompress_chunk(factor, from, x, p.begin, p.length); });
}

bool overlap(std::vector<Stretch> written, const std::vector<Stretch>& read) {
  std::sort(written.begin(), written.end(), [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < written.size(); ++i) {
    if (written[i].begin < written[i - 1].end) return true;
  }
  return std::any_of(read.begin(), read.end(), [&](const Stretch& r) {
    const auto next = std::upper_bound(written.begin(), written.end(), r.begin,
                                       [](std::uintptr_t begin, const Stretch& other) { return begin < other.end; });
    if (next == written.end() || next->begin >= r.end) return false;
    return next->begin != r.begin || next->end != r.end || next->tensor != r.tensor;
  });
}

}  // namespace gaudi3_rt
