// The registry of tuned configurations, and its effect on matmul_t and attention.
#include "transfuse/tuned.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core/registry.hpp"
#include "product.hpp"
#include "transfuse/attention.hpp"
#include "transfuse/error.hpp"

namespace transfuse::test {
namespace {

constexpr std::int64_t kLargestBlock = std::int64_t{1} << 20;
constexpr std::int64_t kLargestDepth = std::int64_t{1} << 14;

bool same(const MatmulTConfig& a, const MatmulTConfig& b) {
  return a.block_m == b.block_m && a.block_n == b.block_n && a.block_k == b.block_k;
}

/// The block_m of the entry that a call would use, 0 for none.
std::int64_t found(const MatmulTProblem& problem, int threads = 1) {
  const auto config = find_tuned(Isa::scalar, DType::float32, problem, threads);
  return config ? config->block_m : 0;
}

void set_block(const MatmulTProblem& problem, std::int64_t block_m, int threads = 1) {
  set_tuned(Isa::scalar, DType::float32, problem, {.block_m = block_m}, threads);
}

class TunedTest : public testing::Test {
 protected:
  void SetUp() override { clear_tuned(); }
  void TearDown() override { clear_tuned(); }
};

TEST_F(TunedTest, FindsWhatWasSet) {
  const MatmulTProblem problem{1, 100, 200, 300};
  const MatmulTConfig config{.block_m = 1, .block_n = 2, .block_k = 3};
  EXPECT_FALSE(find_tuned(Isa::avx2, DType::float32, problem));
  set_tuned(Isa::avx2, DType::float32, problem, config);
  ASSERT_TRUE(find_tuned(Isa::avx2, DType::float32, problem));
  EXPECT_TRUE(same(*find_tuned(Isa::avx2, DType::float32, problem), config));

  set_tuned(Isa::avx2, DType::float32, problem, {.block_k = 7});
  EXPECT_TRUE(same(*find_tuned(Isa::avx2, DType::float32, problem), {.block_k = 7})) << "replaces, does not merge";
  clear_tuned();
  EXPECT_FALSE(find_tuned(Isa::avx2, DType::float32, problem));
}

TEST_F(TunedTest, TiersAndDtypesAreApart) {
  const MatmulTProblem problem{1, 10, 10, 10};
  std::int64_t block = 0;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    for (DType dtype : {DType::float32, DType::float64}) {
      EXPECT_FALSE(find_tuned(isa, dtype, problem));
      set_tuned(isa, dtype, problem, {.block_k = ++block});
    }
  }
  EXPECT_EQ(find_tuned(Isa::scalar, DType::float32, problem)->block_k, 1);
  EXPECT_EQ(find_tuned(Isa::scalar, DType::float64, problem)->block_k, 2);
  EXPECT_EQ(find_tuned(Isa::avx512, DType::float64, problem)->block_k, 6);
}

TEST_F(TunedTest, BucketsArePowersOfTwo) {
  set_block({4, 64, 1, 0}, 1);
  set_block({8, 64, 1, 0}, 2);
  set_block({4, 32, 1, 0}, 3);
  set_block({4, 64, 2, 0}, 4);
  set_block({4, 64, 1, 1}, 5);
  EXPECT_EQ(found({4, 64, 1, 0}), 1);
  EXPECT_EQ(found({7, 127, 1, 0}), 1);
  EXPECT_EQ(found({8, 127, 1, 0}), 2);
  EXPECT_EQ(found({7, 63, 1, 0}), 3);
  EXPECT_EQ(found({7, 127, 3, 0}), 4);
  EXPECT_EQ(found({7, 127, 1, 1}), 5);
  set_block({INT64_MAX, 1, 1, 1}, 6);
  EXPECT_EQ(found({(INT64_MAX >> 1) + 1, 1, 1, 1}), 6);
  set_block({INT64_MAX, INT64_MAX, INT64_MAX, 1}, 7);
  set_block({INT64_MAX, INT64_MAX, 1, INT64_MAX}, 8);
  EXPECT_EQ(found({INT64_MAX, INT64_MAX, INT64_MAX, 1}), 7);
  EXPECT_EQ(found({INT64_MAX, INT64_MAX, 3, INT64_MAX}), 8);
  EXPECT_EQ(found({INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}), 0);
}

TEST_F(TunedTest, TheNearestBucketIsUsedUpToTwoOctaves) {
  set_block({16, 64, 64, 64}, 1);
  EXPECT_EQ(found({16, 128, 64, 64}), 1);
  EXPECT_EQ(found({16, 256, 64, 64}), 1);
  EXPECT_EQ(found({16, 512, 64, 64}), 0);
  EXPECT_EQ(found({8, 128, 64, 64}), 1) << "both ways";
  EXPECT_EQ(found({8, 128, 32, 64}), 0) << "all sizes together";
  EXPECT_EQ(found({2, 64, 64, 64}), 0);
  set_block({16, 256, 64, 64}, 2);
  EXPECT_EQ(found({16, 64, 64, 64}), 1);
  EXPECT_EQ(found({16, 256, 64, 32}), 2);
  EXPECT_EQ(found({16, 512, 64, 64}), 2);
  EXPECT_EQ(found({16, 64, 32, 64}), 1);
}

TEST_F(TunedTest, TiesAreDecidedByTheEntriesAlone) {
  const MatmulTProblem left{1, 32, 64, 64}, right{1, 128, 64, 64}, between{1, 64, 64, 64};
  set_block(left, 1);
  set_block(right, 2);
  const std::int64_t first = found(between);
  EXPECT_NE(first, 0);
  clear_tuned();
  set_block(right, 2);
  set_block(left, 1);
  EXPECT_EQ(found(between), first) << "whatever came first";
}

// Against the definition.
TEST_F(TunedTest, FindsTheNearestOfMany) {
  std::vector<MatmulTProblem> problems;
  for (int i = 0; i < 60; ++i) problems.push_back({1 << i * 7 % 4, 1 << i * 5 % 13, 1 << i * 11 % 17, 1 << i * 3 % 11});
  for (std::size_t i = 0; i < problems.size(); ++i) set_block(problems[i], static_cast<std::int64_t>(i) + 1);
  const auto octaves = [](const MatmulTProblem& a, const MatmulTProblem& b) {
    const auto width = [](std::int64_t size) {
      return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(size)));
    };
    const auto between = [&](std::int64_t x, std::int64_t y) { return std::abs(width(x) - width(y)); };
    return between(a.batch, b.batch) + between(a.m, b.m) + between(a.k, b.k) + between(a.n, b.n);
  };
  for (std::int64_t batch = 1; batch <= 16; batch *= 2)
    for (std::int64_t m = 1; m <= 8192; m *= 4)
      for (std::int64_t k = 1; k <= 131072; k *= 4)
        for (std::int64_t n = 0; n <= 1024; n = 2 * n + 1) {
          const MatmulTProblem asked{batch, m, k, n};
          int least = 3;
          for (const MatmulTProblem& problem : problems) least = std::min(least, octaves(asked, problem));
          std::vector<std::int64_t> allowed;
          for (std::size_t i = 0; i < problems.size(); ++i)
            if (octaves(asked, problems[i]) == least) allowed.push_back(static_cast<std::int64_t>(i) + 1);
          if (least == 3) allowed = {0};
          EXPECT_NE(std::ranges::find(allowed, found(asked)), allowed.end())
              << batch << ' ' << m << ' ' << k << ' ' << n;
        }
}

