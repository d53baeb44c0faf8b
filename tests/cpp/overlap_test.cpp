// Whether views share memory, against counting every byte.
#include "core/overlap.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <sstream>
#include <vector>

#include "array.hpp"
#include "core/text.hpp"
#include "sample.hpp"

namespace transfuse::test {
namespace {

/// A view of memory that is never touched: any address will do.
struct View {
  std::int64_t address;
  DType dtype = DType::float32;
  Dims shape;
  Dims strides;

  ConstTensorView get() const {
    return {reinterpret_cast<const std::byte*>(static_cast<std::uintptr_t>(address)), dtype, shape, strides};
  }
  std::string text() const {
    return std::string(name(dtype)) + " at " + std::to_string(address) + ", shape " + to_text(shape) + ", strides " +
           to_text(strides);
  }
};

/// How many elements cover each byte of a small stretch of memory.
class Coverage {
 public:
  static constexpr std::int64_t kBegin = 10'000;
  static constexpr std::int64_t kBytes = 2'000;

  explicit Coverage(const View& view) : counts_(static_cast<std::size_t>(kBytes)) {
    visit(view, 0, view.address - kBegin);
  }
  bool meets(const Coverage& other) const {
    for (std::size_t i = 0; i < counts_.size(); ++i)
      if (counts_[i] > 0 && other.counts_[i] > 0) return true;
    return false;
  }
  bool meets_itself() const {
    return std::any_of(counts_.begin(), counts_.end(), [](int count) { return count > 1; });
  }

 private:
  void visit(const View& view, std::size_t axis, std::int64_t offset) {
    if (axis == view.shape.size()) {
      for (std::int64_t i = 0; i < item_size(view.dtype); ++i) ++counts_.at(static_cast<std::size_t>(offset + i));
      return;
    }
    for (std::int64_t i = 0; i < view.shape[axis]; ++i) visit(view, axis + 1, offset + i * view.strides[axis]);
  }

