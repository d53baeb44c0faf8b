// Products with few rows or with a depth of 1: sizes around those at which their kernels change, bias and activation,
// results written past the caches.
#include <gtest/gtest.h>

#include "core/constants.hpp"
#include "product.hpp"
#include "sample.hpp"

namespace transfuse::test {
namespace {

template <class T>
class MatmulTThin : public testing::Test {};
TYPED_TEST_SUITE(MatmulTThin, ElementTypes);

// Rows up to one more than `sweep` takes, depths around those that are summed together and around a vector.
TYPED_TEST(MatmulTThin, RowsAndDepths) {
  Sample sample;
  for (std::int64_t rows = 1; rows <= kSweepRows + 1; ++rows) {
    for (std::int64_t depth : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 127, 128, 129, 136, 400, 1025}) {
      for (std::int64_t cols : {1, 63, 64, 65, 97, 600}) {
        if (!sample.take()) continue;
        SCOPED_TRACE(std::to_string(rows) + "x" + std::to_string(depth) + "x" + std::to_string(cols));
        const auto few = random_array<TypeParam>({rows, depth}, 1);
        const auto many = random_array<TypeParam>({depth, cols}, 2);
        ASSERT_TRUE(is_near(multiply(few, many), expected_product(few, many)));
        const auto tall = random_array<TypeParam>({cols, depth}, 3);
        const auto narrow = random_array<TypeParam>({depth, rows}, 4);
        ASSERT_TRUE(is_near(multiply(tall, narrow), expected_product(tall, narrow)));
      }
    }
  }
}

TYPED_TEST(MatmulTThin, BiasInAnyOrientation) {
  for (const auto& [m, k, n] : std::initializer_list<std::array<std::int64_t, 3>>{
           {1, 40, 130}, {5, 40, 130}, {130, 40, 1}, {130, 40, 3}, {130, 1, 70}, {2100, 1, 3}, {3, 1, 2100}}) {
    SCOPED_TRACE(std::to_string(m) + "x" + std::to_string(k) + "x" + std::to_string(n));
    const auto a = random_array<TypeParam>({m, k}, 1);
    const auto b = random_array<TypeParam>({k, n}, 2);
    const auto expected = [&](const auto& bias) { return expected_product(a, b, &bias); };
    for (const Layout& layout : {Layout{}, Layout{.name = "every other", .step = 2}}) {
      const auto bias = random_array<TypeParam>({n}, 3, layout);
      for (const Layout& out : {Layout{}, kFortranOrder}) {
        const auto result = multiply(a, b, {.bias = bias.view()}, out);
        ASSERT_TRUE(is_near(result, expected(bias)));
      }
    }
  }
}

// As many bytes as are written past the caches, at every alignment of a row.
TYPED_TEST(MatmulTThin, LargeOuterProducts) {
  constexpr std::int64_t size = sizeof(TypeParam);
  const std::int64_t m = 1031;
  const std::int64_t n = kStreamBytes / (m * size) + 1;
  const auto a = random_array<TypeParam>({m, 1}, 1);
  const auto b = random_array<TypeParam>({1, n}, 2);
  const auto expected = expected_product(a, b);
  for (const Layout& layout :
       {Layout{}, Layout{.name = "misaligned", .offset = 1}, Layout{.name = "padded", .padding = 24}}) {
    SCOPED_TRACE(layout.name);
    for (int threads : {1, 3}) ASSERT_TRUE(is_near(multiply(a, b, {.num_threads = threads}, layout), expected));
  }
}

}  // namespace
}  // namespace transfuse::test
