// Elements of 16 bits: every pattern, and roundings to the nearest with ties to even, alone and through attention.
#include <gtest/gtest.h>

#include <cmath>

#include "array.hpp"
#include "sample.hpp"
#include "simd/element.hpp"
#include "transfuse/attention.hpp"

namespace transfuse::test {
namespace {

/// What a pattern stands for, by the definition: sign, exponent, fraction.
double value_of(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const double sign = bits >> 15 != 0 ? -1 : 1;
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1U << exponent_bits) - 1));
  const double fraction = bits & ((1U << fraction_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == 2 * bias + 1) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  const double one = exponent == 0 ? 0 : std::ldexp(1.0, fraction_bits);
  return sign * std::ldexp(one + fraction, std::max(exponent, 1) - bias - fraction_bits);
}
double value_of(Float16 x) { return value_of(x.bits, 5, 10); }
double value_of(BFloat16 x) { return value_of(x.bits, 8, 7); }

constexpr std::uint32_t kPatterns = 1U << 16;

template <class S>
S pattern(std::uint32_t bits) {
  return {static_cast<std::uint16_t>(bits)};
}

template <class S>
class Half : public testing::Test {};
using HalfTypes = testing::Types<Float16, BFloat16>;
TYPED_TEST_SUITE(Half, HalfTypes);

TYPED_TEST(Half, EveryPatternWidensAndNarrows) {
  for (std::uint32_t bits = 0; bits < kPatterns; ++bits) {
    const auto x = pattern<TypeParam>(bits);
    const float wide = widen(x);
    if (std::isnan(value_of(x))) {
      ASSERT_TRUE(std::isnan(wide)) << bits;
      ASSERT_TRUE(std::isnan(value_of(narrow<TypeParam>(wide)))) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(wide), value_of(x)) << bits;
      ASSERT_EQ(narrow<TypeParam>(wide).bits, bits);
    }
  }
}

TYPED_TEST(Half, NarrowingRoundsToTheNearestAndTiesToEven) {
  for (std::uint32_t bits = 0; bits + 1 < kPatterns / 2; ++bits) {
    const double low = value_of(pattern<TypeParam>(bits));
    const double high = value_of(pattern<TypeParam>(bits + 1));
    if (!std::isfinite(low)) break;
    // Beyond the largest finite number, the next one would be as far again.
    const double before = bits == 0 ? 0 : value_of(pattern<TypeParam>(bits - 1));
    const auto middle = static_cast<float>(std::isfinite(high) ? (low + high) / 2 : low + (low - before) / 2);
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    for (const std::uint32_t sign : {0U, 0x8000U}) {
      const auto narrowed = [&](float x) { return std::uint32_t{narrow<TypeParam>(sign == 0 ? x : -x).bits}; };
      ASSERT_EQ(narrowed(middle), sign | even) << bits;
      ASSERT_EQ(narrowed(std::nextafter(middle, 0.0F)), sign | bits) << bits;
      ASSERT_EQ(narrowed(std::nextafter(middle, HUGE_VALF)), sign | (bits + 1)) << bits;
    }
  }
}

/// The mean of two rows of values, by attention to two keys that are alike; `queries` decides which way they are read.
template <class S>
std::vector<S> mean(const Array<S>& v, std::int64_t queries, std::int64_t step) {
  const std::int64_t cols = v.shape()[1];
  Array<S> q({queries, 3}), k({v.shape()[0], 3});
  for (Array<S>* zero : {&q, &k}) zero->fill([](std::int64_t) { return S{0}; });
  Array<S> out({queries, cols}, {.step = step}, 64);
  attention(q.view(), k.view(), v.view(), out.view(), std::nullopt);
  EXPECT_TRUE(out.gaps_are_untouched());
  return out.values();
}

TYPED_TEST(Half, EveryPatternPassesThroughAttention) {
  const auto cols = static_cast<std::int64_t>(kPatterns / Sample::step());
  Array<TypeParam> v({1, cols});
  v.fill([](std::int64_t i) { return pattern<TypeParam>(static_cast<std::uint32_t>(i * Sample::step())); });
  const auto values = v.values();
  for (const std::int64_t queries : {1, 9})
    for (const std::int64_t step : {1, 2}) {
      const auto result = mean(v, queries, step);
      for (std::size_t i = 0; i < result.size(); ++i) {
        const double expected = value_of(values[i % values.size()]);
        if (std::isnan(expected))
          ASSERT_TRUE(std::isnan(value_of(result[i]))) << i;
        else
          ASSERT_EQ(value_of(result[i]), expected) << i;
      }
    }
}

TYPED_TEST(Half, ResultsRoundTiesToEven) {
  const auto cols = static_cast<std::int64_t>(0x7000 / Sample::step());  // sums of two stay finite
  Array<TypeParam> v({2, cols});
  v.fill([&](std::int64_t i) {
    return pattern<TypeParam>(static_cast<std::uint32_t>(i % cols * Sample::step() + i / cols));
  });
  for (const std::int64_t queries : {1, 9}) {
    const auto result = mean(v, queries, 1);
    for (std::size_t i = 0; i < result.size(); ++i) {
      const auto low = static_cast<std::uint32_t>(static_cast<std::int64_t>(i) % cols * Sample::step());
      ASSERT_EQ(result[i].bits, low + low % 2) << i;
    }
  }
}

}  // namespace
}  // namespace transfuse::test
