// One parallel region of the process's OpenMP runtime, and what kernels need inside it.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace gaudi3_rt {

class Team {
 public:
  // Calls work(i) for every i in [0, n), each in one thread of the team; a thread takes `batch` consecutive ones at a
  // time from a queue that all share.
  template <class Work>
  static void share(std::atomic<std::int64_t>& queue, std::int64_t n, std::int64_t batch, const Work& work) {
    for (std::int64_t begin; (begin = queue.fetch_add(batch, std::memory_order_relaxed)) < n;) {
      const std::int64_t end = begin + batch < n ? begin + batch : n;
      for (std::int64_t i = begin; i < end; ++i) work(i);
    }
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
