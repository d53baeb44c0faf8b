// matmul_t under every blocking.
#include <gtest/gtest.h>

#include "core/constants.hpp"
#include "product.hpp"
#include "sample.hpp"

namespace transfuse::test {
namespace {

constexpr std::int64_t kLargestBlock = std::int64_t{1} << 20;
constexpr std::int64_t kLargestDepth = std::int64_t{1} << 14;

template <class T>
class MatmulTBlocks : public testing::Test {};
TYPED_TEST_SUITE(MatmulTBlocks, ElementTypes);

TYPED_TEST(MatmulTBlocks, OfAnySize) {
  const auto a = random_array<TypeParam>({43, 37}, 1);
  const auto b = random_array<TypeParam>({37, 41}, 2);
  const auto bias = random_array<TypeParam>({41}, 3);
  const auto expected = expected_product(a, b, &bias);
  Sample sample;
  for (std::int64_t block_k :
       {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{5}, std::int64_t{7}, kLargestDepth}) {
    const auto same = multiply(a, b, {.bias = bias.view(), .config = {.block_k = block_k}}).values();
    for (std::int64_t block_m :
         {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{5}, std::int64_t{7}, kLargestBlock}) {
      for (std::int64_t block_n :
           {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{5}, std::int64_t{7}, kLargestBlock}) {
        for (const Layout& layout : {Layout{}, kFortranOrder}) {
          if (!sample.take()) continue;
          SCOPED_TRACE(testing::Message()
                       << "blocks of " << block_m << ", " << block_n << ", " << block_k << ", out in " << layout.name);
          const MatmulTConfig config{.block_m = block_m, .block_n = block_n, .block_k = block_k};
          const auto out = multiply(a, b, {.bias = bias.view(), .config = config}, layout);
          ASSERT_TRUE(is_near(out, expected));
          ASSERT_EQ(out.values(), same) << "only block_k may affect rounding";
        }
      }
    }
  }
}

TYPED_TEST(MatmulTBlocks, OfManyTiles) {
  const auto a = random_array<TypeParam>({150, 130}, 1);
  const auto b = random_array<TypeParam>({130, 140}, 2);
  const auto expected = expected_product(a, b);
  const MatmulTConfig configs[] = {{1, 1, 1}, {64, 64, 64}, {33, 150, 129}, {150, 33, 130}, {40, 40, 131}};
  for (const MatmulTConfig& config : configs)
    for (const Layout& layout : {Layout{}, kFortranOrder, kScattered})
      EXPECT_TRUE(is_near(multiply(a, b, {.config = config}, layout), expected))
          << config.block_m << ", " << config.block_n << ", " << config.block_k << ", out in " << layout.name;
}

// So deep a block leaves room for few lanes in the working memory: the product is computed section by section.
TYPED_TEST(MatmulTBlocks, BeyondTheWorkingMemory) {
  constexpr std::int64_t m = 150;
  constexpr std::int64_t n = 70;
  constexpr std::int64_t k = kLargestDepth + 300;
  constexpr std::int64_t lanes = kPackedBytes / (kLargestDepth * static_cast<std::int64_t>(sizeof(TypeParam)));
  static_assert(lanes < n && lanes < m / 2, "several sections both ways");
  if (Sample::step() > 50) GTEST_SKIP() << "takes long when emulated";
  // Fixed columns, so that the reference is that of a few of them.
  const auto few = random_array<TypeParam>({k, 7}, 2);
  const auto values = few.values();
  const auto a = random_array<TypeParam>({m, k}, 1);
  Array<TypeParam> b({k, n});
  b.fill([&](std::int64_t i) { return values[static_cast<std::size_t>(i / n * 7 + i % n % 7)]; });
  const auto some = expected_product(a, few);
  Expected<TypeParam> expected{{}, some.allowance};
  for (std::int64_t i = 0; i < n * m; ++i)
    expected.values.push_back(some.values[static_cast<std::size_t>(i % (7 * m))]);
  for (const Layout& layout : {Layout{}, kFortranOrder})
    for (int threads : {1, 3})
      EXPECT_TRUE(
          is_near(multiply(a, b, {.num_threads = threads, .config = {.block_k = kLargestDepth}}, layout), expected))
          << layout.name << ", " << threads << " threads";
}

}  // namespace
}  // namespace transfuse::test