  std::vector<int> counts_;
};

/// Views of up to 4 small dimensions whose strides are anything, multiples of the element size as often as not.
class RandomViews {
 public:
  View next() {
    View view{.address = Coverage::kBegin + Coverage::kBytes / 2 + pick(-64, 64),
              .dtype = pick(0, 1) == 0 ? DType::float32 : DType::float64,
              .shape = {},
              .strides = {}};
    const std::int64_t unit = pick(0, 1) == 0 ? 1 : 4;
    for (std::int64_t axes = pick(0, 4); axes > 0; --axes) {
      view.shape.push_back(pick(0, 19) == 0 ? 0 : pick(1, 4));
      view.strides.push_back(unit * pick(-48 / unit, 48 / unit));
    }
    return view;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator_);
  }
  std::mt19937 generator_{1};
};

TEST(Overlap, AgreesWithCountingBytes) {
  RandomViews views;
  Sample sample;
  int meetings = 0;
  for (int i = 0; i < 100'000; ++i) {
    const View a = views.next();
    const View b = views.next();
    if (!sample.take()) continue;
    const bool meet = Coverage(a).meets(Coverage(b));
    meetings += meet ? 1 : 0;
    ASSERT_EQ(shares_memory(a.get(), b.get()), meet ? Overlap::yes : Overlap::no) << a.text() << "\n" << b.text();
    ASSERT_EQ(shares_memory(b.get(), a.get()), meet ? Overlap::yes : Overlap::no) << b.text() << "\n" << a.text();
  }
  EXPECT_GT(meetings, 0);
}

TEST(Overlap, OfAViewWithItselfAgreesWithCountingBytes) {
  RandomViews views;
  Sample sample;
  for (int i = 0; i < 100'000; ++i) {
    const View view = views.next();
    if (!sample.take()) continue;
    const bool meets = Coverage(view).meets_itself();
    ASSERT_EQ(overlaps_itself(view.get()), meets ? Overlap::yes : Overlap::no) << view.text();
  }
}

TEST(Overlap, SlicesOfAPackedBufferAreDisjoint) {
  // (batch, length, 3, heads, head_dim) seen as three views (batch, heads, length, head_dim) of 1,048,576 elements.
  const std::int64_t size = 4;
  const Dims shape = {4, 8, 512, 64};
  const Dims strides = {512 * 3 * 512 * size, 64 * size, 3 * 512 * size, size};
  View views[3];
  for (int i = 0; i < 3; ++i) views[i] = {1'000'000 + i * 512 * size, DType::float32, shape, strides};
  for (const View& a : views) {
    EXPECT_EQ(overlaps_itself(a.get()), Overlap::no);
    for (const View& b : views) EXPECT_EQ(shares_memory(a.get(), b.get()), &a == &b ? Overlap::yes : Overlap::no);
  }
  // One element to the left, a view reads the last element of its neighbour's rows.
  views[1].address -= size;
  EXPECT_EQ(shares_memory(views[0].get(), views[1].get()), Overlap::yes);
}

TEST(Overlap, InterleavedElementsAreDisjoint) {
  const Dims shape = {1000, 1000};
  const Dims strides = {16'000, -16};
  const View even{100'000'000, DType::float64, shape, strides};
  const View odd{100'000'008, DType::float64, shape, strides};
  const View between{100'000'004, DType::float64, shape, strides};
  EXPECT_EQ(shares_memory(even.get(), odd.get()), Overlap::no);
  EXPECT_EQ(shares_memory(even.get(), between.get()), Overlap::yes);
}

TEST(Overlap, TrianglesOfOneSquareAreNotSeen) {
  // Views are boxes: the two halves of a square, split at a column, are disjoint although their ranges are not.
  const View left{10'000, DType::float32, {1000, 500}, {4000, 4}};
  const View right{12'000, DType::float32, {1000, 500}, {4000, 4}};
  EXPECT_EQ(shares_memory(left.get(), right.get()), Overlap::no);
}

TEST(Overlap, OfAViewWithItself) {
  const auto check = [](Dims shape, Dims strides) {
    return overlaps_itself(View{1 << 20, DType::float32, std::move(shape), std::move(strides)}.get());
  };
  EXPECT_EQ(check({}, {}), Overlap::no);
  EXPECT_EQ(check({1000, 1000}, {4000, 4}), Overlap::no);
  EXPECT_EQ(check({1000, 1000}, {4, -4000}), Overlap::no);
  EXPECT_EQ(check({3, 2}, {0, 4}), Overlap::yes) << "repeated rows";
  EXPECT_EQ(check({1, 2}, {0, 4}), Overlap::no) << "a single element has no stride";
  EXPECT_EQ(check({0, 2}, {0, 0}), Overlap::no) << "nothing there";
  EXPECT_EQ(check({5}, {3}), Overlap::yes) << "elements of 4 bytes, 3 apart";
  EXPECT_EQ(check({100, 10}, {4, 4}), Overlap::yes) << "sliding windows";
  EXPECT_EQ(check({100, 10}, {4, -4}), Overlap::yes) << "sliding windows, backwards";
  EXPECT_EQ(check({100, 10}, {8, 20}), Overlap::yes) << "5 · 8 = 2 · 20";
  EXPECT_EQ(check({2, 3}, {8, 12}), Overlap::no);
  EXPECT_EQ(check({4, 3}, {8, 12}), Overlap::yes) << "3 · 8 = 2 · 12";
}

// 40 strides without structure make a subset-sum problem: the answer may be a refusal to decide, but a quick one.
TEST(Overlap, HardProblemsAreGivenUpSoon) {
  std::mt19937_64 generator(1);
  View sums{std::int64_t{1} << 40, DType::float32, Dims(40, 2), {}};
  std::int64_t total = 0;
  for (int i = 0; i < 40; ++i) {
    sums.strides.push_back(static_cast<std::int64_t>(generator() >> 9));  // 55 bits
    total += sums.strides.back();
  }
  const View one{sums.address + total / 2, DType::float32, {}, {}};
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(shares_memory(sums.get(), one.get()), Overlap::undecided);
  EXPECT_EQ(overlaps_itself(sums.get()), Overlap::undecided);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST(Overlap, SpansBeyond64BitsAreNotDecided) {
  const View huge{std::int64_t{1} << 40, DType::float32, Dims(3, 2), Dims(3, INT64_MAX / 3 - (std::int64_t{1} << 40))};
  EXPECT_NE(shares_memory(huge.get(), View{(std::int64_t{1} << 40) + 2, DType::float32, {}, {}}.get()), Overlap::no);
}

}  // namespace
}  // namespace transfuse::test
