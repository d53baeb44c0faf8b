// Attention for some queries of the heads that share keys and values: blocks of keys, each met by every tile of queries
// in turn, with an online softmax, so that no row of scores is ever whole in memory (Milakov & Gimelshein,
// arXiv:1805.02867; Dao et al., arXiv:2205.14135).
#pragma once

#include "core/constants.hpp"
#include "kernels/matmul_t.hpp"
#include "kernels/pack.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/table.hpp"
#include "simd/math.hpp"
#include "simd/reduce.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <class V>
class Attention {
 public:
  static void attend(const AttentionPiece& piece) { Attention(piece).run(); }

 private:
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t width = V::width;
  static constexpr std::int64_t score_row = kScoreRow * size;  // bytes from one row of scores to the next

  using Product = MatmulT<V, score_row>;  // q · kᵀ, and probabilities · v: the left operand is a few long rows
  static constexpr std::int64_t tile_rows = Product::tile_rows;
  static constexpr std::int64_t tile_cols = Product::tile_cols;

  static constexpr T minus_infinity = -static_cast<T>(__builtin_huge_val());
  static constexpr double log2_e = 1.44269504088896340736;

  /// Keys first <= j < last.
  struct Range {
    std::int64_t first, last;
    std::int64_t size() const { return last > first ? last - first : 0; }
  };

  /// Consecutive queries of one head.
  struct Tile {
    std::int64_t head, row, rows;
  };

  /// Memory that will be wanted soon, row by row: a share of its lines is asked for before each step.
  struct Ahead {
    const std::byte* row = nullptr;
    std::int64_t stride = 0, bytes = 0, rows = 0;
    std::int64_t share = 0;
    std::int64_t at = 0;

    void spread(std::int64_t steps) { share = (rows * ((bytes + line - 1) / line) + steps - 1) / steps; }

    void ask() {
      for (std::int64_t i = 0; i < share && rows > 0; ++i) {
        prefetch_far(row + at);
        at += line;
        if (at < bytes) continue;
        at = 0;
        row += stride;
        --rows;
      }
    }
  };
  static constexpr std::int64_t line = 64;
  enum { next_q, next_k, next_v, bias, mask };  // of what follows; and of the tile at hand
  Ahead ahead[mask + 1];

  const AttentionPiece& p;
  const bool plain;    // scores are scale · q·k, or masked
  const double scale;  // of what is kept as scores: q·k itself where plain
  const T factor;      // scale · log2(e): probabilities are powers of two

  explicit Attention(const AttentionPiece& piece)
      : p(piece), plain(is_plain(p)), scale(plain ? p.scale : 1), factor(static_cast<T>(scale * log2_e)) {}

  static bool is_plain(const AttentionPiece& p) {
    const T factor = static_cast<T>(p.scale * log2_e);
    return factor > 0 && factor < -minus_infinity && p.softcap == 0 && p.bias.data == nullptr && p.slopes == nullptr;
  }

  static std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
  static std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  static Range both(Range a, Range b) { return {larger(a.first, b.first), lesser(a.last, b.last)}; }
  static T* elements(std::byte* bytes) { return reinterpret_cast<T*>(bytes); }

  /// The keys that some of `rows` queries from `row` on may see.
  Range seen(std::int64_t row, std::int64_t rows) const {
    const std::int64_t position = p.position + row;
    return {larger(0, position - p.left), lesser(p.keys, position + rows + p.right)};
  }

  // What is known of a query: its largest score so far; the sum of its probabilities relative to that, lane by lane;
  // and their sum with the values.
  std::int64_t index(std::int64_t head, std::int64_t row) const { return head * p.rows + row; }
  T& maximum(std::int64_t i) const { return elements(p.maxima)[i]; }
  T* total(std::int64_t i) const { return elements(p.totals) + i * width; }
  T* sums(std::int64_t i) const { return elements(p.sums + i * p.sum_row); }

  void reset(std::int64_t i) const {
    maximum(i) = minus_infinity;
    V::store(total(i), V::zero());
    for (std::int64_t d = 0; d < p.value_depth; d += width) V::store(sums(i) + d, V::zero());
  }

