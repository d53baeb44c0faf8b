// The bias of matmul_t.
#include <gtest/gtest.h>

#include "product.hpp"

namespace transfuse::test {
namespace {

const Layout kOuts[] = {{}, kFortranOrder, kScattered, {.name = "padded", .padding = 9}};

// A bias has one axis: its "columns".
const Layout kBiases[] = {
    {},
    {.name = "reversed", .reversed_cols = true},
    {.name = "repeated", .repeated_cols = true},
    {.name = "every third element", .step = 3},
    {.name = "every other element, reversed", .reversed_cols = true, .step = 2},
    {.name = "misaligned, apart by no whole elements", .skew = 1, .offset = 1},
};

template <class T>
class MatmulTBias : public testing::Test {};
TYPED_TEST_SUITE(MatmulTBias, ElementTypes);

TYPED_TEST(MatmulTBias, HasAnyLayout) {
  for (std::int64_t m : {1, 3, 45}) {
    for (std::int64_t n : {1, 2, 31, 69}) {
      for (std::int64_t k : {0, 1, 21}) {
        const auto a = random_array<TypeParam>({m, k}, 1);
        const auto b = random_array<TypeParam>({k, n}, 2);
        for (const Layout& layout : kBiases) {
          const auto bias = random_array<TypeParam>({n}, 3, layout);
          const auto bytes = bias.bytes();
          const auto expected = expected_product(a, b, &bias);
          for (const Layout& out : kOuts) {
            SCOPED_TRACE(testing::Message() << "M " << m << ", N " << n << ", K " << k << ", bias " << layout.name
                                            << ", out in " << out.name);
            ASSERT_TRUE(is_near(multiply(a, b, {.bias = bias.view()}, out), expected));
          }
          EXPECT_TRUE(bias.bytes() == bytes);
        }
      }
    }
  }
}

TYPED_TEST(MatmulTBias, IsAddedOnceHoweverTheSumIsCut) {
  const auto a = random_array<TypeParam>({20, 50}, 1);
  const auto b = random_array<TypeParam>({50, 40}, 2);
  Array<TypeParam> bias({40});
  bias.fill([](std::int64_t i) { return 1000 * (i + 1); });
  const auto expected = expected_product(a, b, &bias);
  for (std::int64_t block_k : {1, 7, 25, 50, 64})
    for (const Layout& out : kOuts)
      EXPECT_TRUE(is_near(multiply(a, b, {.bias = bias.view(), .config = {.block_k = block_k}}, out), expected))
          << "block_k " << block_k << ", out in " << out.name;
}

TYPED_TEST(MatmulTBias, ServesEveryMatrixOfABatch) {
  const auto a = random_array<TypeParam>({3, 20, 9}, 1);
  const auto b = random_array<TypeParam>({2, 1, 9, 40}, 2);
  for (const Layout& layout : kBiases) {
    const auto bias = random_array<TypeParam>({40}, 3, layout);
    for (const Layout& out : kOuts)
      EXPECT_TRUE(is_near(multiply(a, b, {.bias = bias.view()}, out), expected_product(a, b, &bias)))
          << layout.name << ", out in " << out.name;
  }
}

}  // namespace
}  // namespace transfuse::test
