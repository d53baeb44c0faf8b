// The registry of tuned configurations, and its effect on matmul_t.
#include "transfuse/tuned.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "core/registry.hpp"
#include "product.hpp"
#include "transfuse/error.hpp"

namespace transfuse::test {
namespace {

constexpr std::int64_t kLargestBlock = std::int64_t{1} << 20;
constexpr std::int64_t kLargestDepth = std::int64_t{1} << 14;

bool same(const MatmulTConfig& a, const MatmulTConfig& b) {
  return a.block_m == b.block_m && a.block_n == b.block_n && a.block_k == b.block_k;
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
  const auto finds = [](const MatmulTProblem& problem) {
    return find_tuned(Isa::scalar, DType::float32, problem).has_value();
  };
  set_tuned(Isa::scalar, DType::float32, {4, 64, 1, 0}, {.block_k = 5});
  EXPECT_TRUE(finds({4, 64, 1, 0}));
  EXPECT_TRUE(finds({7, 127, 1, 0}));
  EXPECT_FALSE(finds({3, 64, 1, 0}));
  EXPECT_FALSE(finds({8, 64, 1, 0}));
  EXPECT_FALSE(finds({4, 63, 1, 0}));
  EXPECT_FALSE(finds({4, 128, 1, 0}));
  EXPECT_FALSE(finds({4, 64, 2, 0}));
  EXPECT_FALSE(finds({4, 64, 0, 0}));
  EXPECT_FALSE(finds({4, 64, 1, 1}));
  set_tuned(Isa::scalar, DType::float32, {INT64_MAX, 1, 1, 1}, {.block_k = 5});
  EXPECT_TRUE(finds({(INT64_MAX >> 1) + 1, 1, 1, 1}));
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
  set_tuned(isa, DType::float32, {1, 40, 64, 30}, {.block_k = 3});
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
        const auto found = find_tuned(Isa::scalar, DType::float32, problem);
        if (found && found->block_m != found->block_n) consistent = false;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(consistent);
}

TEST(Registry, KeepsProblemsOfAnyKind) {
  Registry<int, 2> registry;
  EXPECT_FALSE(registry.find(Isa::scalar, DType::float32, {1, 2}));
  registry.set(Isa::scalar, DType::float32, {1, 2}, 5);
  registry.set(Isa::scalar, DType::float32, {2, 1}, 6);
  EXPECT_EQ(registry.find(Isa::scalar, DType::float32, {1, 3}), 5);
  EXPECT_EQ(registry.find(Isa::scalar, DType::float32, {3, 1}), 6);
  EXPECT_FALSE(registry.find(Isa::scalar, DType::float32, {1, 1}));
  registry.clear();
  EXPECT_FALSE(registry.find(Isa::scalar, DType::float32, {1, 2}));
}

}  // namespace
}  // namespace transfuse::test
