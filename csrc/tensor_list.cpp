#include "tensor_list.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "threads.h"

namespace gaudi3_rt {
namespace {

// Below this many elements a thread does not earn what waking it up costs (a few microseconds).
constexpr std::int64_t kElementsPerThread = 16 * 1024;

std::size_t bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

}  // namespace

void Counter::write(double t) const {
  if (is_double) {
    *static_cast<double*>(data) = t;
  } else {
    *static_cast<float*>(data) = static_cast<float>(t);
  }
}

void TensorList::open_group(KernelId kernel, const double* hyper, bool maximize) {
  groups_.push_back({kernel, {hyper, hyper + info(kernel).hyper.size()}, maximize ? -1.0f : 1.0f});
}

std::size_t TensorList::constants_for(double t) {
  const std::size_t group = groups_.size() - 1;
  if (constants_.empty() || constants_.back().group != group || constants_.back().t != t) {
    Constants& constants = constants_.emplace_back();
    constants.group = group;
    constants.t = t;
    info(groups_[group].kernel).prepare(groups_[group].hyper.data(), t, constants.bytes);
  }
  return constants_.size() - 1;
}

void TensorList::append(std::int64_t length, const Operand* operands, Counter counter) {
  const std::size_t constants = constants_for(counter.read() + 1);
  tensors_.push_back({length, n_chunks_, operands_.size(), constants, counter});
  operands_.insert(operands_.end(), operands, operands + info(groups_.back().kernel).operands());
  n_chunks_ += (length + kChunk - 1) / kChunk;
  n_elements_ += length;
}

void TensorList::clear() {
  groups_.clear();
  constants_.clear();
  tensors_.clear();
  operands_.clear();
  n_chunks_ = 0;
  n_elements_ = 0;
}

std::optional<std::array<std::size_t, 2>> TensorList::overlap() {
  std::vector<Range> written;
  written.reserve(operands_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    const int n = info(groups_[constants_[tensor.constants].group].kernel).operands();
    for (int j = 0; j < n && tensor.length > 0; ++j) {
      if (j == 1) continue;  // gradients are only read
      const Operand& operand = operands_[tensor.first_operand + static_cast<std::size_t>(j)];
      const auto begin = reinterpret_cast<std::uintptr_t>(operand.data);
      written.push_back({begin, begin + static_cast<std::size_t>(tensor.length) * bytes(operand.dtype), i});
    }
  }
  if (written == known_disjoint_) return std::nullopt;
  std::vector<Range> sorted = written;
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].begin < sorted[i - 1].end) return {{sorted[i - 1].tensor, sorted[i].tensor}};
  }
  known_disjoint_ = std::move(written);
  return std::nullopt;
}

TensorList::Piece TensorList::piece(std::int64_t chunk) const {
  // The last tensor that starts at or before this chunk; empty tensors have no chunk and are passed over.
  const auto after = std::upper_bound(tensors_.begin(), tensors_.end(), chunk,
                                      [](std::int64_t c, const Tensor& tensor) { return c < tensor.first_chunk; });
  const Tensor& tensor = *(after - 1);
  const std::int64_t begin = (chunk - tensor.first_chunk) * kChunk;
  return {tensor, begin, std::min(kChunk, tensor.length - begin)};
}

int TensorList::useful_threads(int n_threads) const {
  return static_cast<int>(std::clamp<std::int64_t>(n_elements_ / kElementsPerThread, 1, std::max(1, n_threads)));
}

std::vector<double> TensorList::fold(const ReductionInfo& reduction, const std::vector<double>& partial) const {
  std::vector<double> result;
  result.reserve(tensors_.size());
  std::size_t chunk = 0;
  for (const Tensor& tensor : tensors_) {
    double total = reduction.identity;
    for (std::int64_t begin = 0; begin < tensor.length; begin += kChunk) total = reduction.fold(total, partial[chunk++]);
    result.push_back(total);
  }
  return result;
}

std::vector<double> TensorList::reduce(ReductionId reduction, int operand, int n_threads) const {
  const ReduceChunk reduce_chunk = table_.reduce[static_cast<int>(reduction)];
  std::vector<double> partial(static_cast<std::size_t>(n_chunks_));
  std::atomic<std::int64_t> queue{0};
  parallel(useful_threads(n_threads), [&](const Team& team) {
    for (std::int64_t i; (i = team.take(queue, n_chunks_)) >= 0;) {
      const Piece p = piece(i);
      const Operand& x = operands_[p.tensor.first_operand + static_cast<std::size_t>(operand)];
      partial[static_cast<std::size_t>(i)] = reduce_chunk(x, p.begin, p.length);
    }
  });
  return fold(info(reduction), partial);
}

StepResult TensorList::step(int n_threads, double grad_factor, std::optional<double> max_norm,
                            bool skip_nonfinite) const {
  StepResult result{std::numeric_limits<double>::quiet_NaN(), true};
  const ReduceChunk sum_squares = table_.reduce[static_cast<int>(ReductionId::sum_squares)];
  std::vector<double> partial(max_norm ? static_cast<std::size_t>(n_chunks_) : 0);
  std::atomic<std::int64_t> norm_queue{0};
  std::atomic<std::int64_t> step_queue{0};

  parallel(useful_threads(n_threads), [&](const Team& team) {
    if (max_norm) {
      for (std::int64_t i; (i = team.take(norm_queue, n_chunks_)) >= 0;) {
        const Piece p = piece(i);
        partial[static_cast<std::size_t>(i)] = sum_squares(operands_[p.tensor.first_operand + 1], p.begin, p.length);
      }
      team.barrier();
      if (team.is_first()) {
        double total = 0;
        for (const double tensor_total : fold(info(ReductionId::sum_squares), partial)) total += tensor_total;
        result.grad_norm = std::sqrt(total) * std::fabs(grad_factor);
        result.stepped = std::isfinite(result.grad_norm) || !skip_nonfinite;
        const double coefficient = *max_norm / (result.grad_norm + 1e-6);
        if (!(coefficient > 1)) grad_factor *= coefficient;  // so written that a NaN reaches the update, as in torch
      }
      team.barrier();
      if (!result.stepped) return;
    }
    for (std::int64_t i; (i = team.take(step_queue, n_chunks_)) >= 0;) {
      const Piece p = piece(i);
      const Constants& constants = constants_[p.tensor.constants];
      const Group& group = groups_[constants.group];
      table_.step[static_cast<int>(group.kernel)](constants.bytes, &operands_[p.tensor.first_operand], p.begin,
                                                  p.length, group.sign * static_cast<float>(grad_factor));
    }
  });

  if (result.stepped) {
    for (const Tensor& tensor : tensors_) tensor.counter.write(constants_[tensor.constants].t);
  }
  return result;
}

}  // namespace gaudi3_rt
