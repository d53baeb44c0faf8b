#include "core/parallel.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "core/threads.hpp"

namespace transfuse {

/// How many chunks of one thread's share have been taken, in this loop and in the next one.
struct alignas(64) Progress {
  std::atomic<std::int64_t> taken[2]{};
};

/// What the threads of one region share.
struct Region {
  explicit Region(int size) : progress(new Progress[static_cast<std::size_t>(size)]) {}

  std::unique_ptr<Progress[]> progress;
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr error;

  // What each thread does.
  void run(void (*body)(void* context, Team& team), void* context) {
    Team team;
    team.region_ = this;
    team.size_ = omp_get_num_threads();
    team.rank_ = omp_get_thread_num();
    try {
      body(context, team);
    } catch (...) {
      team.fail(std::current_exception());
    }
  }
};

std::int64_t Team::take(int owner, std::int64_t count) {
  std::atomic<std::int64_t>& taken = region_->progress[static_cast<std::size_t>(owner)].taken[loops_ % 2];
  const std::int64_t first = share_begin(owner, count);
  const std::int64_t last = share_begin(owner + 1, count);
  if (first + taken.load(std::memory_order_relaxed) >= last) return last;  // spares a write to a shared line
  return first + taken.fetch_add(1, std::memory_order_relaxed);
}

// The counters of the next loop were last used in the loop before this one, which every thread has left; and no thread
// enters the next one before all have passed the barrier in front of it. So each thread may clear its own now.
void Team::begin_loop() {
  if (loops_ > 0) barrier();
  ++loops_;
  region_->progress[static_cast<std::size_t>(rank_)].taken[(loops_ + 1) % 2].store(0, std::memory_order_relaxed);
}

bool Team::failed() const { return region_ != nullptr && region_->failed.load(std::memory_order_relaxed); }

void Team::fail(std::exception_ptr error) {
  const std::scoped_lock lock(region_->mutex);
  if (!region_->error) region_->error = std::move(error);
  region_->failed.store(true, std::memory_order_relaxed);
}

void Team::barrier() {
#pragma omp barrier
}

int usable_threads(int threads) {
  if (threads <= 1 || is_forked_child() || omp_in_parallel() != 0) return 1;
  // OpenMP ends the process when it cannot create the threads that were asked for, so absurd numbers are cut.
  static const int most = std::max(64, 4 * omp_get_num_procs());
  return std::min(threads, most);
}

void run_team(int threads, void (*body)(void* context, Team& team), void* context) {
  const int size = usable_threads(threads);
  if (size == 1) {
    Team alone;
    body(context, alone);
    return;
  }
  Region region(size);
#pragma omp parallel num_threads(size)
  region.run(body, context);
  if (region.error) std::rethrow_exception(region.error);
}

}  // namespace transfuse
