#include "tensor_list.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "reduce.h"
#include "threads.h"

namespace gaudi3_rt {
void Counter::write(double t) const {
  if (is_double) {
    *static_cast<double*>(data) = t;
  } else {
    *static_cast<float*>(data) = static_cast<float>(t);
  }
}

void TensorList::append(const Member& member) {
  __builtin_prefetch(member.counter.data, /*rw=*/1);  // read by prepare_constants, when all have been appended
  tensors_.push_back(
      {groups_.size() - 1, operands_.size(), 0, member.counter, member.average, member.number, member.elements});
  operands_.insert(operands_.end(), member.operands, member.operands + info(groups_.back().kernel).operands());
  chunks_.add(member.length);
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
    if (length == 0) continue;
    const auto add = [&](const void* data, std::int64_t bytes) {
      const auto begin = reinterpret_cast<std::uintptr_t>(data);
      if (data != nullptr) result.push_back({begin, begin + static_cast<std::size_t>(bytes), i});
    };
    const auto add_operand = [&](const Operand& operand) {
      const CodecInfo& codec = info(operand.codec);
      add(operand.data, length * codec.bytes);
      add(operand.second, (codec.in_blocks ? (length + kBlock - 1) / kBlock : length) * codec.second_bytes);
    };
    const Operand* const operands = &operands_[tensors_[i].first_operand];
    const int n = info(group(tensors_[i]).kernel).operands();
    for (int j = 0; j < n; ++j) {
      if ((j != 1) == written) add_operand(operands[j]);  // of all operands, the gradient alone is only read
    }
    if (written) add_operand(tensors_[i].average);
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

Step TensorList::step_of(const Tensor& tensor, double grad_factor) const {
  const Group& its = group(tensor);
  const Constants& constants = constants_[tensor.constants];
  return {constants.bytes,
          &operands_[tensor.first_operand],
          tensor.average.data == nullptr ? nullptr : &tensor.average,
          its.average_weight,
          its.sign * static_cast<float>(grad_factor),
          {draw_key(its.seed, constants.t, tensor.number), tensor.elements},
          {}};
}

bool TensorList::has_two_passes() const {
  return std::any_of(groups_.begin(), groups_.end(), [](const Group& group) { return info(group.kernel).two_passes; });
}

Norms TensorList::measure_chunk(std::int64_t chunk, double grad_factor) const {
  const Chunks::Piece p = chunks_.piece(chunk);
  const Tensor& tensor = tensors_[p.tensor];
  const MeasureChunk measure = table_.measure[static_cast<int>(group(tensor).kernel)];
  return measure == nullptr ? Norms{} : measure(step_of(tensor, grad_factor), p.begin, p.length);
}

std::vector<Norms> TensorList::fold(const std::vector<Norms>& partial) const {
  std::vector<Norms> result;
  result.reserve(tensors_.size());
  std::size_t chunk = 0;
  for (const std::int64_t length : chunks_.lengths()) {
    Norms& sum = result.emplace_back();
    for (std::int64_t begin = 0; begin < length; begin += kChunk, ++chunk) {
      sum.param += partial[chunk].param;
      sum.other += partial[chunk].other;
    }
  }
  return result;
}

std::vector<Norms> TensorList::measure(int n_threads, double grad_factor) {
  prepare_constants();
  std::vector<Norms> partial(static_cast<std::size_t>(chunks_.count()));
  std::atomic<std::int64_t> queue{0};
  parallel(chunks_.useful_threads(n_threads), [&](const Team& team) {
    team.share(queue, chunks_.count(), chunks_.batch(),
               [&](std::int64_t i) { partial[static_cast<std::size_t>(i)] = measure_chunk(i, grad_factor); });
  });
  return fold(partial);
}

StepResult TensorList::step(int n_threads, const Options& options) {
  prepare_constants();
  StepResult result{std::numeric_limits<double>::quiet_NaN(), true};
  const std::optional<double>& max_norm = options.max_norm;
  const bool sums = max_norm && !options.sum_squares;
  const bool measures = has_two_passes() && !options.measurement;
  double grad_factor = options.grad_factor;
  const auto clip = [&](double sum_squares) {
    result.grad_norm = std::sqrt(sum_squares) * std::fabs(grad_factor);
    result.stepped = std::isfinite(result.grad_norm) || !options.skip_nonfinite;
    const double coefficient = *max_norm / (result.grad_norm + 1e-6);
    if (!(coefficient > 1)) grad_factor *= coefficient;  // so written that a NaN reaches the update, as in torch
  };
  if (max_norm && options.sum_squares) clip(*options.sum_squares);
  if (!result.stepped) return result;

  const ReduceChunk sum_squares = table_.reduce[static_cast<int>(ReductionId::sum_squares)];
  const auto count = static_cast<std::size_t>(chunks_.count());
  std::vector<double> partial(sums ? count : 0);
  std::vector<Norms> partial_norms(measures ? count : 0);
  std::vector<Norms> norms;  // sums of squares, by tensor
  if (options.measurement) norms = *options.measurement;
  std::atomic<std::int64_t> norm_queue{0}, measure_queue{0}, step_queue{0};

  parallel(chunks_.useful_threads(n_threads), [&](const Team& team) {
    if (sums) {
      team.share(norm_queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
        const Chunks::Piece p = chunks_.piece(i);
        partial[static_cast<std::size_t>(i)] = sum_squares(grad(tensors_[p.tensor]), p.begin, p.length);
      });
      team.barrier();
      if (team.is_first()) {
        double total = 0;
        for (const double of_tensor : gaudi3_rt::fold(ReductionId::sum_squares, chunks_, partial)) total += of_tensor;
        clip(total);
      }
      team.barrier();
      if (!result.stepped) return;
    }
    if (measures) {
      team.share(measure_queue, chunks_.count(), chunks_.batch(),
                 [&](std::int64_t i) { partial_norms[static_cast<std::size_t>(i)] = measure_chunk(i, grad_factor); });
      team.barrier();
      if (team.is_first()) norms = fold(partial_norms);
      team.barrier();
    }
    team.share(step_queue, chunks_.count(), chunks_.batch(), [&](std::int64_t i) {
      const Chunks::Piece p = chunks_.piece(i);
      const Tensor& tensor = tensors_[p.tensor];
      Step step = step_of(tensor, grad_factor);
      if (!norms.empty()) step.norms = {std::sqrt(norms[p.tensor].param), std::sqrt(norms[p.tensor].other)};
      table_.step[static_cast<int>(group(tensor).kernel)](step, p.begin, p.length);
    });
  });

  if (result.stepped) {
    for (const Tensor& tensor : tensors_) tensor.counter.write(constants_[tensor.constants].t);
  }
  return result;
}

}  // namespace gaudi3_rt
