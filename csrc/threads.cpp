#include "threads.h"

#include <cfenv>

// The entry points that a compiler emits for `#pragma omp parallel` and `barrier` (libgomp manual, "Implementing
// PARALLEL construct"). Called by name so that every compiler ends up in the libgomp that torch has loaded: with the
// pragma, clang would bring a runtime of its own, and a second thread pool would compete with torch's.
extern "C" {
void GOMP_parallel(void (*function)(void*), void* data, unsigned n_threads, unsigned flags);
void GOMP_barrier();
int omp_get_thread_num();
}

namespace gaudi3_rt {

bool Team::is_first() const { return omp_get_thread_num() == 0; }

void Team::barrier() const { GOMP_barrier(); }

namespace {

struct Region {
  const std::function<void(const Team&)>& body;
  std::fenv_t environment;
};

void run(void* data) {
  const Region& region = *static_cast<const Region*>(data);
  std::fenv_t own;
  std::fegetenv(&own);
  std::fesetenv(&region.environment);
  region.body(Team());
  std::fesetenv(&own);
}

}  // namespace

void parallel(int n_threads, const std::function<void(const Team&)>& body) {
  Region region{body, {}};
  std::fegetenv(&region.environment);
  GOMP_parallel(run, &region, static_cast<unsigned>(n_threads < 1 ? 1 : n_threads), 0);
}

}  // namespace gaudi3_rt