TEST_F(TunedTest, TheNearestNumberOfThreadsIsUsed) {
  const MatmulTProblem problem{1, 64, 64, 64};
  set_block(problem, 2, 2);
  set_block(problem, 8, 8);
  set_block(problem, 4, 4);
  EXPECT_EQ(found(problem, 1), 2);
  EXPECT_EQ(found(problem, 2), 2);
  EXPECT_EQ(found(problem, 3), 2) << "the smaller one of two";
  EXPECT_EQ(found(problem, 4), 4);
  EXPECT_EQ(found(problem, 5), 4);
  EXPECT_EQ(found(problem, 7), 8);
  EXPECT_EQ(found(problem, INT_MAX), 8);
  set_block({1, 128, 64, 64}, 3, 3);
  EXPECT_EQ(found(problem, 3), 2) << "first the bucket, then the threads";
}

TEST_F(TunedTest, WhatAffectsRoundingIsTheSameForEveryNumberOfThreads) {
  const MatmulTProblem problem{1, 64, 64, 64}, other{1, 2048, 64, 64};
  set_tuned(Isa::scalar, DType::float32, other, {.block_m = 9, .block_k = 9}, 1);
  set_tuned(Isa::scalar, DType::float32, problem, {.block_m = 1, .block_n = 11, .block_k = 3}, 1);
  set_tuned(Isa::scalar, DType::float32, problem, {.block_m = 2, .block_k = 5}, 2);
  const auto find = [&](int threads) { return *find_tuned(Isa::scalar, DType::float32, problem, threads); };
  EXPECT_TRUE(same(find(1), {.block_m = 1, .block_n = 11, .block_k = 5}));
  EXPECT_TRUE(same(find(2), {.block_m = 2, .block_k = 5}));
  EXPECT_TRUE(same(*find_tuned(Isa::scalar, DType::float32, other), {.block_m = 9, .block_k = 9}));

  const AttentionProblem attention{2, 8, 8, 512, 512, 64, 0};
  set_tuned(Isa::scalar, DType::int8, attention, {.block_q = 1, .block_kv = 2, .key_chunk = 3}, 1);
  set_tuned(Isa::scalar, DType::int8, attention, {.block_q = 4, .block_kv = 5}, 2);
  const auto one = *find_tuned(Isa::scalar, DType::int8, attention, 1);
  EXPECT_EQ(one.block_q, 1);
  EXPECT_EQ(one.block_kv, 5);
  EXPECT_EQ(one.key_chunk, 0) << "the default, as in the last entry";
}

