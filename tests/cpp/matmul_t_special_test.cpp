// matmul_t where there is nothing to sum or to store, and on numbers that are none.
#include <gtest/gtest.h>

#include "product.hpp"

namespace transfuse::test {
namespace {

constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                       Activation::silu};

template <class T>
class MatmulTSpecial : public testing::Test {};
TYPED_TEST_SUITE(MatmulTSpecial, ElementTypes);

TYPED_TEST(MatmulTSpecial, AnEmptySumIsZero) {
  for (const Layout& layout : {Layout{}, kFortranOrder, kScattered}) {
    for (Activation activation : kActivations) {
      const Array<TypeParam> a({3, 37, 0});
      const Array<TypeParam> b({0, 41});
      for (TypeParam value : multiply(a, b, {.activation = activation}, layout).values()) ASSERT_EQ(value, 0);
    }
  }
}

// There are no elements, so that the address may be anything.
TYPED_TEST(MatmulTSpecial, AnEmptySumReadsNothing) {
  const Dims shape_a = {3, 37, 0};
  const Dims shape_b = {0, 41};
  const Dims strides_a = {8, 16, -24};
  const Dims strides_b = {-800, 1 << 20};
  for (const std::byte* nowhere : {static_cast<const std::byte*>(nullptr), reinterpret_cast<const std::byte*>(8)}) {
    const ConstTensorView a{nowhere, dtype_of<TypeParam>, shape_a, strides_a};
    const ConstTensorView b{nowhere, dtype_of<TypeParam>, shape_b, strides_b};
    for (const Layout& layout : {Layout{}, kFortranOrder, kScattered}) {
      const auto bias = random_array<TypeParam>({41}, 1);
      Array<TypeParam> out({3, 41, 37}, layout, 64);
      matmul_t(a, b, out.view(), {.bias = bias.view(), .activation = Activation::relu});
      EXPECT_TRUE(out.gaps_are_untouched());
      const auto values = out.values();
      const auto expected = bias.values();
      for (std::size_t i = 0; i < values.size(); ++i)
        ASSERT_EQ(values[i], std::max(expected[i / 37 % 41], TypeParam(0))) << layout.name << ", element " << i;
    }
  }
}

TYPED_TEST(MatmulTSpecial, AnEmptyResultIsLeftAlone) {
  const Dims shapes[][2] = {{{0, 5}, {5, 7}}, {{7, 5}, {5, 0}}, {{0, 7, 5}, {5, 7}}, {{0, 0}, {0, 0}}};
  for (const auto& [shape_a, shape_b] : shapes) {
    const auto a = random_array<TypeParam>(shape_a, 1);
    const auto b = random_array<TypeParam>(shape_b, 2);
    const Dims shape = result_shape(a.view(), b.view());
    const Dims strides(shape.size());
    const auto bias = random_array<TypeParam>({shape_b.back()}, 3);
    EXPECT_NO_THROW(matmul_t(a.view(), b.view(), {nullptr, dtype_of<TypeParam>, shape, strides}));
    EXPECT_NO_THROW(
        matmul_t(a.view(), b.view(), {nullptr, dtype_of<TypeParam>, shape, strides}, {.bias = bias.view()}));
  }
}

TYPED_TEST(MatmulTSpecial, OldContentsOfTheResultDoNotMatter) {
  const auto a = random_array<TypeParam>({37, 23}, 1);
  const auto b = random_array<TypeParam>({23, 41}, 2);
  const auto expected = multiply(a, b).values();  // over NaN
  for (const Layout& layout : {Layout{}, kFortranOrder, kScattered}) {
    Array<TypeParam> out({41, 37}, layout);
    out.fill([](std::int64_t) { return 1e30; });
    matmul_t(a.view(), b.view(), out.view());
    EXPECT_EQ(out.values(), expected) << layout.name;
  }
}

/// NaN, an infinity of either sign, or finite.
template <class T>
int class_of(T value) {
  return std::isnan(value) ? 2 : std::isinf(value) ? (value > 0 ? 1 : -1) : 0;
}

double relu_of(double x) { return std::isnan(x) ? x : std::max(x, 0.0); }
double silu_of(double x) { return x / (1 + std::exp(-x)); }  // all activations but relu are alike at the ends

TYPED_TEST(MatmulTSpecial, NanAndInfinityPropagateAsInDouble) {
  const double infinity = std::numeric_limits<double>::infinity();
  constexpr std::int64_t m = 71;
  constexpr std::int64_t n = 67;
  for (std::int64_t k : {1, 3, 29}) {
    for (const Layout& layout : {Layout{}, kFortranOrder, kScattered}) {
      std::mt19937 generator(7);
      const auto element = [&](std::int64_t) {
        const auto number = generator() % 400;
        if (number == 0) return std::nan("");
        if (number <= 2) return infinity;
        if (number <= 4) return -infinity;
        if (number <= 20) return 0.0;
        return static_cast<double>(number) / 100 - 2;
      };
      Array<TypeParam> a({m, k}, layout);
      Array<TypeParam> b({k, n}, layout);
      a.fill(element);
      b.fill(element);
      const auto values_a = a.values();
      const auto values_b = b.values();
      const auto plain = multiply(a, b, {}, layout).values();
      const auto relu = multiply(a, b, {.activation = Activation::relu}, layout).values();
      const auto gelu = multiply(a, b, {.activation = Activation::gelu}, layout).values();
      const auto gelu_tanh = multiply(a, b, {.activation = Activation::gelu_tanh}, layout).values();
      const auto silu = multiply(a, b, {.activation = Activation::silu}, layout).values();
      for (std::size_t i = 0; i < plain.size(); ++i) {
        double sum = 0;
        for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j)
          sum += static_cast<double>(values_a[i % m * static_cast<std::size_t>(k) + j]) * values_b[j * n + i / m];
        SCOPED_TRACE(testing::Message() << "K " << k << ", element " << i << ", sum " << sum << ", " << layout.name);
        ASSERT_EQ(class_of(plain[i]), class_of(sum));
        ASSERT_EQ(class_of(relu[i]), class_of(relu_of(sum)));
        ASSERT_EQ(class_of(gelu[i]), class_of(silu_of(sum)));
        ASSERT_EQ(class_of(gelu_tanh[i]), class_of(silu_of(sum)));
        ASSERT_EQ(class_of(silu[i]), class_of(silu_of(sum)));
      }
    }
  }
}

