#include "core/overlap.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/arithmetic.hpp"

namespace transfuse {
namespace {

constexpr int kMaxTerms = 2 * kMaxRank;
constexpr int kMaxSteps = 100'000;  // about a millisecond

/// One term c·x of a sum, with 0 <= x <= limit and c > 0.
struct Term {
  std::int64_t coefficient;
  std::int64_t limit;
};

/// Is there an x with lowest <= sum c_i·x_i <= highest? (The bounded subset-sum problem that overlap reduces to.)
/// Depth-first search over the terms, largest coefficient first: what the smaller terms can still add bounds each x,
/// so the nested strides of ordinary views leave only a few values a level; divisibility prunes the rest.
class Solver {
 public:
  void add(std::int64_t coefficient, std::int64_t limit) {
    if (coefficient == 0 || limit == 0) return;
    terms_[count_++] = {coefficient, limit};
  }

  /// With `excluded`, the solution x_i = limit_i / 2 for all i does not count.
  Overlap solve(std::int64_t lowest, std::int64_t highest, bool excluded = false) {
    std::sort(terms_.begin(), terms_.begin() + count_,
              [](const Term& a, const Term& b) { return a.coefficient > b.coefficient; });
    if (merge_equal_coefficients() && excluded) return Overlap::yes;  // one x up, the other down: the sum stays
    reach_[count_] = 0;
    divisor_[count_] = 0;
    for (int i = count_ - 1; i >= 0; --i) {
      const auto reach = checked_multiply(terms_[i].coefficient, terms_[i].limit);
      const auto total = reach ? checked_add(*reach, reach_[i + 1]) : std::nullopt;
      if (!total) return Overlap::undecided;
      reach_[i] = *total;
      divisor_[i] = std::gcd(terms_[i].coefficient, divisor_[i + 1]);
    }
    excluded_ = excluded;
    steps_ = 0;
    return search(0, lowest, highest, true);
  }

 private:
  /// Terms are sorted. Tells whether there was anything to merge.
  bool merge_equal_coefficients() {
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
      if (kept > 0 && terms_[kept - 1].coefficient == terms_[i].coefficient) {
        terms_[kept - 1].limit += terms_[i].limit;
      } else {
        terms_[kept++] = terms_[i];
      }
    }
    const bool merged = kept < count_;
    count_ = kept;
    return merged;
  }

  Overlap search(int level, std::int64_t lowest, std::int64_t highest, bool centred) {
    if (++steps_ > kMaxSteps) return Overlap::undecided;
    if (highest < 0 || lowest > reach_[level]) return Overlap::no;
    if (level == count_) return excluded_ && centred ? Overlap::no : Overlap::yes;
    if (highest / divisor_[level] * divisor_[level] < lowest) return Overlap::no;  // no multiple of the divisor between
    const auto [coefficient, limit] = terms_[level];
    const std::int64_t missing = lowest - reach_[level + 1];
    const std::int64_t first = missing <= 0 ? 0 : ceil_divide(missing, coefficient);
    const std::int64_t last = std::min(limit, highest / coefficient);
    for (std::int64_t x = first; x <= last; ++x) {
      const std::int64_t part = coefficient * x;
      const Overlap found = search(level + 1, lowest - part, highest - part, centred && 2 * x == limit);
      if (found != Overlap::no) return found;
    }
    return Overlap::no;
  }

  std::array<Term, kMaxTerms> terms_;
  std::array<std::int64_t, kMaxTerms + 1> reach_;    // the most that the terms from here on can add
  std::array<std::int64_t, kMaxTerms + 1> divisor_;  // the greatest common divisor of their coefficients
  int count_ = 0;
  int steps_ = 0;
  bool excluded_ = false;
};

/// The bytes that a view touches: [first, end). Addresses are taken as numbers.
struct Extent {
  std::int64_t first, end;
};

std::int64_t address(const std::byte* p) { return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p)); }

Extent extent(const ConstTensorView& view) {
  Extent e{address(view.data), address(view.data) + item_size(view.dtype)};
  for (std::size_t i = 0; i < view.shape.size(); ++i) {
    const std::int64_t span = (view.shape[i] - 1) * view.strides[i];
    (span < 0 ? e.first : e.end) += span;
  }
  return e;
}

bool is_empty(const ConstTensorView& view) {
  return std::any_of(view.shape.begin(), view.shape.end(), [](std::int64_t n) { return n == 0; });
}

bool is_contiguous(const ConstTensorView& view) {
  std::int64_t expected = item_size(view.dtype);
  for (std::size_t i = view.shape.size(); i-- > 0;) {
    if (view.shape[i] == 1) continue;
    if (view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

std::int64_t magnitude(std::int64_t stride) { return stride < 0 ? -stride : stride; }

}  // namespace

// An element of a starts at a.first + sum of s·i, one of b at b.first + sum of t·j (strides made positive by counting
// from the lowest address). They overlap where the difference is less than an element. With j' = limit - j every term
// is positive: sum s·i + sum t·j' = difference + (b.first - a.first) + (the span of b).
Overlap shares_memory(const ConstTensorView& a, const ConstTensorView& b) {
  if (is_empty(a) || is_empty(b)) return Overlap::no;
  const Extent ea = extent(a);
  const Extent eb = extent(b);
  if (ea.end <= eb.first || eb.end <= ea.first) return Overlap::no;
  const std::int64_t size_a = item_size(a.dtype);
  const std::int64_t size_b = item_size(b.dtype);
  Solver solver;
  for (std::size_t i = 0; i < a.shape.size(); ++i) solver.add(magnitude(a.strides[i]), a.shape[i] - 1);
  for (std::size_t i = 0; i < b.shape.size(); ++i) solver.add(magnitude(b.strides[i]), b.shape[i] - 1);
  const std::int64_t target = (eb.end - size_b) - ea.first;
  return solver.solve(target - (size_a - 1), target + (size_b - 1));
}

// Two elements differ by sum s·d with -limit <= d <= limit, not all d zero; d = x - limit makes the terms positive.
Overlap overlaps_itself(const ConstTensorView& view) {
  if (is_empty(view) || is_contiguous(view)) return Overlap::no;
  const std::int64_t size = item_size(view.dtype);
  Solver solver;
  std::int64_t centre = 0;
  for (std::size_t i = 0; i < view.shape.size(); ++i) {
    const std::int64_t limit = view.shape[i] - 1;
    const std::int64_t stride = magnitude(view.strides[i]);
    if (limit == 0) continue;
    if (stride == 0) return Overlap::yes;
    solver.add(stride, 2 * limit);
    centre += stride * limit;
  }
  return solver.solve(centre - (size - 1), centre + (size - 1), /*excluded=*/true);
}

}  // namespace transfuse