TEST_F(TunedTest, OperationsAreApart) {
  set_block({1, 64, 64, 64}, 7);
  EXPECT_FALSE(find_tuned(Isa::scalar, DType::float32, AttentionProblem{0, 0, 0, 1, 64, 64, 64}));
}

TEST_F(TunedTest, SeveralAtOnceOrNone) {
  const MatmulTProblem problem{1, 64, 64, 64}, other{1, 2048, 64, 64};
  std::vector<TunedEntry<MatmulTProblem>> entries{{Isa::scalar, DType::float32, problem, {.block_m = 1}},
                                                  {Isa::scalar, DType::float32, other, {.block_m = -1}}};
  EXPECT_THROW(set_tuned(entries), ValueError);
  EXPECT_EQ(found(problem), 0);
  entries[1].config.block_m = 2;
  entries.push_back({Isa::avx2, DType::float64, problem, {.block_m = 3}});
  entries.push_back({Isa::scalar, DType::float32, problem, {.block_m = 4}});
  set_tuned(entries);
  EXPECT_EQ(found(problem), 4) << "the later one";
  EXPECT_EQ(found(other), 2);
  EXPECT_EQ(find_tuned(Isa::avx2, DType::float64, problem)->block_m, 3);
}

TEST_F(TunedTest, RefusesValuesOutOfRange) {
  const MatmulTProblem problem{1, 1, 1, 1};
  const auto set = [&](const MatmulTConfig& config) { set_tuned(Isa::scalar, DType::float32, problem, config); };
  EXPECT_THROW(set({.block_m = -1}), ValueError);
  EXPECT_THROW(set({.block_n = INT64_MIN}), ValueError);
  EXPECT_THROW(set({.block_m = kLargestBlock + 1}), ValueError);
  EXPECT_THROW(set({.block_n = kLargestBlock + 1}), ValueError);
  EXPECT_THROW(set({.block_k = kLargestDepth + 1}), ValueError);
  EXPECT_FALSE(find_tuned(Isa::scalar, DType::float32, problem)) << "nothing was set";
  EXPECT_NO_THROW(set({}));
  EXPECT_NO_THROW(set({.block_m = 1, .block_n = 1, .block_k = 1}));
  EXPECT_NO_THROW(set({.block_m = kLargestBlock, .block_n = kLargestBlock, .block_k = kLargestDepth}));
}

// block_k affects the rounding, which shows what a call has used.
TEST_F(TunedTest, IsUsedByMatmulT) {
  const Isa isa = current_isa();
  const auto a = random_array<float>({20, 64}, 1);
  const auto b = random_array<float>({64, 30}, 2);
  const auto product = [&](const MatmulTConfig& config = {}) { return multiply(a, b, {.config = config}).values(); };
  const auto by_3 = product({.block_k = 3});
  const auto by_64 = product({.block_k = 64});
  ASSERT_NE(by_3, by_64);
  EXPECT_EQ(product(), by_64) << "the default is larger than K";

  set_tuned(isa, DType::float32, {1, 20, 64, 30}, {.block_k = 3});
  EXPECT_EQ(product(), by_3);
  EXPECT_EQ(product({.block_k = 64}), by_64) << "an explicit value wins";
  EXPECT_EQ(product({.block_m = 5}), by_3) << "parameter by parameter";

  set_tuned(isa, DType::float32, {1, 20, 64, 30}, {.block_m = 2});
  EXPECT_EQ(product(), by_64) << "what is not tuned keeps its default";
  clear_tuned();
  set_tuned(isa, DType::float32, {1, 160, 64, 30}, {.block_k = 3});
  set_tuned(isa, DType::float64, {1, 20, 64, 30}, {.block_k = 3});
  EXPECT_EQ(product(), by_64) << "meant for other calls";
}

TEST_F(TunedTest, BelongsToTheTierOfTheCall) {
  const auto a = random_array<double>({20, 64}, 1);
  const auto b = random_array<double>({64, 30}, 2);
  for (Isa isa : available_isas()) {
    clear_tuned();
    const auto by_64 = multiply(a, b, {.isa = isa}).values();
    set_tuned(isa, DType::float64, {1, 20, 64, 30}, {.block_k = 3});
    EXPECT_NE(multiply(a, b, {.isa = isa}).values(), by_64) << name(isa);
  }
}

