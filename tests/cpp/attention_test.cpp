// attention against the formula: sizes around those of tiles and blocks, every option, any layout. Arrays end where
// their memory does, so that a sanitizer sees what is read beyond.
#include "transfuse/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "array.hpp"
#include "sample.hpp"
#include "transfuse/error.hpp"

namespace transfuse::test {
namespace {

using ElementTypes = testing::Types<float, double>;

/// Sizes of a call: one sequence, Hq heads that share Hkv.
struct Sizes {
  std::int64_t q_heads, kv_heads, queries, keys, depth, value_depth;

  std::string text() const {
    std::string result;
    for (const std::int64_t size : {q_heads, kv_heads, queries, keys, depth, value_depth})
      result += (result.empty() ? "" : ", ") + std::to_string(size);
    return result;
  }
};

/// A score before masking, from q·k; and whether the query sees the key.
struct Formula {
  double scale = 0;
  std::function<double(double score, std::int64_t head, std::int64_t query, std::int64_t key)> change =
      [](double score, std::int64_t, std::int64_t, std::int64_t) { return score; };
  std::function<bool(std::int64_t head, std::int64_t query, std::int64_t key)> sees = [](std::int64_t, std::int64_t,
                                                                                         std::int64_t) { return true; };
};

template <class T>
struct Operands {
  explicit Operands(const Sizes& s, const Layout& layout = {})
      : sizes(s),
        q(random_array<T>({s.q_heads, s.queries, s.depth}, 1, layout)),
        k(random_array<T>({s.kv_heads, s.keys, s.depth}, 2, layout)),
        v(random_array<T>({s.kv_heads, s.keys, s.value_depth}, 3, layout)) {}

