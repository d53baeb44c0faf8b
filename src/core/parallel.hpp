// The one seam to OpenMP. Work is cut into chunks whose number depends on the problem alone. Each thread starts with
// its own share of consecutive chunks, so that the data of neighbouring chunks, and of the next call, stay in its
// cache; then it takes what others have left, so that a thread that arrives late (a foreign job on its core) costs no
// more than a chunk.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>

namespace transfuse {

/// The threads of one parallel region, seen from one of them.
class Team {
 public:
  /// A team of the calling thread alone: its loops run inline and nothing is synchronised.
  Team() = default;

  int size() const { return size_; }
  int rank() const { return rank_; }

  /// Runs work(0) ... work(count - 1), each once, on any thread of the team. Returns when none is left to start; the
  /// next for_each(), wait() and the end of the region wait until all are done. All threads of the team must make the
  /// same calls. After an exception the remaining chunks are skipped, and parallel() rethrows the first one.
  template <class Work>
  void for_each(std::int64_t count, Work&& work) {
    if (size_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    begin_loop();
    for (int i = 0; i < size_; ++i) {
      const int owner = rank_ + i < size_ ? rank_ + i : rank_ + i - size_;
      const std::int64_t last = share_begin(owner + 1, count);
      for (std::int64_t chunk = take(owner, count); chunk < last; chunk = take(owner, count)) {
        if (failed()) continue;
        try {
          work(chunk);
        } catch (...) {
          fail(std::current_exception());
        }
      }
    }
  }

  /// Until all threads have come here.
  void wait() {
    if (size_ > 1) barrier();
  }

 private:
  friend struct Region;

  /// The first chunk of a thread's own share.
  std::int64_t share_begin(int rank, std::int64_t count) const {
    return count / size_ * rank + count % size_ * rank / size_;
  }
  /// The next chunk of `owner`'s share that nobody has taken; past its end where there is none.
  std::int64_t take(int owner, std::int64_t count);
  void begin_loop();
  bool failed() const;
  void fail(std::exception_ptr error);
  static void barrier();

  struct Region* region_ = nullptr;
  int size_ = 1;
  int rank_ = 0;
  int loops_ = 0;  // begun so far, alike on all threads
};

/// A body may throw only inside for_each(): other threads would wait for it there.
/// Runs body(team) on each of up to `threads` threads. There is no parallel region for one thread, inside another
/// region, or in a forked child; then body runs once, on the calling thread.
void run_team(int threads, void (*body)(void* context, Team& team), void* context);

template <class Body>
void parallel(int threads, Body&& body) {
  run_team(
      threads, [](void* context, Team& team) { (*static_cast<std::remove_reference_t<Body>*>(context))(team); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

/// work(i) for i in [0, count), on up to `threads` threads.
template <class Work>
void parallel_for(int threads, std::int64_t count, Work&& work) {
  parallel(threads, [&](Team& team) { team.for_each(count, work); });
}

/// How many threads parallel() would use at most if asked for `threads` here and now.
int usable_threads(int threads);

}  // namespace transfuse
