#include "tensor_list.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "reduce.h"
#include "threads.h"

namespace gaudi3_rt {
namespace {

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

void TensorList::append(std::int64_t length, const Operand* operands, Counter counter) {
  __builtin_prefetch(counter.data, /*rw=*/1);  // read by prepare_constants, when all tensors have been appended
  tensors_.push_back({groups_.size() - 1, operands_.size(), 0, counter});
  operands_.insert(operands_.end(), operands, operands + info(groups_.back().kernel).operands());
  chunks_.add(length);
}

void TensorList::prepare_constants() {
  constants_.clear();
  for (Tensor& tensor : tensors_) {
    const double t = tensor.counter.read() + 1;
    if (constants_.empty() || constants_.back().group != tensor.group || constants_.back().t != t) {
      Constants& constants = constants_.emplace_back();
      constants.group = tensor.group;
      constants.t = t;
      info(group(tensor).kernel).prepare(group(tensor).hyper.data(), t, constants.bytes);
    }
    tensor.constants = constants_.size() - 1;
  }
}

void TensorList::clear() {
  groups_.clear();
  constants_.clear();
  tensors_.clear();
  operands_.clear();
  chunks_.clear();
}

std::vector<TensorList::Range> TensorList::ranges(bool written) const {
  std::vector<Range> result;
  result.reserve(written ? operands_.size() : tensors_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const std::int64_t length = chunks_.lengths()[i];
    const int n = info(group(tensors_[i]).kernel).operands();
    for (int j = 0; j < n && length > 0; ++j) {
      if ((j != 1) != written) continue;  // of all operands, the gradient alone is only read
      const Operand& operand = operands_[tensors_[i].first_operand + static_cast<std::size_t>(j)];
      const auto begin = reinterpret_cast<std::uintptr_t>(operand.data);
      result.push_back({begin, begin + static_cast<std::size_t>(length) * bytes(operand.dtype), i});
    }
  }
  return result;
}

std::optional<std::array<std::size_t, 2>> TensorList::overlap() {
  std::vector<Range> written = ranges(true);
  std::vector<Range> read = ranges(false);
  if (written != written_) {
    sorted_ = written;
    std::sort(sorted_.begin(), sorted_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < sorted_.size(); ++i) {
      if (sorted_[i].begin < sorted_[i - 1].end) {
        written_.clear();
        return {{sorted_[i - 1].tensor, sorted_[i].tensor}};
      }
    }
    written_ = std::move(written);
    read_.clear();
  }
  if (read != read_) {
    for (const Range& range : read) {
      const auto next = std::upper_bound(sorted_.begin(), sorted_.end(), range.begin,
                                         [](std::uintptr_t begin, const Range& other) { return begin < other.end; });
      if (next != sorted_.end() && next->begin < range.end) return {{next->tensor, range.tensor}};
    }
    read_ = std::move(read);
  }
  return std::nullopt;
}

std::vector<double> TensorList::reduce_grads(ReductionId reduction, int n_threads) const {
  std::vector<Operand> grads;
  grads.reserve(tensors_.size());
  for (const Tensor& tensor : tensors_) grads.push_back(grad(tensor));
  return reduce(table_, reduction, chunks_, grads, n_threads);
}

StepResult TensorList::step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite) {
  prepare_constants();
  StepResult result{std::numeric_limits<double>::quiet_NaN(), true};
  const ReduceChunk sum_squares = table_.reduce[static_cast<int>(ReductionId::sum_squares)];
  std::vector<double> partial(max_norm ? static_cast<std::size_t>(chunks_.count()) : 0);
  std::atomic<std::int64_t> norm_queue{0};
  std::atomic<std::int64_t> step_queue{0};

  parallel(chunks_.useful_threads(n_threads), [&](const Team& team) {
    if (max_norm) {
      team.share(norm_queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
        const Chunks::Piece p = chunks_.piece(i);
        partial[static_cast<std::size_t>(i)] = sum_squares(grad(tensors_[p.tensor]), p.begin, p.length);
      });
      team.barrier();
      if (team.is_first()) {
        double total = 0;
        for (const double of_tensor : fold(ReductionId::sum_squares, chunks_, partial)) total += of_tensor;
        result.grad_norm = std::sqrt(total) * std::fabs(grad_factor);
        result.stepped = std::isfinite(result.grad_norm) || !skip_nonfinite;
        const double coefficient = *max_norm / (result.grad_norm + 1e-6);
        if (!(coefficient > 1)) grad_factor *= coefficient;  // so written that a NaN reaches the update, as in torch
      }
      team.barrier();
      if (!result.stepped) return;
    }
    team.share(step_queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      const Tensor& tensor = tensors_[p.tensor];
      const Group& its = group(tensor);
      table_.step[static_cast<int>(its.kernel)](constants_[tensor.constants].bytes, &operands_[tensor.first_operand],
                                                p.begin, p.length, its.sign * static_cast<float>(grad_factor));
    });
  });

  if (result.stepped) {
    for (const Tensor& tensor : tensors_) tensor.counter.write(constants_[tensor.constants].t);
  }
  return result;
}

}  // namespace gaudi3_rt
