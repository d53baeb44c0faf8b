// matmul_t over all small sizes and those around the edges of the tiles.
#include <gtest/gtest.h>

#include <set>

#include "core/constants.hpp"
#include "product.hpp"
#include "sample.hpp"

namespace transfuse::test {
namespace {

/// The sums of every prefix of the inner product of two fixed matrices, so that a product of any of their corners can
/// be checked without being computed anew.
template <class T>
class Corners {
 public:
  static constexpr std::int64_t kLargest = 70;

  Corners() {
    for (std::int64_t col = 0; col < kLargest; ++col) {
      for (std::int64_t row = 0; row < kLargest; ++row) {
        Sums<T> sums;
        sums_.push_back(sums);
        for (std::int64_t k = 0; k < kLargest; ++k) {
          sums.add(a_[index(row, k)], b_[index(k, col)]);
          sums_.push_back(sums);
        }
      }
    }
  }

  /// The product of the corners (m, k) of A and (k, n) of B.
  testing::AssertionResult check(std::int64_t m, std::int64_t n, std::int64_t k, const Layout& layout_a,
                                 const Layout& layout_b, const Layout& layout_out) const {
    Array<T> a({m, k}, layout_a);
    Array<T> b({k, n}, layout_b);
    a.fill([&](std::int64_t i) { return a_[index(i / k, i % k)]; });
    b.fill([&](std::int64_t i) { return b_[index(i / n, i % n)]; });
    Expected<T> expected;
    Allowance<T> allowance;
    expected.values.reserve(static_cast<std::size_t>(m * n));
    for (std::int64_t col = 0; col < n; ++col) {
      for (std::int64_t row = 0; row < m; ++row) {
        const Sums<T>& sums = sums_[static_cast<std::size_t>((col * kLargest + row) * (kLargest + 1) + k)];
        allowance.see(sums);
        expected.values.push_back(sums.exact);
      }
    }
    expected.allowance = allowance.value();
    const testing::AssertionResult result = is_near(multiply(a, b, {}, layout_out), expected);
    if (result) return result;
    return testing::AssertionFailure() << "M " << m << ", N " << n << ", K " << k << ", a in " << layout_a.name
                                       << ", b in " << layout_b.name << ", out in " << layout_out.name << ": "
                                       << result.message();
  }

 private:
  static std::size_t index(std::int64_t row, std::int64_t col) {
    return static_cast<std::size_t>(row * kLargest + col);
  }

  std::vector<T> a_ = random_array<T>({kLargest, kLargest}, 1).values();
  std::vector<T> b_ = random_array<T>({kLargest, kLargest}, 2).values();
  std::vector<Sums<T>> sums_;
};

template <class T>
class MatmulTSizes : public testing::Test {};
TYPED_TEST_SUITE(MatmulTSizes, ElementTypes);

// Every pair of sizes with four values of the third; the layouts take turns.
TYPED_TEST(MatmulTSizes, AllSmallOnes) {
  const Corners<TypeParam> corners;
  const Layout orders[] = {{}, kFortranOrder};
  const Layout outs[] = {{}, kFortranOrder, kScattered};
  Sample sample;
  std::int64_t turn = 0;
  for (std::int64_t third : {1, 5, 17, 33}) {
    for (std::int64_t i = 0; i <= Corners<TypeParam>::kLargest; ++i) {
      for (std::int64_t j = 0; j <= Corners<TypeParam>::kLargest; ++j) {
        const std::int64_t sizes[3] = {i, j, third};
        for (int first = 0; first < 3; ++first) {
          if (!sample.take()) continue;
          ASSERT_TRUE(corners.check(sizes[first], sizes[(first + 1) % 3], sizes[(first + 2) % 3], orders[turn % 2],
                                    orders[turn / 2 % 2], outs[turn / 4 % 3]));
          ++turn;
        }
      }
    }
  }
}

TYPED_TEST(MatmulTSizes, AroundTheEdgesOfTilesAndBlocks) {
  const Isa isa = current_isa();
  const MatmulTConstants& constants = matmul_t_constants(isa, dtype_of<TypeParam>);
  const int tile_cols = constants.tile_vectors * vector_width(isa, dtype_of<TypeParam>);
  const auto around = [](std::initializer_list<std::int64_t> edges) {
    std::set<std::int64_t> sizes;
    for (std::int64_t edge : edges)
      for (std::int64_t size : {edge - 1, edge, edge + 1}) sizes.insert(std::max<std::int64_t>(size, 1));
    return sizes;
  };
  Sample sample;
  std::int64_t turn = 0;
  for (std::int64_t m : around({2 * tile_cols, constants.pack_left_beyond, constants.blocks.block_m})) {
    for (std::int64_t n : around({2 * constants.tile_rows, constants.pack_right_beyond, constants.blocks.block_n})) {
      for (std::int64_t k : around({constants.blocks.block_k})) {
        if (!sample.take()) continue;
        const auto a = random_array<TypeParam>({m, k}, 1, turn % 2 == 0 ? Layout{} : kFortranOrder);
        const auto b = random_array<TypeParam>({k, n}, 2, turn / 2 % 2 == 0 ? Layout{} : kFortranOrder);
        const auto out = multiply(a, b, {}, turn / 4 % 2 == 0 ? Layout{} : kFortranOrder);
        ASSERT_TRUE(is_near(out, expected_product(a, b))) << "M " << m << ", N " << n << ", K " << k;
        ++turn;
      }
    }
  }
}

TYPED_TEST(MatmulTSizes, Primes) {
  const Dims shapes[] = {{127, 131, 137}, {241, 13, 257}, {11, 251, 521}, {1, 509, 67}, {499, 1, 61}, {2, 3, 10'007}};
  for (const Dims& size : shapes) {
    const auto a = random_array<TypeParam>({size[0], size[2]}, 1);
    const auto b = random_array<TypeParam>({size[2], size[1]}, 2);
    EXPECT_TRUE(is_near(multiply(a, b), expected_product(a, b))) << size[0] << ", " << size[1] << ", " << size[2];
  }
}

}  // namespace
}  // namespace transfuse::test