// A NaN reaches its row and its column of the result, and nothing beside them.
TYPED_TEST(MatmulTSpecial, NanStaysInItsRow) {
  const auto a = random_array<TypeParam>({71, 19}, 1);
  const auto b = random_array<TypeParam>({19, 67}, 2);
  for (std::int64_t row : {0, 5, 31, 32, 70}) {
    auto poisoned = a;
    const auto values = a.values();
    poisoned.fill([&](std::int64_t i) {
      return i == row * 19 + 18 ? std::numeric_limits<TypeParam>::quiet_NaN() : values[static_cast<std::size_t>(i)];
    });
    const auto expected = multiply(a, b).values();
    const auto got = multiply(poisoned, b).values();
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (i % 71 == static_cast<std::size_t>(row)) {
        ASSERT_TRUE(std::isnan(got[i])) << "element " << i;
      } else {
        ASSERT_EQ(got[i], expected[i]) << "element " << i;
      }
    }
  }
}

TYPED_TEST(MatmulTSpecial, SumsOverflowToInfinity) {
  Array<TypeParam> a({5, 4});
  Array<TypeParam> b({4, 3});
  a.fill([](std::int64_t) { return std::numeric_limits<TypeParam>::max(); });
  b.fill([](std::int64_t) { return -2; });
  for (TypeParam value : multiply(a, b).values()) EXPECT_EQ(value, -std::numeric_limits<TypeParam>::infinity());
}

TYPED_TEST(MatmulTSpecial, SubnormalsAreKept) {
  const TypeParam tiny = std::numeric_limits<TypeParam>::denorm_min();
  Array<TypeParam> a({37, 3});
  Array<TypeParam> b({3, 20});
  a.fill([&](std::int64_t) { return tiny; });
  b.fill([](std::int64_t) { return 5; });
  for (TypeParam value : multiply(a, b).values()) ASSERT_EQ(value, 15 * tiny);
}

}  // namespace
}  // namespace transfuse::test
