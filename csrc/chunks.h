// A list of tensors cut into chunks of a fixed size, numbered in order: what threads take one at a time.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "table.h"

namespace gaudi3_rt {

class Chunks {
 public:
  struct Piece {
    std::size_t tensor;
    std::int64_t begin;
    std::int64_t length;
  };

  void add(std::int64_t length) {
    first_.push_back(count_);
    lengths_.push_back(length);
    count_ += (length + kChunk - 1) / kChunk;
    elements_ += length;
  }

  void clear() { *this = Chunks(); }

  std::int64_t count() const { return count_; }
  const std::vector<std::int64_t>& lengths() const { return lengths_; }

  Piece piece(std::int64_t chunk) const {
    // The last tensor that starts at or before this chunk; empty tensors have no chunk and are passed over.
    const auto after = std::upper_bound(first_.begin(), first_.end(), chunk);
    const auto tensor = static_cast<std::size_t>(after - first_.begin()) - 1;
    const std::int64_t begin = (chunk - first_[tensor]) * kChunk;
    return {tensor, begin, std::min(kChunk, lengths_[tensor] - begin)};
  }

  // How many chunks a thread takes at a time: small tensors go together, so that the threads meet less often.
  std::int64_t batch() const {
    constexpr std::int64_t kElements = 16 * 1024;
    return count_ == 0 ? 1 : std::clamp<std::int64_t>(kElements * count_ / std::max<std::int64_t>(elements_, 1), 1, 64);
  }

  // How many of n threads are worth waking: below this many elements one does not earn the microseconds it costs.
  int useful_threads(int n) const {
    constexpr std::int64_t kElementsPerThread = 16 * 1024;
    return static_cast<int>(std::clamp<std::int64_t>(elements_ / kElementsPerThread, 1, std::max(1, n)));
  }

 private:
  std::vector<std::int64_t> first_;  // number of each tensor's first chunk
  std::vector<std::int64_t> lengths_;
  std::int64_t count_ = 0;
  std::int64_t elements_ = 0;
};

}  // namespace gaudi3_rt
