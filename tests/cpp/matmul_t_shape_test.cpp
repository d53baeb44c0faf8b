// The shape of the result, and the operands that have none.
#include <gtest/gtest.h>

#include "array.hpp"
#include "transfuse/error.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse::test {
namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 40;

/// The shapes may be huge: there are no elements behind these views.
Dims shape_of(const Dims& a, const Dims& b, DType dtype = DType::float32) {
  const Dims strides_a(a.size());
  const Dims strides_b(b.size());
  const Shape shape = matmul_t_shape({nullptr, dtype, a, strides_a}, {nullptr, dtype, b, strides_b});
  return {shape.span().begin(), shape.span().end()};
}

std::string error_of(const Dims& a, const Dims& b, DType dtype = DType::float32) {
  try {
    shape_of(a, b, dtype);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

TEST(MatmulTShape, IsTransposed) {
  EXPECT_EQ(shape_of({2, 3}, {3, 5}), (Dims{5, 2}));
  EXPECT_EQ(shape_of({1, 1}, {1, 1}), (Dims{1, 1}));
}

TEST(MatmulTShape, BroadcastsBatches) {
  EXPECT_EQ(shape_of({7, 2, 3}, {7, 3, 5}), (Dims{7, 5, 2}));
  EXPECT_EQ(shape_of({2, 3}, {7, 3, 5}), (Dims{7, 5, 2}));
  EXPECT_EQ(shape_of({7, 2, 3}, {3, 5}), (Dims{7, 5, 2}));
  EXPECT_EQ(shape_of({7, 1, 2, 3}, {4, 3, 5}), (Dims{7, 4, 5, 2}));
  EXPECT_EQ(shape_of({1, 4, 2, 3}, {6, 7, 1, 3, 5}), (Dims{6, 7, 4, 5, 2}));
  EXPECT_EQ(shape_of({1, 2, 3}, {0, 3, 5}), (Dims{0, 5, 2}));
}

TEST(MatmulTShape, HasAsManyDimensionsAsAnArrayMay) {
  Dims a(kMaxRank, 1);
  Dims b = a;
  a[0] = 3;
  b[1] = 2;
  Dims expected = a;
  expected[1] = 2;
  EXPECT_EQ(shape_of(a, b), expected);
}

TEST(MatmulTShape, MayBeEmpty) {
  EXPECT_EQ(shape_of({0, 3}, {3, 5}), (Dims{5, 0}));
  EXPECT_EQ(shape_of({2, 0}, {0, 5}), (Dims{5, 2}));
  EXPECT_EQ(shape_of({2, 3}, {3, 0}), (Dims{0, 2}));
}

TEST(MatmulTShape, NeedsMatrices) {
  EXPECT_EQ(error_of({3}, {3, 5}), "a: expected at least 2 dimensions, got shape (3,)");
  EXPECT_EQ(error_of({2, 3}, {3}), "b: expected at least 2 dimensions, got shape (3,)");
  EXPECT_EQ(error_of({}, {3, 5}), "a: expected at least 2 dimensions, got shape ()");
}

TEST(MatmulTShape, NeedsTheSameInnerDimension) {
  const std::string error = error_of({2, 3}, {4, 5});
  EXPECT_NE(error.find("(2, 3) and (4, 5)"), std::string::npos) << error;
  EXPECT_NE(error_of({2, 1}, {4, 5}), "no error") << "inner dimensions do not broadcast";
  EXPECT_NE(error_of({2, 0}, {1, 5}), "no error");
}

TEST(MatmulTShape, NeedsBatchesThatBroadcast) {
  const std::string error = error_of({2, 2, 3}, {3, 3, 5});
  EXPECT_NE(error.find("(2, 2, 3) and (3, 3, 5)"), std::string::npos) << error;
  EXPECT_NE(error_of({0, 2, 3}, {3, 3, 5}), "no error");
  EXPECT_NE(error_of({2, 1, 2, 3}, {3, 7, 3, 5}), "no error");
}

TEST(MatmulTShape, MustFitTheAddressSpace) {
  EXPECT_NE(error_of({kHuge, 1}, {1, kHuge}).find("more bytes than fit"), std::string::npos);
  EXPECT_NE(error_of({kHuge, 1, 1}, {kHuge, 1, kHuge}), "no error");
  const std::int64_t most = (INT64_MAX - 3) / 4;  // elements of 4 bytes
  EXPECT_EQ(shape_of({1, 1}, {1, most}), (Dims{most, 1}));
  EXPECT_NE(error_of({1, 1}, {1, most + 1}), "no error");
  EXPECT_NE(error_of({1, 1}, {1, most}, DType::float64), "no error");
}

TEST(MatmulTShape, NeverOverflowsWhenEmpty) {
  EXPECT_EQ(shape_of({0, kHuge, 1}, {1, kHuge}), (Dims{0, kHuge, kHuge}));
  EXPECT_EQ(shape_of({kHuge, kHuge, 0, 1}, {1, 1}), (Dims{kHuge, kHuge, 1, 0}));
  EXPECT_EQ(shape_of({kHuge, kHuge, 1, 1}, {1, 0}), (Dims{kHuge, kHuge, 0, 1}));
}

}  // namespace
}  // namespace transfuse::test
