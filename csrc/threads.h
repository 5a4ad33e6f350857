// One parallel region of the process's OpenMP runtime, and the three things that kernels need inside it.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace gaudi3_rt {

class Team {
 public:
  // The next item of a queue that all threads share, or -1 when [0, n) is used up.
  static std::int64_t take(std::atomic<std::int64_t>& queue, std::int64_t n) {
    const std::int64_t i = queue.fetch_add(1, std::memory_order_relaxed);
    return i < n ? i : -1;
  }

  // True in one thread of the team only.
  bool is_first() const;

  // Waits until every thread of the team is here; what they wrote before is visible afterwards.
  void barrier() const;
};

// Runs body once in each of (at most) n_threads threads and returns when all are done. The calling thread's
// floating-point environment (rounding, flushing of denormals) holds in all of them, so that a result cannot depend on
// which thread computed it. body must not throw.
void parallel(int n_threads, const std::function<void(const Team&)>& body);

}  // namespace gaudi3_rt
