// A list of gradients as addresses, and what is done to all of them at once: norms, clipping, scaling, unscaling.
#pragma once
#include <cstdint>
#include <vector>

#include "chunks.h"
#include "formulas.h"
#include "table.h"

namespace gaudi3_rt {

struct ClipResult {
  double norm;
  bool scaled;  // false: the norm is no larger than it may be, or not finite with skip_nonfinite; nothing was written
};

// The norm of a list from a reduction folded over it: the root of a sum of squares, else the value itself.
double norm_of(ReductionId reduction, double folded);

class GradList {
 public:
  explicit GradList(const IsaTable& table) : table_(table) {}

  void append(std::int64_t length, const Operand& grad);

  std::size_t size() const { return grads_.size(); }
  const IsaTable& table() const { return table_; }

  // One number per gradient.
  std::vector<double> reduce(ReductionId reduction, int n_threads) const;

  // Multiplies all gradients by min(1, max_norm / (norm + 1e-6)), torch's clip coefficient, with the norm rounded to
  // float first, as it is returned. Norm and multiplication are one parallel region; a coefficient of 1 writes nothing.
  ClipResult clip(ReductionId reduction, double max_norm, bool skip_nonfinite, int n_threads);

  // Replaces every element by what the map makes of it.
  void map(MapId map, const float* parameters, int n_threads);

  // Multiplies all gradients by inv_scale in one pass, and says whether all elements were finite before.
  bool unscale(float inv_scale, int n_threads);

 private:
  // Whether some gradients share memory. They are then written by one thread, one after another, so that what they
  // share is written as often as it is listed, and always to the same result.
  bool overlap() const;

  const IsaTable& table_;
  std::vector<Operand> grads_;
  Chunks chunks_;
};

}  // namespace gaudi3_rt
