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

struct StepResult {
  double grad_norm;  // NaN when no norm was asked for
  bool stepped;      // false: a gradient was not finite and skip_nonfinite was set; nothing was written
};

class TensorList {
 public:
  explicit TensorList(const IsaTable& table) : table_(table) {}

  // Opens a group: the tensors appended next share kernel, hyper-parameters and sign of the gradient.
  void open_group(KernelId kernel, const double* hyper, bool maximize);

  // operands: param, grad, states..., as many as the kernel has, each of `length` elements.
  void append(std::int64_t length, const Operand* operands, Counter counter);

  void clear();

  std::size_t size() const { return tensors_.size(); }
  const IsaTable& table() const { return table_; }

  // Two tensors of which one writes memory that the other reads or writes, if any: updating them in parallel would be a
  // race. Cheap when the addresses are those of the last call, as they mostly are from one step to the next.
  std::optional<std::array<std::size_t, 2>> overlap();

  // One number per tensor, from its gradient.
  std::vector<double> reduce_grads(ReductionId reduction, int n_threads) const;

  // The whole optimizer step in one parallel region. Gradients are multiplied by grad_factor as they are read; with
  // max_norm, also by min(1, max_norm / (norm + 1e-6)), torch's clip coefficient, where norm is the L2 norm of all
  // gradients times grad_factor. Counters are advanced only if the step is taken.
  StepResult step(int n_threads, double grad_factor, std::optional<double> max_norm, bool skip_nonfinite);

 private:
  struct Group {
    KernelId kernel;
    std::vector<double> hyper;
    float sign;
  };
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
