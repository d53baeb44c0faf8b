// The result of matmul_t is bitwise the same for every number of threads.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "core/constants.hpp"
#include "operations/matmul_t.hpp"
#include "product.hpp"

namespace transfuse::test {
namespace {

struct Case {
  const char* name;
  Dims a, b;
  Layout layout = {};  // of the inputs
  Layout out = {};
  MatmulTConfig config = {};
};

const Case kCases[] = {
    {"barely enough work", {97, 61}, {61, 131}},
    {"several depth blocks", {150, 700}, {700, 90}},
    {"Fortran order", {150, 300}, {300, 170}, kFortranOrder, kFortranOrder},
    {"out in Fortran order", {150, 300}, {300, 170}, {}, kFortranOrder},
    {"scattered", {150, 100}, {100, 70}, kScattered, kScattered},
    {"one row", {1, 1000}, {1000, 1200}},
    {"one column", {1200, 1000}, {1000, 1}},
    {"few long sums", {7, 40000}, {40000, 5}},
    {"few long sums in Fortran order", {16, 9001}, {9001, 16}, kFortranOrder, kFortranOrder},
    {"few long sums, odd blocks", {31, 5000}, {5000, 33}, {}, kScattered, {.block_k = 77}},
    {"one row of long sums", {1, 20000}, {20000, 70}},
    {"one long sum", {1, 700001}, {700001, 1}},
    {"tiny blocks", {150, 130}, {130, 140}, {}, {}, {.block_m = 3, .block_n = 5, .block_k = 7}},
    {"huge blocks", {150, 130}, {130, 140}, {}, {}, {.block_m = 1 << 20, .block_n = 1 << 20, .block_k = 1 << 14}},
    {"many small matrices", {1000, 12, 16}, {16, 10}},
    {"some matrices", {3, 5, 40, 50}, {5, 50, 60}, kFortranOrder, kFortranOrder},
    {"few large matrices", {3, 150, 190}, {190, 160}},
    {"few large matrices in Fortran order", {3, 150, 190}, {3, 190, 160}, {}, kFortranOrder},
};

template <class T>
class MatmulTThreads : public testing::Test {};
TYPED_TEST_SUITE(MatmulTThreads, ElementTypes);

TYPED_TEST(MatmulTThreads, DoNotChangeTheResult) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto a = random_array<TypeParam>(c.a, 1, c.layout);
    const auto b = random_array<TypeParam>(c.b, 2, c.layout);
    const auto bias = random_array<TypeParam>({c.b.back()}, 3, {.step = 2});
    ASSERT_GE(prepare_matmul_t(a.view(), b.view()).work(), kParallelWork) << "too small for threads";
    const auto product = [&](int threads) {
      const MatmulTOptions options{
          .bias = bias.view(), .activation = Activation::silu, .num_threads = threads, .config = c.config};
      return multiply(a, b, options, c.out).values();
    };
    const auto alone = product(1);
    for (int threads : {0, 2, 3, 8}) EXPECT_EQ(product(threads), alone) << threads << " threads";

    const auto plain = multiply(a, b, {.num_threads = 3, .config = c.config}, c.out);
    EXPECT_TRUE(is_near(plain, expected_product(a, b)));
  }
}

TYPED_TEST(MatmulTThreads, MayCallItTogether) {
  const auto a = random_array<TypeParam>({90, 110}, 1);
  const auto b = random_array<TypeParam>({110, 100}, 2);
  const auto expected = multiply(a, b).values();
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 10; ++i) EXPECT_EQ(multiply(a, b, {.num_threads = 2}).values(), expected);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(MatmulTFork, AForkedChildComputesTheSame) {
  const auto a = random_array<float>({90, 110}, 1);
  const auto b = random_array<float>({110, 100}, 2);
  const auto expected = multiply(a, b, {.num_threads = 4}).values();
  const pid_t child = fork();
  ASSERT_NE(child, -1);
  if (child == 0) {
    alarm(30);  // ends the child if it hangs
    _exit(multiply(a, b, {.num_threads = 4}).values() == expected ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

}  // namespace
}  // namespace transfuse::test
