// The activations of matmul_t against their formulas in a wider type.
#include <gtest/gtest.h>

#include <algorithm>
#include <numbers>

#include "product.hpp"

namespace transfuse::test {
namespace {

constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                       Activation::silu};
const char* const kNames[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};

template <class W>
W gelu_tanh_argument(W x) {
  return std::sqrt(2 / std::numbers::pi_v<W>) * (x + W(0.044715L) * x * x * x);
}

template <class W>
W formula(Activation activation, W x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return std::isnan(x) ? x : std::max(x, W(0));
    case Activation::gelu: return x * std::erfc(-x / std::numbers::sqrt2_v<W>) / 2;
    case Activation::gelu_tanh: return x / (1 + std::exp(-2 * gelu_tanh_argument(x)));  // ½(1 + tanh u) = 1/(1 + e^-2u)
    case Activation::silu: return x / (1 + std::exp(-x));
  }
  return 0;
}

/// The distance of neighbouring numbers of type T around `value`.
template <class T>
Wide<T> ulp(Wide<T> value) {
  using Limits = std::numeric_limits<T>;
  const int exponent = std::fabs(value) < Limits::min() ? Limits::min_exponent - 1 : std::ilogb(value);
  return std::ldexp(Wide<T>(1), exponent - Limits::digits + 1);
}

/// Everything is within 8 ulp, with a few exceptions.
template <class T>
Wide<T> allowance(Activation activation, Wide<T> x, Wide<T> expected) {
  using Limits = std::numeric_limits<T>;
  if (activation == Activation::none || activation == Activation::relu) return 0;
  Wide<T> ulps = 8;
  Wide<T> absolute = 0;
  // 1. x·Φ(x) and x·sigmoid(2u) cannot be better than a subnormal second factor.
  if (activation != Activation::silu) absolute += std::fabs(x) * Limits::denorm_min();
  // 2. The rounding of u counts |2u|-fold in e^(-2u).
  const Wide<T> exponent = activation == Activation::gelu_tanh ? -2 * gelu_tanh_argument(x) : -x;
  if (activation == Activation::gelu_tanh && exponent > 0) ulps += 4 * exponent;
  // 3. Where e^(-x) overflows, the result is 0 instead of something tiny.
  if (activation != Activation::gelu && exponent > std::log(Wide<T>(Limits::max()))) absolute += std::fabs(expected);
  return ulps * ulp<T>(expected) + absolute;
}

/// Numbers of all magnitudes, and densely those where the functions bend.
template <class T>
std::vector<T> arguments() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> points = {0, Limits::max(), Limits::min(), Limits::denorm_min(), Limits::infinity()};
  for (int exponent = Limits::min_exponent - Limits::digits; exponent < Limits::max_exponent; ++exponent)
    for (T mantissa : {T(1), T(1.234567), T(1.875)}) points.push_back(std::ldexp(mantissa, exponent));
  for (int i = 1; i < 20'000; ++i) points.push_back(static_cast<T>(i * 0.0021L));  // up to 42, where gelu is 0
  for (int i = 0; i < 2'000; ++i) points.push_back(static_cast<T>(i * 0.4L));
  const std::size_t positive = points.size();
  for (std::size_t i = 0; i < positive; ++i) points.push_back(-points[i]);
  points.push_back(Limits::quiet_NaN());
  return points;
}

/// activation(x) by way of a product with 1, which leaves x as it is.
template <class T>
std::vector<T> activate(Activation activation, const std::vector<T>& x) {
  Array<T> a({static_cast<std::int64_t>(x.size()), 1});
  a.fill([&](std::int64_t i) { return x[static_cast<std::size_t>(i)]; });
  Array<T> one({1, 1});
  one.fill([](std::int64_t) { return 1; });
  return multiply(a, one, {.activation = activation}).values();
}

template <class T>
class MatmulTActivation : public testing::Test {};
TYPED_TEST_SUITE(MatmulTActivation, ElementTypes);

TYPED_TEST(MatmulTActivation, FollowsItsFormula) {
  const std::vector<TypeParam> x = arguments<TypeParam>();
  for (Activation activation : kActivations) {
    SCOPED_TRACE(kNames[static_cast<int>(activation)]);
    const std::vector<TypeParam> y = activate(activation, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const Wide<TypeParam> expected = formula<Wide<TypeParam>>(activation, x[i]);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(y[i])) << "x " << x[i] << ", got " << y[i];
      } else if (std::isinf(expected)) {
        ASSERT_EQ(y[i], expected) << "x " << x[i];
      } else {
        const Wide<TypeParam> error = std::fabs(y[i] - expected);
        ASSERT_LE(error, allowance<TypeParam>(activation, x[i], expected))
            << "x " << x[i] << ", got " << y[i] << ", expected " << expected << ", off by "
            << error / ulp<TypeParam>(expected) << " ulp";
      }
    }
  }
}

TYPED_TEST(MatmulTActivation, FollowsItsFormulaToTheEnds) {
  using Limits = std::numeric_limits<TypeParam>;
  const auto at = [](Activation activation, TypeParam x) {
    return activate(activation, std::vector<TypeParam>{x}).front();
  };
  const TypeParam infinity = Limits::infinity();
  for (Activation activation : kActivations) {
    SCOPED_TRACE(kNames[static_cast<int>(activation)]);
    EXPECT_TRUE(std::isnan(at(activation, Limits::quiet_NaN())));
    EXPECT_EQ(at(activation, infinity), infinity);
    EXPECT_EQ(at(activation, Limits::max()), Limits::max());
    EXPECT_EQ(at(activation, TypeParam(0)), 0);
    EXPECT_EQ(at(activation, TypeParam(-0.0)), 0);
  }
  EXPECT_EQ(at(Activation::relu, -infinity), 0);
  for (Activation activation : {Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    EXPECT_TRUE(std::isnan(at(activation, -infinity))) << "-inf · 0";
    EXPECT_EQ(at(activation, Limits::lowest()), 0);
  }
}

TYPED_TEST(MatmulTActivation, IsTheSameInEveryLane) {
  std::vector<TypeParam> x;
  for (int i = -18; i <= 18; ++i) x.push_back(static_cast<TypeParam>(i) / 3);
  for (Activation activation : kActivations) {
    auto expected = activate(activation, x);
    auto shifted = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
      std::rotate(expected.begin(), expected.begin() + 1, expected.end());
      ASSERT_EQ(activate(activation, shifted), expected) << kNames[static_cast<int>(activation)];
    }
  }
}

// Once, after the whole sum and the bias, in every layout.
TYPED_TEST(MatmulTActivation, ComesLast) {
  for (std::int64_t m : {5, 40}) {
    for (std::int64_t n : {3, 70}) {
      const auto a = random_array<TypeParam>({2, m, 30}, 1);
      const auto b = random_array<TypeParam>({30, n}, 2);
      const auto bias = random_array<TypeParam>({n}, 3);
      for (std::int64_t block_k : {7, 10, 30}) {
        MatmulTOptions options{.bias = bias.view(), .config = {.block_m = 9, .block_n = 8, .block_k = block_k}};
        const auto sums = multiply(a, b, options).values();
        for (Activation activation : kActivations) {
          options.activation = activation;
          const auto expected = activate(activation, sums);
          for (const Layout& layout : {Layout{}, kFortranOrder, kScattered})
            ASSERT_EQ(multiply(a, b, options, layout).values(), expected)
                << kNames[static_cast<int>(activation)] << ", M " << m << ", N " << n << ", block_k " << block_k
                << ", out in " << layout.name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace transfuse::test
