// The seam to OpenMP: chunks, teams, exceptions, fork().
#include "core/parallel.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/threads.hpp"

namespace transfuse::test {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kCounts[] = {0, 1, 2, 3, 7, 8, 9, 31, 64, 1000};

/// How often each chunk ran.
class Tally {
 public:
  explicit Tally(std::int64_t count) : runs_(static_cast<std::size_t>(count)) {}

  void operator()(std::int64_t chunk) { ++runs_.at(static_cast<std::size_t>(chunk)); }
  int total() const {
    int sum = 0;
    for (const auto& runs : runs_) sum += runs;
    return sum;
  }
  bool each_is(int times) const {
    return std::all_of(runs_.begin(), runs_.end(), [&](const auto& runs) { return runs == times; });
  }

 private:
  std::vector<std::atomic<int>> runs_;
};

TEST(Parallel, RunsEachChunkOnce) {
  for (int threads : {-1, 0, 1, 2, 3, 4, 7, 16}) {
    for (std::int64_t count : kCounts) {
      Tally tally(count);
      parallel_for(threads, count, tally);
      EXPECT_TRUE(tally.each_is(1)) << threads << " threads, " << count << " chunks";
    }
  }
}

TEST(Parallel, RunsSeveralLoopsInOneRegion) {
  constexpr int rounds = 20;
  for (int threads : {1, 2, 3, 8}) {
    std::vector<Tally> tallies;
    for (std::int64_t count : kCounts) tallies.emplace_back(count);
    std::atomic<bool> ordered{true};
    parallel(threads, [&](Team& team) {
      for (int round = 1; round <= rounds; ++round) {
        for (Tally& tally : tallies) {
          team.for_each(static_cast<std::int64_t>(kCounts[&tally - tallies.data()]), tally);
          team.for_each(1, [&](std::int64_t) {
            if (!tally.each_is(round)) ordered = false;  // a loop began before the one before it had ended
          });
          team.wait();
        }
      }
    });
    EXPECT_TRUE(ordered) << threads << " threads";
    for (const Tally& tally : tallies) EXPECT_TRUE(tally.each_is(rounds)) << threads << " threads";
  }
}

TEST(Parallel, WaitsForALoop) {
  for (int threads : {1, 2, 3, 8}) {
    Tally tally(100);
    std::atomic<bool> complete{true};
    parallel(threads, [&](Team& team) {
      for (int round = 1; round <= 20; ++round) {
        team.for_each(100, tally);
        team.wait();
        if (!tally.each_is(round)) complete = false;
        team.wait();
      }
    });
    EXPECT_TRUE(complete) << threads << " threads";
  }
}

TEST(Parallel, TeamsHaveTheSizeAskedFor) {
  for (int threads : {1, 2, 3, 8}) {
    Tally ranks(threads);
    parallel(threads, [&](Team& team) {
      EXPECT_EQ(team.size(), threads);
      ranks(team.rank());
    });
    EXPECT_TRUE(ranks.each_is(1)) << threads << " threads";
  }
}

TEST(Parallel, NestedRegionsAreSerial) {
  Tally tally(60);
  parallel_for(3, 6, [&](std::int64_t outer) {
    EXPECT_EQ(usable_threads(8), 1);
    const auto id = std::this_thread::get_id();
    parallel(4, [&](Team& team) {
      EXPECT_EQ(team.size(), 1);
      team.for_each(10, [&](std::int64_t inner) {
        EXPECT_EQ(std::this_thread::get_id(), id);
        tally(outer * 10 + inner);
      });
    });
  });
  EXPECT_TRUE(tally.each_is(1));
}

TEST(Parallel, PropagatesTheFirstException) {
  for (int threads : {1, 2, 3, 8}) {
    std::atomic<int> started{0};
    try {
      parallel_for(threads, 1000, [&](std::int64_t chunk) {
        ++started;
        throw std::runtime_error(std::to_string(chunk));
      });
      ADD_FAILURE() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_TRUE(threads > 1 || error.what() == std::string("0"));
    }
    EXPECT_LE(started, threads) << "chunks after the exception must be skipped";
  }
}

TEST(Parallel, KeepsTheFirstOfTwoExceptions) {
  try {
    parallel(3, [](Team& team) {
      team.for_each(3, [](std::int64_t) { throw std::runtime_error("first"); });
      throw std::runtime_error("second");  // every thread has left the loop by now
    });
    ADD_FAILURE() << "no exception";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
}

TEST(Parallel, SkipsLaterLoopsAfterAnException) {
  std::atomic<int> later{0};
  EXPECT_THROW(parallel(3,
                        [&](Team& team) {
                          team.for_each(9, [](std::int64_t chunk) {
                            if (chunk == 4) throw std::bad_alloc();
                          });
                          team.for_each(9, [&](std::int64_t) { ++later; });
                        }),
               std::bad_alloc);
  EXPECT_EQ(later, 0);
}

TEST(Parallel, WorksAfterAnException) {
  EXPECT_THROW(parallel_for(3, 10, [](std::int64_t) { throw 1; }), int);
  Tally tally(100);
  parallel_for(3, 100, tally);
  EXPECT_TRUE(tally.each_is(1));
}

TEST(Parallel, AStalledThreadLosesNoChunks) {
  constexpr int count = 100;
  std::atomic<int> done{0};
  Tally tally(count);
  // Chunk 0 ends when somebody else has done all the others, those of its own thread's share included.
  parallel_for(2, count, [&](std::int64_t chunk) {
    const auto deadline = Clock::now() + std::chrono::seconds(30);
    while (chunk == 0 && done < count - 1 && Clock::now() < deadline) std::this_thread::yield();
    tally(chunk);
    ++done;
    EXPECT_TRUE(chunk != 0 || done == count) << done << " chunks done";
  });
  EXPECT_TRUE(tally.each_is(1));
}

TEST(Parallel, CutsAbsurdNumbersOfThreads) {
  EXPECT_EQ(usable_threads(-5), 1);
  EXPECT_EQ(usable_threads(0), 1);
  EXPECT_EQ(usable_threads(1), 1);
  EXPECT_EQ(usable_threads(3), 3);
  EXPECT_LE(usable_threads(INT32_MAX), 100'000);
  EXPECT_GE(usable_threads(INT32_MAX), 64);
}

TEST(Parallel, RunsSeriallyInAForkedChild) {
  parallel_for(4, 100, [](std::int64_t) {});  // the parent has threads, which the child has not
  const pid_t child = fork();
  ASSERT_NE(child, -1);
  if (child == 0) {
    Tally tally(100);
    parallel_for(4, 100, tally);
    const bool serial = is_forked_child() && usable_threads(4) == 1 && default_threads().count == 1 &&
                        std::string(default_threads().source) == "forked process";
    _exit(tally.each_is(1) && serial ? 0 : 1);
  }
  int status = 0;
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  pid_t ended = 0;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0 && Clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(5));
  if (ended == 0) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  EXPECT_EQ(ended, child) << "the child hangs";
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(usable_threads(4), 4) << "the parent is no child";
}

}  // namespace
}  // namespace transfuse::test
