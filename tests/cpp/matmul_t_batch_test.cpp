// matmul_t over batches.
#include <gtest/gtest.h>

#include "core/constants.hpp"
#include "product.hpp"

namespace transfuse::test {
namespace {

struct Batches {
  Dims a, b;
};

const Batches kBatches[] = {
    {{}, {3}},           {{3}, {}},
    {{3}, {3}},          {{1}, {4}},
    {{4}, {1}},          {{1}, {1}},
    {{2, 3}, {3}},       {{3}, {2, 3}},
    {{2, 1}, {1, 3}},    {{2, 3, 2}, {2, 3, 2}},
    {{2, 1, 2}, {3, 1}}, {{1, 1, 5}, {2, 3, 1}},
    {{}, {2, 2, 2}},     {{0}, {1}},
    {{1}, {0}},          {{2, 0, 3}, {1, 1, 3}},
    {{}, {3, 0}},
};

Dims with_matrix(Dims batch, std::int64_t rows, std::int64_t cols) {
  batch.push_back(rows);
  batch.push_back(cols);
  return batch;
}

template <class T>
class MatmulTBatch : public testing::Test {
 protected:
  void check(const Batches& batches, std::int64_t m, std::int64_t n, std::int64_t k, const Layout& input = {},
             const Layout& output = {}) {
    SCOPED_TRACE(testing::Message() << "batches " << testing::PrintToString(batches.a) << " and "
                                    << testing::PrintToString(batches.b) << ", M " << m << ", N " << n << ", K " << k
                                    << ", inputs: " << input.name << ", out: " << output.name);
    const auto a = random_array<T>(with_matrix(batches.a, m, k), 1, input);
    const auto b = random_array<T>(with_matrix(batches.b, k, n), 2, input);
    EXPECT_TRUE(is_near(multiply(a, b, {}, output), expected_product(a, b)));
  }
};
TYPED_TEST_SUITE(MatmulTBatch, ElementTypes);

TYPED_TEST(MatmulTBatch, Broadcasts) {
  for (const Batches& batches : kBatches) {
    this->check(batches, 7, 5, 9);
    this->check(batches, 1, 1, 1);
    this->check(batches, 33, 1, 0);
    this->check(batches, 19, 35, 23);
  }
}

TYPED_TEST(MatmulTBatch, HasAnyLayout) {
  const Layout reversed{.name = "reversed batch, padded", .reversed_batch = true, .padding = 12};
  const Layout reversed_columns{.name = "Fortran order, reversed batch", .transposed = true, .reversed_batch = true};
  const Layout repeated{.name = "one matrix, repeated", .repeated_batch = true};
  for (const Batches& batches : kBatches) {
    this->check(batches, 7, 5, 9, reversed, kFortranOrder);
    this->check(batches, 7, 5, 9, kFortranOrder, reversed);
    this->check(batches, 7, 5, 9, kScattered, reversed_columns);
    this->check(batches, 7, 5, 9, repeated, kScattered);
  }
}

// Enough work for threads: a matrix each, several matrices each, and all of them at one matrix after the other.
TYPED_TEST(MatmulTBatch, ManySmallAndFewLargeMatrices) {
  this->check({{2000}, {2000}}, 3, 2, 4);
  this->check({{500}, {1}}, 16, 16, 16);
  this->check({{4, 5}, {5}}, 40, 50, 60);
  this->check({{2}, {2}}, 160, 170, 180);
  static_assert(std::int64_t{160} * 170 * 180 >= kTeamWork);
  this->check({{1}, {3}}, 160, 170, 180, kFortranOrder, kFortranOrder);
}

// The result of each matrix is bitwise that of a call of its own.
TYPED_TEST(MatmulTBatch, MatricesAreIndependent) {
  const auto a = random_array<TypeParam>({3, 20, 300}, 1);
  const auto b = random_array<TypeParam>({300, 30}, 2);
  const auto all = multiply(a, b).values();
  const auto values = a.values();
  for (std::int64_t i = 0; i < 3; ++i) {
    Array<TypeParam> one({20, 300});
    one.fill([&](std::int64_t j) { return values[static_cast<std::size_t>(i * 20 * 300 + j)]; });
    const auto first = all.begin() + i * 30 * 20;
    EXPECT_EQ(multiply(one, b).values(), std::vector<TypeParam>(first, first + 30 * 20));
  }
}

}  // namespace
}  // namespace transfuse::test