// block_kv and key_chunk affect the rounding, the one of many queries, the other of few.
TEST_F(TunedTest, IsUsedByAttention) {
  const Isa isa = current_isa();
  for (const std::int64_t queries : {96, 2}) {
    clear_tuned();
    const auto q = random_array<float>({4, queries, 32}, 1), k = random_array<float>({2, 600, 32}, 2),
               v = random_array<float>({2, 600, 32}, 3);
    const auto attend = [&](const AttentionConfig& config, int threads) {
      Array<float> out({4, queries, 32});
      attention(q.view(), k.view(), v.view(), out.view(), std::nullopt, {.num_threads = threads, .config = config});
      return out.values();
    };
    const AttentionConfig small{.block_q = 8, .block_kv = 24, .key_chunk = 48},
        large{.block_kv = 256, .key_chunk = 512};
    const auto by_default = attend({}, 1);
    const auto by_small = attend(small, 1), by_large = attend(large, 1);
    ASSERT_NE(by_default, by_small);
    const AttentionProblem problem{1, 4, 2, queries, 600, 32, 0};
    set_tuned(isa, DType::float32, problem, {.block_q = 32, .block_kv = 10, .key_chunk = 20}, 1);
    set_tuned(isa, DType::float32, problem, small, 3);
    for (const int threads : {0, 1, 2, 3, 8}) {
      EXPECT_EQ(attend({}, threads), by_small) << queries << " queries, " << threads << " threads";
      EXPECT_EQ(attend(large, threads), by_large) << "an explicit value wins";
    }
    clear_tuned();
    set_tuned(isa, DType::float64, problem, small);
    set_tuned(isa, DType::float32, AttentionProblem{1, 4, 2, queries, 6000, 32, 0}, small);
    EXPECT_EQ(attend({}, 1), by_default) << "meant for other calls";
  }
}

TEST_F(TunedTest, ResultsOfMatmulTDoNotDependOnTheNumberOfThreads) {
  const auto a = random_array<float>({200, 300}, 1);
  const auto b = random_array<float>({300, 210}, 2);
  const auto product = [&](int threads) { return multiply(a, b, {.num_threads = threads}).values(); };
  const auto by_default = product(1);
  const MatmulTProblem problem{1, 200, 300, 210};
  set_tuned(current_isa(), DType::float32, problem, {.block_m = 30, .block_n = 40, .block_k = 50}, 1);
  set_tuned(current_isa(), DType::float32, problem, {.block_m = 50, .block_n = 60, .block_k = 70}, 2);
  const auto tuned = multiply(a, b, {.config = {.block_k = 70}}).values();
  ASSERT_NE(tuned, by_default);
  for (const int threads : {0, 1, 2, 3, 8}) EXPECT_EQ(product(threads), tuned) << threads;
}

TEST_F(TunedTest, ThreadsMaySetAndFindTogether) {
  constexpr int rounds = 20'000;
  std::atomic<bool> consistent{true};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 1; i <= rounds; ++i) {
        const MatmulTProblem problem{1, std::int64_t{1} << (i % 40), 1, 1};
        if (t == 0) set_tuned(Isa::scalar, DType::float32, problem, {.block_m = i, .block_n = i});
        if (t == 1 && i % 40 == 0) clear_tuned();
        const auto config = find_tuned(Isa::scalar, DType::float32, problem);
        if (config && config->block_m != config->block_n) consistent = false;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(consistent);
}

TEST(TunedTable, KeysAreAsFarApartAsTheirBytes) {
  EXPECT_EQ(octaves_between(0x0102030405060708, 0x0102030405060708), 0);
  EXPECT_EQ(octaves_between(0x0102030405060708, 0x0202030405060706), 3);
  EXPECT_EQ(octaves_between(0, 0x4040404040404040), 8 * 64);
}

TEST(Registry, KeepsProblemsOfAnyKind) {
  static constinit Registry<MatmulTConfig, 2> registry;
  using Entry = decltype(registry)::Entry;
  const Entry entries[] = {{Isa::scalar, DType::float32, {1, 200}, 1, {.block_m = 5}},
                           {Isa::scalar, DType::float32, {200, 1}, 1, {.block_m = 6}}};
  const auto find = [](std::int64_t first, std::int64_t second) {
    return registry.find(Isa::scalar, DType::float32, {first, second}, 1).value_or(MatmulTConfig{}).block_m;
  };
  EXPECT_EQ(find(1, 200), 0);
  registry.set(entries);
  EXPECT_EQ(find(1, 255), 5);
  EXPECT_EQ(find(255, 1), 6);
  EXPECT_EQ(find(14, 14), 0);
  registry.set({});
  EXPECT_EQ(find(1, 255), 5);
  registry.clear();
  EXPECT_EQ(find(1, 200), 0);
}

}  // namespace
}  // namespace transfuse::test