  void run() {
    for (std::int64_t i = 0; i < p.heads * p.rows; ++i) reset(i);
    const Range all = seen(0, p.rows);
    each_block(all, [&](Range keys) {
      pack_keys(keys);
      const Panels values =
          p.pack_v ? pack_values(keys) : Panels{p.v + keys.first * p.v_row, tile_cols * size, p.v_row};
      look_ahead(keys, all);
      each_tile([&](const Tile& t) { attend_tile(t, keys, both(keys, seen(t.row, t.rows)), values); });
    });
    for (std::int64_t head = 0; head < p.heads; ++head)
      for (std::int64_t row = 0; row < p.rows; ++row)
        if (!write(head, row) && hides_keys(row)) {
          attend_row(head, row);
          write(head, row);
        }
  }

  std::int64_t tiles_of_a_head() const { return (p.rows + tile_rows - 1) / tile_rows; }

  /// visit(tile) for tiles of at most tile_rows queries, all about as high.
  template <class Visit>
  void each_tile(Visit&& visit) const {
    const std::int64_t tiles = tiles_of_a_head();
    for (std::int64_t head = 0; head < p.heads; ++head)
      for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t row = p.rows * i / tiles;
        visit(Tile{head, row, p.rows * (i + 1) / tiles - row});
      }
  }

  /// What the products of one block of keys leave time to fetch: the next block of the keys and values in `all`, or the
  /// operands of the next piece.
  void look_ahead(Range keys, Range all) {
    const bool last = keys.last >= all.last;
    const std::int64_t rows = lesser(p.block_kv, last ? p.keys : all.last - keys.last);
    ahead[next_q] = of(last ? p.next_q : nullptr, p.q_row, p.q_col, p.rows, p.depth);
    ahead[next_k] = of(last ? p.next_k : p.k + keys.last * p.k_row, p.k_row, p.k_col, rows, p.depth);
    ahead[next_v] = of(last ? p.next_v : p.v + keys.last * p.v_row, p.v_row, p.v_col, rows, p.value_depth);
    const std::int64_t steps = p.heads * tiles_of_a_head() * (panels(keys.size()) + panels(p.value_depth));
    for (Ahead& one : ahead) one.spread(steps);
  }

  static Ahead of(const std::byte* first, std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols) {
    return first == nullptr || col != size ? Ahead{} : Ahead{first, row, cols * size, rows};
  }

  static std::int64_t panels(std::int64_t cols) { return (cols + tile_cols - 1) / tile_cols; }

  /// visit(keys) for the part of each block of keys that lies in `range`. Blocks begin at multiples of block_kv,
  /// wherever the range begins, and parts at whole tiles, so that a query's sums do not depend on which others it is
  /// seen with.
  template <class Visit>
  void each_block(Range range, Visit&& visit) const {
    if (range.size() == 0) return;
    for (std::int64_t block = range.first / p.block_kv * p.block_kv; block < range.last; block += p.block_kv) {
      const std::int64_t skipped = larger(0, range.first - block) / tile_cols * tile_cols;
      visit(Range{block + skipped, lesser(block + p.block_kv, range.last)});
    }
  }

  void pack_keys(Range keys) const {
    pack<V, Product::tile_cols>({.source = p.k + keys.first * p.k_row,
                                 .lane_stride = p.k_row,
                                 .depth_stride = p.k_col,
                                 .lanes = keys.size(),
                                 .depth = p.depth,
                                 .packed = p.packed_k});
  }

  Panels pack_values(Range keys) const {
    pack<V, Product::tile_cols>({.source = p.v + keys.first * p.v_row,
                                 .lane_stride = p.v_col,
                                 .depth_stride = p.v_row,
                                 .lanes = p.value_depth,
                                 .depth = keys.size(),
                                 .packed = p.packed_v});
    return {p.packed_v, tile_cols * keys.size() * size, tile_cols * size};
  }

  /// The queries of a tile meet the keys of `range`, some of the packed ones, `keys`, with their values.
  void attend_tile(const Tile& t, Range keys, Range range, const Panels& values) {
    if (range.size() == 0) return;
    const Range cols{keys.first + (range.first - keys.first) / tile_cols * tile_cols, range.last};
    ahead[bias] = of(p.bias, t, cols);
    ahead[mask] = of(p.mask, t, cols);
    multiply_keys(t, keys, cols);
    const std::int64_t first = index(t.head, t.row);
    const auto scores = [&](std::int64_t r) { return elements(p.scores + r * score_row); };
    T here[tile_rows];  // all of them before the first is needed
    for (std::int64_t r = 0; r < t.rows; ++r) {
      transform(t.head, t.row + r, cols, scores(r));
      here[r] = largest(cols.size(), scores(r));
    }
    for (std::int64_t r = 0; r < t.rows; ++r) raise(first + r, here[r]);
    for (std::int64_t r = 0; r < t.rows; ++r) weigh(first + r, cols.size(), scores(r));
    // In runs of keys that begin at the same ones for every tile, so that all sum in the same order.
    for (Range run = range; run.first < range.last; run.first = run.last) {
      run.last = lesser((run.first / kRunLength + 1) * kRunLength, range.last);
      multiply({.left = {p.scores + (run.first - cols.first) * size, 0, size},
                .right = {values.data + (run.first - keys.first) * values.depth_stride, values.panel_stride,
                          values.depth_stride},
                .rows = t.rows,
                .cols = p.value_depth,
                .depth = run.size(),
                .run_length = kRunLength,
                .out = p.sums + first * p.sum_row,
                .out_row = p.sum_row,
                .out_col = size,
                .accumulate = true});
    }
  }

  /// The tile's part of a mask or a bias, needed when its scores are there.
  static Ahead of(const AttentionPiece::Scores& scores, const Tile& t, Range cols) {
    constexpr std::int64_t widest = sizeof(double);
    if (scores.data == nullptr || scores.row == 0 || scores.col <= 0 || scores.col > widest) return {};
    const std::byte* const first = scores.data + t.head * scores.head + t.row * scores.row + cols.first * scores.col;
    Ahead all{first, scores.row, cols.size() * scores.col, t.rows};
    all.spread(panels(cols.size()));
    return all;
  }

  /// A product panel by panel.
  void multiply(MatmulTBlock block) {
    for (std::int64_t left = block.cols; left > 0; left -= tile_cols) {
      for (Ahead& one : ahead) one.ask();
      block.cols = lesser(left, tile_cols);
      Product::block(block);
      block.right.data += block.right.panel_stride;
      block.out += tile_cols * size;
    }
  }

  /// scores = q · kᵀ, of the keys `cols` among the packed ones, `keys`: in one go, unless q is longer than a row.
  void multiply_keys(const Tile& t, Range keys, Range cols) {
    const std::byte* const packed = p.packed_k + (cols.first - keys.first) * p.depth * size;
    std::int64_t first = 0;
    do {
      const std::int64_t depth = lesser(p.depth - first, kMostKeys);
      copy_queries(t, first, depth);
      multiply({.left = {p.queries, 0, size},
                .right = {packed + first * tile_cols * size, tile_cols * p.depth * size, tile_cols * size},
                .rows = t.rows,
                .cols = cols.size(),
                .depth = depth,
                .run_length = kRunLength,
                .out = p.scores,
                .out_row = score_row,
                .out_col = size,
                .accumulate = first > 0});
      first += kMostKeys;
    } while (first < p.depth);
  }

  /// Elements first <= d < first + count of the queries of a tile, to where the product reads them.
  void copy_queries(const Tile& t, std::int64_t first, std::int64_t count) const {
    for (std::int64_t r = 0; r < t.rows; ++r) {
      const std::byte* const from = p.q + t.head * p.q_head + (t.row + r) * p.q_row + first * p.q_col;
      std::byte* const to = p.queries + r * score_row;
      std::int64_t d = 0;
      if (p.q_col == size)
        for (; d + width <= count; d += width) V::store(to + d * size, V::load(from + d * size));
      for (; d < count; ++d) store_element<T>(to + d * size, load_element<T>(from + d * p.q_col));
    }
  }

  // Scores: a row of `cols.size()` of them, in memory for whole vectors.

  static std::int64_t whole_vectors(std::int64_t count) { return (count + width - 1) / width * width; }

  /// From q·k to the scores of a query, in the order of the formula. Those of masked keys, and what fills up the last
  /// vector, become -inf.
  void transform(std::int64_t head, std::int64_t row, Range cols, T* s) const {
    if (!plain || p.mask.data != nullptr) change(head, row, cols, s);
    const Range mine = both(cols, seen(row, 1));
    const std::int64_t end = whole_vectors(cols.size());
    hide(s, mine.size() == 0 ? Range{end, end} : Range{mine.first - cols.first, mine.last - cols.first}, end);
  }

  void change(std::int64_t head, std::int64_t row, Range cols, T* s) const {
    const std::byte* const biases = bias_row(head, row, cols);
    const std::byte* const shown = mask_row(head, row, cols);
    const Reg lowest = V::fill(minus_infinity);
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
  const std::byte* bias_row(std::int64_t head, std::int64_t row, Range cols) const {
    const AttentionPiece::Scores& b = p.bias;
    if (b.data == nullptr) return nullptr;
    const std::byte* const from = b.data + head * b.head + row * b.row + cols.first * b.col;
    if (b.col == size && b.dtype == dtype_of<T>) return from;
    T* const copy = elements(p.staged_bias);
    for (std::int64_t j = 0; j < cols.size(); ++j)
      copy[j] = b.dtype == DType::float32 ? static_cast<T>(load_element<float>(from + j * b.col))
                                          : static_cast<T>(load_element<double>(from + j * b.col));
    return p.staged_bias;
  }

  /// Its mask, in memory for whole vectors.
  const std::byte* mask_row(std::int64_t head, std::int64_t row, Range cols) const {
    const AttentionPiece::Scores& m = p.mask;
    if (m.data == nullptr) return nullptr;
    const std::byte* const from = m.data + head * m.head + row * m.row + cols.first * m.col;
    if (m.col == 1 && cols.size() % width == 0) return from;
    for (std::int64_t j = 0; j < cols.size(); ++j) p.staged_mask[j] = from[j * m.col];
    return p.staged_mask;
  }

  /// Scores before and after those of `shown` become -inf.
  static void hide(T* s, Range shown, std::int64_t end) {
    const Reg lowest = V::fill(minus_infinity);
    for (std::int64_t j = 0; j < shown.first; j += width) {
      const Reg beyond = V::sub(V::iota(), V::fill(static_cast<T>(shown.first - j)));  // negative: hidden
      V::store(s + j, V::select_negative(beyond, lowest, V::load(s + j)));
    }
    for (std::int64_t j = shown.last / width * width; j < end; j += width) {
      const Reg left = V::sub(V::fill(static_cast<T>(shown.last - 1 - j)), V::iota());
      V::store(s + j, V::select_negative(left, lowest, V::load(s + j)));
    }
  }

  /// NaN is passed over.
  static T largest(std::int64_t count, const T* s) {
    Reg even = V::fill(minus_infinity);  // two chains, because a maximum takes longer than a load
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
    if (maximum(i) != minus_infinity) {
      const Reg shrink = exp2_below<V>(V::fill(-growth));
      V::store(total(i), V::mul(V::load(total(i)), shrink));
      for (std::int64_t d = 0; d < p.value_depth; d += width)
        V::store(sums(i) + d, V::mul(V::load(sums(i) + d), shrink));
    }
    maximum(i) = here;
  }

  /// Turns `count` scores of query i into probabilities relative to its maximum.
  void weigh(std::int64_t i, std::int64_t count, T* s) const {
    const T top = maximum(i) == minus_infinity ? 0 : maximum(i);
    const Reg slope = V::fill(factor);
    if (top * factor < kNear && top * factor > -kNear) {
      const Reg shift = V::fill(-top * factor);
      exponentiate(i, count, s, [&](Reg x) __attribute__((always_inline)) { return V::fma(x, slope, shift); });
    } else {
      const Reg shift = V::fill(top);
      exponentiate(i, count, s, [&](Reg x) __attribute__((always_inline)) { return V::mul(V::sub(x, shift), slope); });
    }
  }

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

  // Results.

  /// Whether some key that this query does not see may have been among those that its tile met.
  bool hides_keys(std::int64_t row) const {
    return p.mask.data != nullptr || p.bias.data != nullptr || seen(row, 1).size() != seen(0, p.rows).size();
  }

  /// Writes the result of a query. Returns false if something that the query does not see may have spoilt it.
  bool write(std::int64_t head, std::int64_t row) const {
    const std::int64_t i = index(head, row);
    double sum = static_cast<double>(reduce_add<V>(V::load(total(i))));
    double shift = static_cast<double>(maximum(i)) * scale;  // sum counts in units of e^shift
    double weight = 1;
    if (p.sinks != nullptr && p.sinks[head] != -__builtin_huge_val()) {
      const double sink = p.sinks[head];
      const double top = sink > shift ? sink : shift;
      weight = __builtin_exp(shift - top);
      sum = sum * weight + __builtin_exp(sink - top);
      shift = top;
    }
    const bool empty = sum == 0;
    if (p.lse != nullptr) {
      const T lse = static_cast<T>(shift + __builtin_log(sum));
      store_element<T>(p.lse + head * p.lse_head + row * p.lse_row, empty ? minus_infinity : lse);
    }
    const Reg share = V::fill(empty ? 0 : static_cast<T>(weight / sum));
    std::byte* const out = p.out + head * p.out_head + row * p.out_row;
    Reg probe = V::zero();
    for (std::int64_t d = 0; d < p.value_depth; d += width) {
      const int count = smaller(p.value_depth - d, V::width);
      const Reg value = V::mul(V::load_partial(sums(i) + d, count), share);
      probe = V::fma(value, V::zero(), probe);  // NaN from the first value on that is not finite
      if (p.out_col == size) {
        V::store_partial(out + d * size, value, count);
      } else {
        alignas(64) T lanes[V::width];
        V::store(lanes, value);
        for (int c = 0; c < count; ++c) store_element<T>(out + (d + c) * p.out_col, lanes[c]);
      }
    }
    const T finite = reduce_add<V>(probe);
    return finite == finite || sum != sum;  // NaN in the sum is that of a key that the query sees
  }

  /// A query again, with zeros for the keys and values that it does not see: where those are NaN or infinite, a
  /// probability of 0 does not take them out of a sum.
  void attend_row(std::int64_t head, std::int64_t row) {
    for (Ahead& one : ahead) one = {};
    reset(index(head, row));
    const Tile tile{head, row, 1};
    const Range all = seen(row, 1);
    each_block(all, [&](Range keys) {
      pack_keys(keys);
      const Panels values = pack_values(keys);
      T* const s = elements(p.scores);  // as if all were 0: what is hidden becomes -inf
      for (std::int64_t j = 0; j < whole_vectors(keys.size()); j += width) V::store(s + j, V::zero());
      transform(head, row, keys, s);
      for (std::int64_t j = 0; j < keys.size(); ++j) {
        if (s[j] != minus_infinity) continue;
        T* const k = elements(p.packed_k) + j / tile_cols * tile_cols * p.depth + j % tile_cols;
        for (std::int64_t d = 0; d < p.depth; ++d) k[d * tile_cols] = 0;
        T* const v = elements(p.packed_v) + j * tile_cols;
        for (std::int64_t d = 0; d < p.value_depth; ++d) v[d / tile_cols * tile_cols * keys.size() + d % tile_cols] = 0;
      }
      attend_tile(tile, keys, both(keys, all), values);
    });
  }
};

}  // namespace
}  // namespace transfuse