  Sizes sizes;
  Array<T> q, k, v;
};

/// Runs attention and compares every element, and lse, with the formula in double precision.
template <class T>
void expect_formula(const Operands<T>& o, const AttentionOptions& options, const Formula& formula,
                    const Layout& layout = {}) {
  const Sizes& s = o.sizes;
  constexpr std::int64_t guard = 64;
  Array<T> out({s.q_heads, s.queries, s.value_depth}, layout, guard);
  Array<T> lse({s.q_heads, s.queries}, {}, guard);
  attention(o.q.view(), o.k.view(), o.v.view(), out.view(), lse.view(), options);
  EXPECT_TRUE(out.gaps_are_untouched());
  EXPECT_TRUE(lse.gaps_are_untouched());
  const auto q = o.q.values();
  const auto k = o.k.values();
  const auto v = o.v.values();
  const auto result = out.values();
  const auto logs = lse.values();
  const double scale = formula.scale != 0 ? formula.scale : 1 / std::sqrt(static_cast<double>(s.depth));
  const double tolerance = 40 * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (std::int64_t h = 0; h < s.q_heads; ++h) {
    const std::int64_t shared = h / (s.q_heads / s.kv_heads);
    for (std::int64_t i = 0; i < s.queries; ++i) {
      std::vector<double> scores;
      double top = -std::numeric_limits<double>::infinity();
      for (std::int64_t j = 0; j < s.keys; ++j) {
        double sum = 0;
        for (std::int64_t d = 0; d < s.depth; ++d)
          sum += static_cast<double>(q[static_cast<std::size_t>((h * s.queries + i) * s.depth + d)]) *
                 static_cast<double>(k[static_cast<std::size_t>((shared * s.keys + j) * s.depth + d)]);
        scores.push_back(formula.sees(h, i, j) ? formula.change(sum * scale, h, i, j)
                                               : -std::numeric_limits<double>::infinity());
        top = std::max(top, scores.back());
      }
      double total = 0;
      for (double& score : scores) {
        score = std::isinf(score) ? 0 : std::exp(score - top);
        total += score;
      }
      for (std::int64_t d = 0; d < s.value_depth; ++d) {
        double expected = 0;
        for (std::int64_t j = 0; j < s.keys; ++j)
          expected += scores[static_cast<std::size_t>(j)] *
                      static_cast<double>(v[static_cast<std::size_t>((shared * s.keys + j) * s.value_depth + d)]);
        expected = total > 0 ? expected / total : 0;
        const auto at = static_cast<std::size_t>((h * s.queries + i) * s.value_depth + d);
        ASSERT_NEAR(static_cast<double>(result[at]), expected, tolerance) << h << ", " << i << ", " << d;
      }
      const auto log = static_cast<double>(logs[static_cast<std::size_t>(h * s.queries + i)]);
      if (total > 0) {
        ASSERT_NEAR(log, top + std::log(total), 2 * tolerance * (1 + std::fabs(top))) << h << ", " << i;
      } else {
        ASSERT_EQ(log, -std::numeric_limits<double>::infinity()) << h << ", " << i;
      }
    }
  }
}

template <class T>
class Attention : public testing::Test {};
TYPED_TEST_SUITE(Attention, ElementTypes);

TYPED_TEST(Attention, Sizes) {
  Sample sample;
  for (const std::int64_t queries : {1, 2, 5, 13, 14, 15, 29})
    for (const std::int64_t keys : {1, 3, 15, 16, 17, 32, 33, 65})
      for (const std::int64_t depth : {1, 7, 16, 33})
        for (const std::int64_t value_depth : {1, 8, 17, 40}) {
          if (!sample.take()) continue;
          const Sizes sizes{2, 1, queries, keys, depth, value_depth};
          SCOPED_TRACE(sizes.text());
          expect_formula(Operands<TypeParam>(sizes), {}, {});
          expect_formula(
              Operands<TypeParam>(sizes), {.causal = Causal::lower_right, .config = {.block_q = 5, .block_kv = 9}},
              {.sees = [&](std::int64_t, std::int64_t i, std::int64_t j) { return j <= i + keys - queries; }});
        }
}

TYPED_TEST(Attention, MaskAndBias) {
  for (const std::int64_t keys : {1, 15, 16, 17, 40, 70}) {
    const Sizes sizes{4, 2, 19, keys, 12, 20};
    SCOPED_TRACE(sizes.text());
    Array<bool> mask({4, 19, keys});
    mask.fill([](std::int64_t i) { return i * 7 % 10 < 6; });
    const auto sees = [keys](std::int64_t h, std::int64_t i, std::int64_t j) {
      return ((h * 19 + i) * keys + j) * 7 % 10 < 6;
    };
    expect_formula(Operands<TypeParam>(sizes), {.mask = mask.view()}, {.sees = sees});
    Array<bool> backwards({4, 19, keys}, {.reversed_cols = true});
    backwards.fill([](std::int64_t i) { return i * 7 % 10 < 6; });
    expect_formula(Operands<TypeParam>(sizes), {.mask = backwards.view()}, {.sees = sees});

    const auto value = [](std::int64_t i) { return i % 5 == 0 ? -HUGE_VAL : static_cast<double>(i % 8) / 8; };
    const auto change = [&](double s, std::int64_t h, std::int64_t i, std::int64_t j) {
      return s + value((h * 19 + i) * keys + j);
    };
    for (const Layout& layout : {Layout{}, kFortranOrder, Layout{.name = "every other", .step = 2}}) {
      Array<TypeParam> bias({4, 19, keys}, layout);
      bias.fill(value);
      expect_formula(Operands<TypeParam>(sizes), {.bias = bias.view()}, {.change = change});
    }
    Array<float> narrow({4, 19, keys});
    narrow.fill(value);
    expect_formula(Operands<TypeParam>(sizes), {.bias = narrow.view(), .config = {.block_kv = 13}}, {.change = change});
  }
}

TYPED_TEST(Attention, OtherOptions) {
  const Sizes sizes{4, 2, 23, 50, 12, 20};
  const Operands<TypeParam> o(sizes);
  expect_formula(o, {.scale = -0.4}, {.scale = -0.4});
  expect_formula(o, {.softcap = 0.5}, {.change = [](double s, auto...) { return 0.5 * std::tanh(s / 0.5); }});
  Array<TypeParam> slopes({4}, {.step = 2});
  slopes.fill([](std::int64_t h) { return 0.25 * static_cast<double>(h); });
  expect_formula(o, {.alibi_slopes = slopes.view()},
                 {.change = [](double s, std::int64_t h, std::int64_t i, std::int64_t j) {
                   return s - 0.25 * static_cast<double>(h) * std::fabs(static_cast<double>(i + 27 - j));
                 }});
  const std::int64_t offset[] = {11};
  expect_formula(o, {.query_offset = offset, .window_left = 6, .window_right = 3},
                 {.sees = [](std::int64_t, std::int64_t i, std::int64_t j) { return j >= i + 5 && j <= i + 14; }});
  const std::int64_t length[] = {31};
  expect_formula(o, {.kv_lengths = length},
                 {.sees = [](std::int64_t, std::int64_t, std::int64_t j) { return j < 31; }});
}

TYPED_TEST(Attention, Layouts) {
  const Sizes sizes{4, 2, 23, 50, 12, 20};
  for (const Layout& layout : {kFortranOrder, kScattered, Layout{.name = "misaligned", .offset = 1},
                               Layout{.name = "padded", .padding = 24}}) {
    SCOPED_TRACE(layout.name);
    expect_formula(Operands<TypeParam>(sizes, layout), {}, {}, layout);
  }
}

TYPED_TEST(Attention, ThreadsAndPiecesDoNotChangeTheResult) {
  const Operands<TypeParam> o({4, 2, 150, 170, 32, 32});
  const auto run = [&](int threads, std::int64_t block_q) {
    Array<TypeParam> out({4, 150, 32});
    attention(o.q.view(), o.k.view(), o.v.view(), out.view(), std::nullopt,
              {.causal = Causal::lower_right, .num_threads = threads, .config = {.block_q = block_q}});
    return out.values();
  };
  const auto alone = run(1, 0);
  for (int threads : {2, 3, 8}) EXPECT_EQ(run(threads, 0), alone) << threads;
  for (std::int64_t block : {1, 13, 14, 40, 1000}) EXPECT_EQ(run(1, block), alone) << block;
}

TYPED_TEST(Attention, HiddenKeysHaveNoInfluence) {
  Operands<TypeParam> o({2, 1, 20, 40, 16, 24});
  const auto clean = [&](Array<TypeParam> array) {
    array.fill([poisoned = array.values()](std::int64_t i) {
      const TypeParam x = poisoned[static_cast<std::size_t>(i)];
      return std::isfinite(x) ? x : 0;
    });
    return array;
  };
  for (const double poison : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const auto spoil = [&](Array<TypeParam>& array) {
      const std::int64_t cols = array.shape()[2];
      array.fill([&, values = array.values()](std::int64_t i) {
        return i / cols % 40 >= 21 ? static_cast<TypeParam>(poison) : values[static_cast<std::size_t>(i)];
      });
    };
    spoil(o.k);
    spoil(o.v);
    const auto run = [&](const Array<TypeParam>& k, const Array<TypeParam>& v) {
      Array<TypeParam> out({2, 20, 24});
      const std::int64_t offset[] = {1};
      attention(o.q.view(), k.view(), v.view(), out.view(), std::nullopt,
                {.causal = Causal::yes, .query_offset = offset, .config = {.block_kv = 7}});
      return out.values();
    };
    const auto got = run(o.k, o.v);
    const auto expected = run(clean(o.k), clean(o.v));
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5) << i;
  }
}

TEST(AttentionErrors, LeaveTheOutputsAlone) {
  const Operands<float> o({4, 2, 5, 7, 8, 6});
  Array<float> out({4, 5, 6});
  Array<float> lse({4, 5});
  const auto before = out.bytes();
  const auto refuse = [&](const AttentionOptions& options, const char* argument) {
    try {
      attention(o.q.view(), o.k.view(), o.v.view(), out.view(), lse.view(), options);
      ADD_FAILURE() << argument << ": no error";
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).rfind(std::string(argument) + ":", 0), 0U) << error.what();
    }
    EXPECT_EQ(out.bytes(), before);
  };
  const std::int64_t lengths[] = {8};
  Array<bool> mask({5, 6});
  Array<double> bias({5, 7});
  Array<float> slopes({3});
  refuse({.causal = Causal::yes}, "causal");
  refuse({.scale = std::nan("")}, "scale");
  refuse({.softcap = 0.0}, "softcap");
  refuse({.window_left = -1}, "window");
  refuse({.kv_lengths = lengths}, "kv_lengths");
  refuse({.mask = mask.view()}, "mask");
  refuse({.mask = slopes.view()}, "mask");
  refuse({.bias = bias.view()}, "bias");
  refuse({.alibi_slopes = slopes.view()}, "alibi_slopes");
  refuse({.sinks = slopes.view()}, "sinks");
  refuse({.num_threads = -1}, "num_threads");
  refuse({.config = {.block_q = -1}}, "config");
}

