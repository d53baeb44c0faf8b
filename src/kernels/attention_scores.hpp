// From q·k to scores: scale, softcap, biases and masks, in the order of the formula.
#pragma once

#include "kernels/pack.hpp"
#include "kernels/table.hpp"
#include "simd/math.hpp"
#include "simd/stored.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Keys first <= j < last.
struct KeyRange {
  std::int64_t first, last;
  std::int64_t size() const { return last > first ? last - first : 0; }
};

constexpr KeyRange both(KeyRange a, KeyRange b) { return {larger(a.first, b.first), lesser(a.last, b.last)}; }

/// The scores of a piece. A row of them is `cols.size()` long, in memory for whole vectors.
template <class V>
class AttentionScores {
 public:
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t width = V::width;
  static constexpr double log2_e = 1.44269504088896340736;

  const bool plain;    // scores are scale · q·k, or masked
  const double scale;  // of what is kept as scores: q·k itself where plain
  const T factor;      // scale · log2(e): probabilities are powers of two

  explicit AttentionScores(const AttentionPiece& piece)
      : plain(is_plain(piece)), scale(plain ? piece.scale : 1), factor(static_cast<T>(scale * log2_e)), p(piece) {}

  static std::int64_t whole_vectors(std::int64_t count) { return (count + width - 1) / width * width; }

  /// The keys that some of `rows` queries from `row` on may see.
  KeyRange seen(std::int64_t row, std::int64_t rows) const {
    const std::int64_t position = p.position + row;
    return {larger(p.first_key, position - p.left), lesser(p.keys, position + rows + p.right)};
  }

  /// From q·k to the scores of a query. Those of masked keys, and what fills up the last vector, become -inf.
  void transform(std::int64_t head, std::int64_t row, KeyRange cols, T* s) const {
    if (p.k_scales != nullptr) dequantise(p.k_scales + cols.first, cols.size(), s);
    if (!plain || p.mask.data != nullptr) change(head, row, cols, s);
    const KeyRange mine = both(cols, seen(row, 1));
    const std::int64_t end = whole_vectors(cols.size());
    hide(s, mine.size() == 0 ? KeyRange{end, end} : KeyRange{mine.first - cols.first, mine.last - cols.first}, end);
  }

  /// s[j] *= scales[j], which can be read for whole vectors.
  static void dequantise(const float* scales, std::int64_t count, T* s) {
    if constexpr (std::is_same_v<T, float>)
      for (std::int64_t j = 0; j < count; j += width) V::store(s + j, V::mul(V::load(s + j), V::load(scales + j)));
  }

 private:
  const AttentionPiece& p;

  static bool is_plain(const AttentionPiece& p) {
    const T factor = static_cast<T>(p.scale * log2_e);
    return factor > 0 && factor < -minus_infinity<T> && p.softcap == 0 && p.bias.data == nullptr && p.slopes == nullptr;
  }

  void change(std::int64_t head, std::int64_t row, KeyRange cols, T* s) const {
    const std::byte* const biases = bias_row(head, row, cols);
    const std::byte* const shown = mask_row(head, row, cols);
    const Reg lowest = V::fill(minus_infinity<T>);
    const Reg unit = V::fill(static_cast<T>(p.scale));
    const Reg cap = V::fill(static_cast<T>(p.softcap));
    const Reg slope = V::fill(static_cast<T>(p.slopes == nullptr ? 0 : -p.slopes[head]));
    const std::int64_t start = cols.first - (p.position + row);
    for (std::int64_t j = 0; j < cols.size(); j += width) {
      Reg x = V::load(s + j);
      if (!plain) x = V::mul(x, unit);
      if (p.softcap != 0) x = V::mul(cap, tanh<V>(V::div(x, cap)));
      Reg b = V::zero();
      if (biases != nullptr) {
        const int count = smaller(cols.size() - j, V::width);
        b = count == V::width ? V::load(biases + j * size) : V::load_partial(biases + j * size, count);
        x = V::add(x, b);
      }
      if (p.slopes != nullptr) {
        const Reg distance = V::add(V::fill(static_cast<T>(start + j)), V::iota());
        x = V::fma(slope, V::max(distance, V::sub(V::zero(), distance)), x);
      }
      // Masked whatever the score, NaN too.
      if (biases != nullptr) x = V::select_negative(V::equal(b, lowest), lowest, x);
      if (shown != nullptr) x = V::select_negative(V::zero_bytes(shown + j), lowest, x);
      V::store(s + j, x);
    }
  }

  /// The bias of a query's scores, side by side. Null: none.
  const std::byte* bias_row(std::int64_t head, std::int64_t row, KeyRange cols) const {
    const AttentionPiece::Scores& b = p.bias;
    if (b.data == nullptr) return nullptr;
    const std::byte* const from = b.data + head * b.head + row * b.row + cols.first * b.col;
    if (b.col == size && b.dtype == dtype_of<T>) return from;
    T* const copy = reinterpret_cast<T*>(p.staged_bias);
    visit_float(b.dtype, [&](auto type) {
      for (std::int64_t j = 0; j < cols.size(); ++j)
        copy[j] = static_cast<T>(widen(load_element<decltype(type)>(from + j * b.col)));
    });
    return p.staged_bias;
  }

  /// Its mask, in memory for whole vectors.
  const std::byte* mask_row(std::int64_t head, std::int64_t row, KeyRange cols) const {
    const AttentionPiece::Scores& m = p.mask;
    if (m.data == nullptr) return nullptr;
    const std::byte* const from = m.data + head * m.head + row * m.row + cols.first * m.col;
    if (m.col == 1 && cols.size() % width == 0) return from;
    for (std::int64_t j = 0; j < cols.size(); ++j) p.staged_mask[j] = from[j * m.col];
    return p.staged_mask;
  }

  /// Scores before and after those of `shown` become -inf.
  static void hide(T* s, KeyRange shown, std::int64_t end) {
    const Reg lowest = V::fill(minus_infinity<T>);
    for (std::int64_t j = 0; j < shown.first; j += width) {
      const Reg beyond = V::sub(V::iota(), V::fill(static_cast<T>(shown.first - j)));  // negative: hidden
      V::store(s + j, V::select_negative(beyond, lowest, V::load(s + j)));
    }
    for (std::int64_t j = shown.last / width * width; j < end; j += width) {
      const Reg left = V::sub(V::fill(static_cast<T>(shown.last - 1 - j)), V::iota());
      V::store(s + j, V::select_negative(left, lowest, V::load(s + j)));
    }
  }
};

}  // namespace
}  // namespace transfuse
