// KVCache, and attention of few queries to it: sizes around those of tiles, every dtype. The same bits as with arrays.
#include "transfuse/kv_cache.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include "array.hpp"
#include "sample.hpp"
#include "simd/element.hpp"
#include "transfuse/attention.hpp"
#include "transfuse/error.hpp"

namespace transfuse::test {
namespace {

template <class T>
Array<T> random_elements(Dims shape, unsigned seed) {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  Array<T> array(std::move(shape));
  array.fill([values = random_array<Wide>(array.shape(), seed).values()](std::int64_t i) {
    return narrow<T>(values[static_cast<std::size_t>(i)]);
  });
  return array;
}

template <class T>
class Cache : public testing::Test {};
using StoredTypes = testing::Types<float, double, Float16, BFloat16>;
TYPED_TEST_SUITE(Cache, StoredTypes);

TYPED_TEST(Cache, AttentionIsThatToTheArrays) {
  Sample sample;
  for (std::int64_t depth = 1; depth <= 40; ++depth)
    for (std::int64_t queries = 1; queries <= 9; ++queries) {
      if (!sample.take()) continue;
      SCOPED_TRACE(std::to_string(depth) + ", " + std::to_string(queries));
      const std::int64_t value_depth = 41 - depth;
      const auto k = random_elements<TypeParam>({2, 2, 23, depth}, 1);
      const auto v = random_elements<TypeParam>({2, 2, 23, value_depth}, 2);
      const auto q = random_elements<TypeParam>({2, 2, queries, depth}, 3);
      KVCache cache(2, 2, 23, depth, value_depth, dtype_of<TypeParam>);
      const std::int64_t lengths[] = {23, 6};
      cache.append(k.view(), v.view(), lengths);
      Array<TypeParam> found({2, 2, queries, value_depth}, {}, 64), expected({2, 2, queries, value_depth});
      const std::int64_t offsets[] = {23 - queries, 6 - queries};
      const AttentionConfig config{.key_chunk = 7};
      attention(q.view(), cache, found.view(), std::nullopt, {.causal = Causal::yes, .config = config});
      attention(q.view(), k.view(), v.view(), expected.view(), std::nullopt,
                {.causal = Causal::yes, .query_offset = offsets, .kv_lengths = lengths, .config = config});
      EXPECT_TRUE(found.gaps_are_untouched());
      const auto x = found.values();
      const auto y = expected.values();
      ASSERT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(TypeParam)), 0);
    }
}

TEST(CacheOfInt8, IsOffByHalfAScale) {
  const auto k = random_elements<float>({1, 2, 9, 33}, 1);
  const auto v = random_elements<float>({1, 2, 9, 7}, 2);
  KVCache cache(1, 2, 9, 33, 7, DType::int8);
  cache.append(k.view(), v.view());
  const CachedTokens tokens = cache.tokens();
  const auto exact = k.values();
  for (std::int64_t row = 0; row < 18; ++row)
    for (std::int64_t d = 0; d < 33; ++d) {
      const auto stored = load_element<std::int8_t>(tokens.k + row * 33 + d);
      const float scale = tokens.k_scales[row];
      ASSERT_NEAR(stored * scale, exact[static_cast<std::size_t>(row * 33 + d)], 0.5001 * scale) << row << ", " << d;
    }
  // A value of one key alone is its dequantised self.
  const auto q = random_elements<float>({1, 4, 1, 33}, 3);
  const std::int64_t one[] = {1};
  cache.truncate(one);
  Array<float> out({1, 4, 1, 7});
  attention(q.view(), cache, out.view(), std::nullopt);
  const auto values = v.values();
  for (std::size_t h = 0; h < 4; ++h)
    for (std::size_t d = 0; d < 7; ++d)
      ASSERT_NEAR(out.values()[h * 7 + d], values[h / 2 * 63 + d], 0.502 * tokens.v_scales[h / 2 * 9]) << h << d;
}

TEST(CacheErrors, LeaveItAsItIs) {
  const auto k = random_elements<float>({1, 2, 3, 8}, 1);
  const auto v = random_elements<float>({1, 2, 3, 5}, 2);
  KVCache cache(1, 2, 4, 8, 5, DType::float32);
  cache.append(k.view(), v.view());
  const auto refuse = [&](const char* argument, auto&& call) {
    try {
      call();
      ADD_FAILURE() << argument << ": no error";
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).rfind(std::string(argument) + ":", 0), 0U) << error.what();
    }
    EXPECT_EQ(cache.lengths()[0], 3);
    EXPECT_EQ(cache.capacity(), 4);
  };
  const std::int64_t four[] = {4}, two[] = {1, 1};
  refuse("k", [&] { cache.append(k.view(), v.view()); });
  refuse("k", [&] { cache.append(v.view(), v.view()); });
  refuse("v", [&] { cache.append(k.view(), k.view()); });
  refuse("lengths", [&] { cache.append(k.view(), v.view(), four); });
  refuse("lengths", [&] { cache.append(k.view(), v.view(), two); });
  refuse("lengths", [&] { cache.truncate(four); });
  refuse("lengths", [&] { cache.truncate(two); });
  refuse("capacity", [&] { cache.grow(3); });
  refuse("k", [&] { cache.append(random_elements<double>({1, 2, 1, 8}, 1).view(), v.view()); });
  EXPECT_THROW(cache.grow(std::int64_t{1} << 60), std::bad_alloc);
  EXPECT_THROW(KVCache(1, 2, 4, 8, 5, DType::boolean), std::invalid_argument);
}

TEST(CacheMemory, OutlivesGrowthAndTheCache) {
  const auto k = random_elements<float>({1, 1, 3, 8}, 1);
  auto cache = std::make_unique<KVCache>(1, 1, 3, 8, 8, DType::float32);
  cache->append(k.view(), k.view());
  const CachedTokens tokens = cache->tokens();
  cache->grow(50);
  cache->reset();
  cache.reset();
  EXPECT_EQ(std::memcmp(tokens.k, k.view().data, 3 * 8 * sizeof(float)), 0);
}

}  // namespace
}  // namespace transfuse::test
