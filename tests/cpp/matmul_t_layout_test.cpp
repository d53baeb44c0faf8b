// matmul_t on every combination of layouts.
#include <gtest/gtest.h>

#include "product.hpp"
#include "sample.hpp"

namespace transfuse::test {
namespace {

const Layout kLayouts[] = {
    {},
    kFortranOrder,
    {.name = "reversed rows", .reversed_rows = true},
    {.name = "reversed columns", .reversed_cols = true},
    {.name = "Fortran order, all reversed", .transposed = true, .reversed_rows = true, .reversed_cols = true},
    {.name = "padded rows", .padding = 24},
    {.name = "Fortran order, padded columns", .transposed = true, .padding = 24},
    {.name = "every other element", .step = 2},
    {.name = "misaligned", .offset = 1},
    {.name = "Fortran order, misaligned", .transposed = true, .padding = 3, .offset = 3},
    {.name = "rows apart by no whole elements", .padding = 5, .offset = 2},
    {.name = "elements apart by no whole elements", .skew = 3, .padding = 1},
    {.name = "Fortran order, apart by no whole elements", .transposed = true, .skew = 1, .padding = 2, .offset = 1},
    // The result cannot have those that follow.
    {.name = "one row, repeated", .repeated_rows = true},
    {.name = "one column, repeated", .repeated_cols = true},
    {.name = "one column, repeated and padded", .repeated_cols = true, .padding = 4},
    {.name = "one element, repeated", .repeated_rows = true, .repeated_cols = true},
};
constexpr std::size_t kOutLayouts = 13;

template <class T>
class MatmulTLayout : public testing::Test {};
TYPED_TEST_SUITE(MatmulTLayout, ElementTypes);

struct Sizes {
  std::int64_t m, k, n;
};

/// Every combination of layouts of the operands and of the result.
template <class T>
void check_all_layouts(const Sizes& sizes) {
  SCOPED_TRACE(std::to_string(sizes.m) + "x" + std::to_string(sizes.k) + "x" + std::to_string(sizes.n));
  Sample sample;
  for (const Layout& layout_a : kLayouts) {
    for (const Layout& layout_b : kLayouts) {
      if (!sample.take()) continue;
      const auto a = random_array<T>({sizes.m, sizes.k}, 1, layout_a);
      const auto b = random_array<T>({sizes.k, sizes.n}, 2, layout_b);
      const auto bytes_a = a.bytes();
      const auto bytes_b = b.bytes();
      const auto expected = expected_product(a, b);
      for (std::size_t i = 0; i < kOutLayouts; ++i) {
        SCOPED_TRACE(std::string("a: ") + layout_a.name + "; b: " + layout_b.name + "; out: " + kLayouts[i].name);
        ASSERT_TRUE(is_near(multiply(a, b, {}, kLayouts[i]), expected));
      }
      EXPECT_TRUE(a.bytes() == bytes_a && b.bytes() == bytes_b) << "inputs were written to";
    }
  }
}

// More rows and columns than an operand may have to be read in place; the inner dimension ends amid a vector.
TYPED_TEST(MatmulTLayout, AllCombinations) { check_all_layouts<TypeParam>({71, 19, 67}); }

TYPED_TEST(MatmulTLayout, OuterProducts) { check_all_layouts<TypeParam>({71, 1, 67}); }

// Few rows and columns: 1, those that are computed together, and more; depths beyond what is summed at a time.
TYPED_TEST(MatmulTLayout, FewRows) {
  for (const Sizes& sizes : {Sizes{1, 141, 83}, {3, 19, 67}, {4, 135, 67}, {11, 14, 67}}) {
    check_all_layouts<TypeParam>(sizes);
    check_all_layouts<TypeParam>({sizes.n, sizes.k, sizes.m});
  }
}

TYPED_TEST(MatmulTLayout, SmallOperandsInAllLayouts) {
  Sample sample;
  for (const Layout& layout_a : kLayouts) {
    for (const Layout& layout_b : kLayouts) {
      if (!sample.take()) continue;
      const auto a = random_array<TypeParam>({7, 9}, 1, layout_a);
      const auto b = random_array<TypeParam>({9, 5}, 2, layout_b);
      const auto expected = expected_product(a, b);
      for (std::size_t i = 0; i < kOutLayouts; ++i) {
        SCOPED_TRACE(std::string("a: ") + layout_a.name + "; b: " + layout_b.name + "; out: " + kLayouts[i].name);
        ASSERT_TRUE(is_near(multiply(a, b, {}, kLayouts[i]), expected));
      }
    }
  }
}

// The layout decides which way the sums are computed, but never their value.
TYPED_TEST(MatmulTLayout, DoesNotAffectRounding) {
  const auto b = random_array<TypeParam>({300, 40}, 2);
  const auto b_columns = random_array<TypeParam>({300, 40}, 2, kFortranOrder);
  const auto a = random_array<TypeParam>({50, 300}, 1);
  const auto expected = multiply(a, b).values();
  for (const Layout& layout : {Layout{}, kFortranOrder, kScattered})
    EXPECT_EQ(multiply(a, b_columns, {}, layout).values(), expected) << layout.name;
}

// NumPy sets no rule for the stride of an axis with one element; it must not matter.
TYPED_TEST(MatmulTLayout, StrideOfASingleElementDoesNotMatter) {
  constexpr std::int64_t size = sizeof(TypeParam);
  for (std::int64_t m : {1, 37}) {
    for (std::int64_t n : {1, 41}) {
      for (std::int64_t k : {1, 23}) {
        const auto a = random_array<TypeParam>({1, m, k}, 1);
        const auto b = random_array<TypeParam>({k, n}, 2);
        const auto plain_a = random_array<TypeParam>({m, k}, 1);
        const auto expected = expected_product(plain_a, b);
        for (std::int64_t odd : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 61, -(std::int64_t{1} << 61)}) {
          const auto stride = [&](std::int64_t count, std::int64_t value) { return count == 1 ? odd : value; };
          const Dims strides_a = {odd, stride(m, k * size), stride(k, size)};
          const Dims strides_b = {stride(k, n * size), stride(n, size)};
          const Dims strides_out = {odd, stride(n, m * size), stride(m, size)};
          Array<TypeParam> out({1, n, m}, {}, 64);
          ConstTensorView view_a = a.view();
          ConstTensorView view_b = b.view();
          TensorView view_out = out.view();
          view_a.strides = strides_a;
          view_b.strides = strides_b;
          view_out.strides = strides_out;
          SCOPED_TRACE(testing::Message() << "M " << m << ", N " << n << ", K " << k << ", stride " << odd);
          ASSERT_NO_THROW(matmul_t(view_a, view_b, view_out));
          EXPECT_TRUE(is_near(out, expected));
          EXPECT_TRUE(out.gaps_are_untouched());
        }
      }
    }
  }
}

}  // namespace
}  // namespace transfuse::test
