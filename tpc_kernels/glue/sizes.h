// Which sizes the tensors of a kernel have, and how many members its index space: for all who call kernels.
#pragma once
#include <cstdint>
#include <iterator>
#include <optional>

#include "../registry.h"

namespace gaudi3_rt::tpc {

constexpr int kKernelCount = static_cast<int>(std::size(kKernels));
constexpr std::uint64_t kMemberElements = G3RT_MEMBER_ELEMENTS;
constexpr std::uint64_t kBlockElements = G3RT_BLOCK_ELEMENTS;
constexpr std::uint64_t kMaxShards = G3RT_MAX_SHARDS;
static_assert(kMemberElements % kBlockElements == 0, "a block belongs to one member");

// Coordinates are 32-bit in a kernel, and its loop over the last member ends beyond the tensor.
constexpr std::uint64_t kMaxElements = (std::uint64_t{1} << 31) - 1 - kMemberElements;

constexpr std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// The operands of one side of a kernel.
class Operands {
 public:
  explicit Operands(const Operand (&operands)[kMaxOperands]) : begin_(operands) {
    while (size_ < kMaxOperands && operands[size_].name != nullptr) ++size_;
  }
  const Operand* begin() const { return begin_; }
  const Operand* end() const { return begin_ + size_; }
  const Operand& operator[](std::uint32_t i) const { return begin_[i]; }
  std::uint32_t size() const { return size_; }

 private:
  const Operand* begin_;
  std::uint32_t size_ = 0;
};

constexpr bool is_cut(Access access) { return access == Access::elements || access == Access::rows; }

// Whether so many shards can be added up at once.
constexpr bool can_add_up(std::uint64_t shards) { return shards >= 1 && shards <= kMaxShards; }

constexpr bool outputs_have_sizes() {
  for (const Kernel& kernel : kKernels) {
    for (const Operand& output : kernel.outputs) {
      if (output.name != nullptr && output.access == Access::whole && output.size == 0) return false;
    }
  }
  return true;
}
static_assert(outputs_have_sizes(), "an output has to have a size, since nobody gives it one");

// How the tensors of one call are cut.
struct Cut {
  std::uint64_t elements;  // of a row
  std::uint64_t members;

  // The size of dimension 0 of an operand; none if any will do.
  std::optional<std::uint64_t> size(const Operand& operand) const {
    switch (operand.access) {
      case Access::elements:
      case Access::rows:
        return elements;
      case Access::partial:
        return members;
      case Access::scales:
        return ceil_div(elements, kBlockElements);
      case Access::whole:
        break;
    }
    if (operand.size == 0) return std::nullopt;
    return operand.size;
  }
};

// By the first input that is cut; size_of(i) is the size of dimension 0 of input i.
template <class SizeOf>
Cut cut(const Kernel& kernel, const SizeOf& size_of) {
  const Operands inputs(kernel.inputs);
  for (std::uint32_t i = 0; i < inputs.size(); ++i) {
    if (!is_cut(inputs[i].access)) continue;
    const std::uint64_t n = size_of(i);
    return {n, kernel.single_member ? 1 : ceil_div(n, kMemberElements)};
  }
  return {0, 1};
}

}  // namespace gaudi3_rt::tpc
