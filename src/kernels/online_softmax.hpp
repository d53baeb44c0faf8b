// What attention knows of its queries while they meet one block of keys after another: an online softmax (Milakov &
// Gimelshein, arXiv:1805.02867).
#pragma once

#include "kernels/table.hpp"
#include "simd/element.hpp"
#include "simd/math.hpp"
#include "simd/reduce.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// For each query i of a piece and each part of the keys: its largest score so far; the sum of its probabilities
/// relative to that, lane by lane; and their sum with the values.
template <class V>
class OnlineSoftmax {
 public:
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t width = V::width;

  std::int64_t part = 0;    // of the keys: the one at hand
  std::int64_t origin = 0;  // the query whose sums come first: where one is finished at a time, all use the same memory

  /// Scores times `to_exponent` are exponents of two.
  OnlineSoftmax(const AttentionPiece& piece, T to_exponent) : p(piece), factor(to_exponent) {}

  T& maximum(std::int64_t i) const { return maximum(i, part); }
  T* total(std::int64_t i) const { return total(i, part); }
  T* sums(std::int64_t i) const { return sums(i, part); }

  void reset(std::int64_t i) const {
    maximum(i) = minus_infinity<T>;
    V::store(total(i), V::zero());
  }

  void clear_sums(std::int64_t i) const {
    T* const all = sums(i);
    const std::int64_t depth = p.value_depth;
    for (std::int64_t d = 0; d < depth; d += width) V::store(all + d, V::zero());
  }

  /// The largest of a row of scores; NaN is passed over.
  static T largest(std::int64_t count, const T* s) {
    Reg even = V::fill(minus_infinity<T>);  // two chains, because a maximum takes longer than a load
    Reg odd = even;
    std::int64_t j = 0;
    for (; j + 2 * width <= count; j += 2 * width) {
      even = V::max(V::load(s + j), even);
      odd = V::max(V::load(s + j + width), odd);
    }
    for (; j < count; j += width) even = V::max(V::load(s + j), even);
    return reduce_max<V>(V::max(even, odd));
  }

  /// `here` is the largest of some more scores of query i. Probabilities are relative to the largest so far, or to one
  /// a little smaller: only when it grows by more than kSlack does what was summed shrink.
  void raise(std::int64_t i, T here) const {
    const T growth = (here - maximum(i)) * factor;
    if (!(growth > kSlack)) return;
    if (maximum(i) != minus_infinity<T>) {
      const Reg shrink = exp2_below<V>(V::fill(-growth));
      V::store(total(i), V::mul(V::load(total(i)), shrink));
      for (std::int64_t d = 0; d < p.value_depth; d += width)
        V::store(sums(i) + d, V::mul(V::load(sums(i) + d), shrink));
    }
    maximum(i) = here;
  }

  /// Turns `count` scores of query i into probabilities relative to its maximum.
  void weigh(std::int64_t i, std::int64_t count, T* s) const {
    const T top = maximum(i) == minus_infinity<T> ? 0 : maximum(i);
    const T exponent = top * factor;
    const Reg slope = V::fill(factor);
    if (exponent < kNear && exponent > -kNear) {
      const Reg shift = V::fill(-exponent);
      exponentiate(i, count, s, [&](Reg x) __attribute__((always_inline)) { return V::fma(x, slope, shift); });
    } else {
      const Reg shift = V::fill(top);
      exponentiate(i, count, s, [&](Reg x) __attribute__((always_inline)) { return V::mul(V::sub(x, shift), slope); });
    }
  }

  /// Adds what the parts after the first know of query i to what that knows.
  void merge(std::int64_t i) const {
    if (p.parts == 1) return;
    T top = minus_infinity<T>;
    for (std::int64_t one = 0; one < p.parts; ++one) top = maximum(i, one) > top ? maximum(i, one) : top;
    for (std::int64_t one = 0; one < p.parts; ++one) {
      const T growth = maximum(i, one) == top ? 0 : (top - maximum(i, one)) * factor;
      const Reg share = exp2_below<V>(V::fill(-growth));
      const auto add = [&](T* sum, const T* more) {
        const Reg start = one == 0 ? V::zero() : V::load(sum);
        V::store(sum, V::add(start, V::mul(V::load(more), share)));
      };
      add(total(i), total(i, one));
      for (std::int64_t d = 0; d < p.value_depth; d += width) add(sums(i) + d, sums(i, one) + d);
    }
    maximum(i) = top;
  }

 private:
  const AttentionPiece& p;
  const T factor;

  // Probabilities stay below 2^kSlack.
  static constexpr T kSlack = 4;

  // Up to here the rounding of the largest exponent is far below 1; beyond, scores are subtracted first.
  static constexpr T kNear = 65536;

  /// s = 2^exponent(s), and adds that to the query's total.
  template <class Exponent>
  void exponentiate(std::int64_t i, std::int64_t count, T* s, Exponent&& exponent) const {
    Reg sum = V::zero();  // of this block only: few terms meet a sum much larger than they are
    for (std::int64_t j = 0; j < count; j += width) {
      const Reg probability = exp2_below<V>(exponent(V::load(s + j)));
      V::store(s + j, probability);
      sum = V::add(sum, probability);
    }
    V::store(total(i), V::add(V::load(total(i)), sum));
  }

  static T* elements(std::byte* bytes) { return reinterpret_cast<T*>(bytes); }
  T& maximum(std::int64_t i, std::int64_t of_part) const { return elements(p.maxima + of_part * p.state_bytes)[i]; }
  T* total(std::int64_t i, std::int64_t of_part) const {
    return elements(p.totals + of_part * p.state_bytes) + (i - origin) * width;
  }
  T* sums(std::int64_t i, std::int64_t of_part) const {
    return elements(p.sums + of_part * p.state_bytes + (i - origin) * p.sum_row);
  }
};

}  // namespace
}  // namespace transfuse