TEST(AttentionErrors, OutputsThatDoNotFit) {
  const Operands<float> o({4, 2, 5, 7, 8, 6});
  Array<float> out({4, 5, 6});
  Array<float> memory({4, 5, 6});
  const auto refuse = [&](const char* message, const TensorView& result, const std::optional<TensorView>& lse) {
    const auto before = out.bytes();
    try {
      attention(o.q.view(), o.k.view(), o.v.view(), result, lse);
      ADD_FAILURE() << message << ": no error";
    } catch (const ValueError& error) {
      EXPECT_EQ(std::string(error.what()).rfind(message, 0), 0U) << error.what();
    }
    EXPECT_EQ(out.bytes(), before);
  };
  Array<float> short_out({4, 5, 5}), long_lse({4, 6});
  Array<double> wide_lse({4, 5});
  const std::int64_t shape[] = {4, 5}, strides[] = {20, 4}, same[] = {0, 4};
  const TensorView in_out{out.view().data, DType::float32, shape, strides};
  const TensorView repeated{memory.view().data, DType::float32, shape, same};
  refuse("out: expected shape (4, 5, 6), got (4, 5, 5)", short_out.view(), std::nullopt);
  refuse("lse: expected shape (4, 5), got (4, 6)", out.view(), long_lse.view());
  refuse("lse: expected dtype float32, got float64", out.view(), wide_lse.view());
  refuse("lse: expected elements that do not share memory", out.view(), repeated);
  refuse("lse: expected no memory shared with out", out.view(), in_out);
}

TEST(AttentionErrors, WorkingMemoryBeyond64Bits) {
  // Each thread's share fits 64 bits; that of four does not.
  const float one = 1;
  const auto* const data = reinterpret_cast<const std::byte*>(&one);
  const std::int64_t depth = std::int64_t{1} << 54;
  const std::int64_t q[] = {4, 1, depth}, k[] = {1, 1, depth}, v[] = {1, 1, 1}, strides[] = {0, 0, 0};
  Array<float> out({4, 1, 1});
  const auto before = out.bytes();
  EXPECT_THROW(attention({data, DType::float32, q, strides}, {data, DType::float32, k, strides},
                         {data, DType::float32, v, strides}, out.view(), std::nullopt,
                         {.num_threads = 4, .config = {.block_q = 1}}),
               std::bad_alloc);
  EXPECT_EQ(out.bytes(), before);
}

}  // namespace
}  // namespace transfuse::test
