#include "grad_list.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "reduce.h"
#include "threads.h"

namespace gaudi3_rt {
double norm_of(ReductionId reduction, double folded) {
  return reduction == ReductionId::sum_squares ? std::sqrt(folded) : folded;
}

void GradList::append(std::int64_t length, const Operand& grad) {
  grads_.push_back(grad);
  chunks_.add(length);
}

bool GradList::overlap() const {
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> ranges;
  ranges.reserve(grads_.size());
  for (std::size_t i = 0; i < grads_.size(); ++i) {
    const std::int64_t length = chunks_.lengths()[i];
    const auto begin = reinterpret_cast<std::uintptr_t>(grads_[i].data);
    const auto bytes = static_cast<std::uintptr_t>(length * info(grads_[i].codec).bytes);
    if (length > 0) ranges.emplace_back(begin, begin + bytes);
  }
  std::sort(ranges.begin(), ranges.end());
  const auto shared = [](const auto& a, const auto& b) { return b.first < a.second; };
  return std::adjacent_find(ranges.begin(), ranges.end(), shared) != ranges.end();
}

std::vector<double> GradList::reduce(ReductionId reduction, int n_threads) const {
  return gaudi3_rt::reduce(table_, reduction, chunks_, grads_, n_threads);
}

ClipResult GradList::clip(ReductionId reduction, double max_norm, bool skip_nonfinite, int n_threads) {
  const ReduceChunk reduce_chunk = table_.reduce[static_cast<int>(reduction)];
  const MapChunk scale_chunk = table_.map[static_cast<int>(MapId::scale)];
  const std::int64_t count = chunks_.count();
  std::vector<double> partial(static_cast<std::size_t>(count));
  ClipResult result{};
  float coefficient = 1;
  bool in_order = false;
  std::atomic<std::int64_t> norm_queue{0};
  std::atomic<std::int64_t> scale_queue{0};

  parallel(chunks_.useful_threads(n_threads), [&](const Team& team) {
    team.share(norm_queue, count, chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      partial[static_cast<std::size_t>(i)] = reduce_chunk(grads_[p.tensor], p.begin, p.length);
    });
    team.barrier();
    if (team.is_first()) {
      const ReductionInfo& how = info(reduction);
      double total = how.identity;
      for (const double of_grad : fold(reduction, chunks_, partial)) total = how.fold(total, of_grad);
      result.norm = static_cast<float>(norm_of(reduction, total));
      const double wanted = max_norm / (result.norm + 1e-6);
      // So written that a NaN reaches the gradients, as in torch.
      result.scaled = !(wanted >= 1) && (std::isfinite(result.norm) || !skip_nonfinite);
      if (result.scaled) {
        coefficient = static_cast<float>(wanted);
        in_order = overlap();
      }
    }
    team.barrier();
    if (!result.scaled || (in_order && !team.is_first())) return;
    team.share(scale_queue, count, chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      scale_chunk(&coefficient, grads_[p.tensor], p.begin, p.length);
    });
  });
  return result;
}

void GradList::map(MapId map, const float* parameters, int n_threads) {
  const MapChunk map_chunk = table_.map[static_cast<int>(map)];
  std::atomic<std::int64_t> queue{0};
  parallel(overlap() ? 1 : chunks_.useful_threads(n_threads), [&](const Team& team) {
    team.share(queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      map_chunk(parameters, grads_[p.tensor], p.begin, p.length);
    });
  });
}

bool GradList::unscale(float inv_scale, int n_threads) {
  const ReduceChunk all_finite = table_.reduce[static_cast<int>(ReductionId::all_finite)];
  const MapChunk scale_chunk = table_.map[static_cast<int>(MapId::scale)];
  std::atomic<bool> finite{true};
  std::atomic<std::int64_t> queue{0};
  parallel(overlap() ? 1 : chunks_.useful_threads(n_threads), [&](const Team& team) {
    team.share(queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      if (all_finite(grads_[p.tensor], p.begin, p.length) == 0) finite.store(false, std::memory_order_relaxed);
      if (inv_scale != 1) scale_chunk(&inv_scale, grads_[p.tensor], p.begin, p.length);  // from the cache
    });
  });
  return finite.load();
}

}  // namespace gaudi3_rt
