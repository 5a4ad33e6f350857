// The tensors of one optimizer step as addresses, and the step itself.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "chunks.h"
#include "formulas.h"
#include "table.h"

namespace gaudi3_rt {

// The step counter of one tensor: a float32 or float64 that lives in the optimizer's state.
struct Counter {
  void* data;
  bool is_double;

  double read() const { return is_double ? *static_cast<double*>(data) : *static_cast<float*>(data); }
  void write(double t) const;
};

// What the tensors of one group have in common.
struct Group {
  KernelId kernel;
  std::vector<double> hyper;
  float sign;            // of the gradient: -1 to maximize
  std::uint64_t seed;    // of stochastic rounding
  float average_weight;  // of the new parameter in its average, for tensors that have one
};

// One tensor to step.
struct Member {
  std::int64_t length;
  const Operand* operands;  // param, grad, states..., as many as the kernel has
  Operand average;          // of the parameter; without data if there is none
  Counter counter;
  std::uint64_t number;  // of the parameter in its optimizer: part of the key of its random numbers
  Elements elements;
};

struct StepResult {
  double grad_norm;  // NaN when no norm was asked for
  bool stepped;      // false: a gradient was not finite and skip_nonfinite was set; nothing was written
};

class TensorList {
 public:
  explicit TensorList(const IsaTable& table) : table_(table) {}

  // Opens a group; the tensors appended next belong to it.
  void open_group(Group group) { groups_.push_back(std::move(group)); }

  void append(const Member& member);

  void clear();

  std::size_t size() const { return tensors_.size(); }
  const IsaTable& table() const { return table_; }

  // Two tensors of which one writes memory that the other reads or writes, if any: updating them in parallel would be a
  // race. Cheap when the addresses are those of the last call, as they mostly are from one step to the next.
  std::optional<std::array<std::size_t, 2>> overlap();

  // One number per tensor, from its gradient.
  std::vector<double> reduce_grads(ReductionId reduction, int n_threads) const;

  // The first pass of all tensors whose kernel has two, for a caller who has to complete the sums over shards before
  // step(): one per tensor, zero for kernels of one pass.
  std::vector<Norms> measure(int n_threads, double grad_factor);

  struct Options {
    double grad_factor = 1;  // gradients are multiplied by this as they are read
    // With max_norm, gradients are also multiplied by min(1, max_norm / (norm + 1e-6)), torch's clip coefficient, where
    // norm is the L2 norm of all gradients times grad_factor.
    std::optional<double> max_norm;
    bool skip_nonfinite = false;                    // do nothing if that norm is not finite
    std::optional<double> sum_squares;              // of all gradients, if the caller knows it
    std::optional<std::vector<Norms>> measurement;  // what measure() gave, completed: the first pass is not repeated
  };

  // The whole optimizer step in one parallel region. Counters are advanced only if the step is taken.
  StepResult step(int n_threads, const Options& options);

 private:
  struct Constants {
    alignas(16) std::byte bytes[kConstantsBytes];
    std::size_t group;
    double t;
  };
  struct Tensor {
    std::size_t group;
    std::size_t first_operand;
    std::size_t constants;
    Counter counter;
    Operand average;
    std::uint64_t number;
    Elements elements;
  };
  struct Range {
    std::uintptr_t begin, end;
    std::size_t tensor;
    bool operator==(const Range& other) const { return begin == other.begin && end == other.end; }
  };

  std::vector<Range> ranges(bool written) const;

  // Reads the counters and computes what each tensor's step needs; once for all tensors that share group and step.
  void prepare_constants();
  const Operand& grad(const Tensor& tensor) const { return operands_[tensor.first_operand + 1]; }
  const Group& group(const Tensor& tensor) const { return groups_[tensor.group]; }
  Step step_of(const Tensor& tensor, double grad_factor) const;
  bool has_two_passes() const;
  // The first pass over one chunk; nothing for a kernel of one pass.
  Norms measure_chunk(std::int64_t chunk, double grad_factor) const;
  // From one number per chunk to one per tensor.
  std::vector<Norms> fold(const std::vector<Norms>& partial) const;

  const IsaTable& table_;
  std::vector<Group> groups_;
  std::vector<Constants> constants_;
  std::vector<Tensor> tensors_;
  std::vector<Operand> operands_;
  Chunks chunks_;
  std::vector<Range> written_, read_;  // what overlap() found to be disjoint
  std::vector<Range> sorted_;          // written_, by address
};

}  // namespace gaudi3_rt
