// Attention for some queries of the heads that share keys and values: blocks of keys, each met by every tile of queries
// in turn, with an online softmax, so that no row of scores is ever whole in memory (Milakov & Gimelshein,
// arXiv:1805.02867; Dao et al., arXiv:2205.14135).
#pragma once

#include "core/constants.hpp"
#include "kernels/attention_scores.hpp"
#include "kernels/in_place.hpp"
#include "kernels/matmul_t.hpp"
#include "kernels/pack.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/table.hpp"
#include "simd/math.hpp"
#include "simd/reduce.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Keys and values of type S, computed with as vectors V.
template <class V, class S>
class Attention {
 public:
  /// The piece's part of the keys; where that is all of them, the results too.
  static void attend(const AttentionPiece& piece) {
    Attention attention(piece);
    attention.run();
    if (piece.parts == 1) attention.finish();
  }

  /// The results, from what attend() found of each part of the keys.
  static void finish(const AttentionPiece& piece) { Attention(piece).finish(); }

 private:
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t stored_size = sizeof(S);
  static constexpr std::int64_t width = V::width;
  static constexpr std::int64_t score_row = kScoreRow * size;  // bytes from one row of scores to the next

  using Scores = AttentionScores<V>;
  static constexpr T minus_infinity = Scores::minus_infinity;

  using Product = MatmulT<V, score_row>;  // q · kᵀ, and probabilities · v: the left operand is a few long rows
  static constexpr std::int64_t tile_rows = Product::tile_rows;
  static constexpr std::int64_t tile_cols = Product::tile_cols;

  /// Consecutive queries of one head, or all of some heads where they are few: those from index `first` on, counted
  /// through all heads.
  struct Tile {
    std::int64_t first, rows;
  };

  enum { next_q, next_k, next_v, bias, mask };  // of what follows; and of the tile at hand
  Ahead ahead[mask + 1];

  const AttentionPiece& p;
  const Scores scores;

  explicit Attention(const AttentionPiece& piece) : p(piece), scores(piece) {}

  static T* elements(std::byte* bytes) { return reinterpret_cast<T*>(bytes); }
  std::int64_t queries() const { return p.heads * p.rows; }
  std::int64_t head_of(std::int64_t i) const { return i / p.rows; }
  std::int64_t row_of(std::int64_t i) const { return i % p.rows; }

  // What is known of a query, for each part of the keys: its largest score so far; the sum of its probabilities
  // relative to that, lane by lane; and their sum with the values.
  T& maximum(std::int64_t i, std::int64_t of_part) const { return elements(p.maxima + of_part * p.state_bytes)[i]; }
  T* total(std::int64_t i, std::int64_t of_part) const {
    return elements(p.totals + of_part * p.state_bytes) + i * width;
  }
  T* sums(std::int64_t i, std::int64_t of_part) const {
    return elements(p.sums + of_part * p.state_bytes + i * p.sum_row);
  }
  std::int64_t part = 0;  // the one at hand
  T& maximum(std::int64_t i) const { return maximum(i, part); }
  T* total(std::int64_t i) const { return total(i, part); }
  T* sums(std::int64_t i) const { return sums(i, part); }

  void reset(std::int64_t i) const {
    maximum(i) = minus_infinity;
    V::store(total(i), V::zero());
    for (std::int64_t d = 0; d < p.value_depth; d += width) V::store(sums(i) + d, V::zero());
  }

  void run() {
    for (std::int64_t i = 0; i < queries(); ++i) reset(i);
    const KeyRange all = scores.seen(0, p.rows);
    each_block(all, [&](KeyRange keys) {
      if (p.in_place) {
        const StoredRows k{p.k + keys.first * p.k_row, p.k_row};
        const StoredRows v{p.v + keys.first * p.v_row, p.v_row};
        each_tile([&](const Tile& t) { attend_in_place<S>(t, keys, both(keys, seen(t)), k, v); });
      } else {
        look_ahead(keys, all);
        pack_keys(keys);
        const Panels values =
            p.pack_v ? pack_values(keys) : Panels{p.v + keys.first * p.v_row, tile_cols * size, p.v_row};
        each_tile([&](const Tile& t) { attend_packed(t, keys, both(keys, seen(t)), values); });
      }
    });
  }

  void finish() {
    for (std::int64_t i = 0; i < queries(); ++i) {
      merge(i);
      if (write(i) || !hides_keys(row_of(i))) continue;
      attend_again(i);
      write(i);
    }
  }

  KeyRange seen(const Tile& t) const {
    return t.rows > p.rows ? scores.seen(0, p.rows) : scores.seen(row_of(t.first), t.rows);
  }

  static std::int64_t parts_of(std::int64_t count, std::int64_t each) { return (count + each - 1) / each; }
  /// Groups of heads that share a tile, because they have few queries; and tiles of such a group.
  std::int64_t groups() const { return parts_of(p.heads, larger(1, tile_rows / p.rows)); }
  std::int64_t tiles_of_a_group() const { return parts_of(p.rows, tile_rows); }

  /// visit(tile) for tiles of at most tile_rows queries, all about as high.
  template <class Visit>
  void each_tile(Visit&& visit) const {
    for (std::int64_t group = 0; group < groups(); ++group)
      for (std::int64_t i = 0; i < tiles_of_a_group(); ++i) {
        // Some queries of one head, or all of some heads.
        const std::int64_t head = p.heads * group / groups();
        const std::int64_t next_head = p.heads * (group + 1) / groups();
        const std::int64_t first = head * p.rows + p.rows * i / tiles_of_a_group();
        const std::int64_t last = (next_head - 1) * p.rows + p.rows * (i + 1) / tiles_of_a_group();
        visit(Tile{first, last - first});
      }
  }

  /// What the products of one block of keys leave time to fetch: the next block of the keys and values in `all`, or the
  /// operands of the next piece.
  void look_ahead(KeyRange keys, KeyRange all) {
    const bool last = keys.last >= all.last;
    const std::int64_t rows = lesser(p.block_kv, last ? p.next_keys : all.last - keys.last);
    visit_query_type([&](auto type) {
      ahead[next_q] = of(last ? p.next_q : nullptr, p.q_row, p.q_col, sizeof type, p.rows, p.depth);
    });
    ahead[next_k] = of(last ? p.next_k : p.k + keys.last * p.k_row, p.k_row, p.k_col, stored_size, rows, p.depth);
    ahead[next_v] = of(last ? p.next_v : p.v + keys.last * p.v_row, p.v_row, p.v_col, stored_size, rows, p.value_depth);
    const std::int64_t steps = panels(keys.size()) + panels(p.value_depth);
    for (Ahead& one : ahead) one.spread(groups() * tiles_of_a_group() * steps);
  }

  static Ahead of(const std::byte* first, std::int64_t row, std::int64_t col, std::int64_t item, std::int64_t rows,
                  std::int64_t cols) {
    return first == nullptr || col != item || rows == 0 ? Ahead{} : Ahead{first, row, cols * item, rows};
  }

  void ask() {
    for (Ahead& one : ahead) one.ask();
  }

  static std::int64_t panels(std::int64_t cols) { return parts_of(cols, tile_cols); }

  /// visit(keys) for the part of each block of keys that lies in `range`. Blocks begin at multiples of block_kv,
  /// wherever the range begins, and parts at whole tiles, so that a query's sums do not depend on which others it is
  /// seen with.
  template <class Visit>
  void each_block(KeyRange range, Visit&& visit) const {
    if (range.size() == 0) return;
    for (std::int64_t block = range.first / p.block_kv * p.block_kv; block < range.last; block += p.block_kv) {
      const std::int64_t skipped = larger(0, range.first - block) / tile_cols * tile_cols;
      visit(KeyRange{block + skipped, lesser(block + p.block_kv, range.last)});
    }
  }

  void pack_keys(KeyRange keys) const {
    pack<V, Product::tile_cols, S>({.source = p.k + keys.first * p.k_row,
                                    .lane_stride = p.k_row,
                                    .depth_stride = p.k_col,
                                    .lanes = keys.size(),
                                    .depth = p.depth,
                                    .packed = p.packed_k});
  }

  Panels pack_values(KeyRange keys) const {
    pack<V, Product::tile_cols, S>({.source = p.v + keys.first * p.v_row,
                                    .lane_stride = p.v_col,
                                    .depth_stride = p.v_row,
                                    .lanes = p.value_depth,
                                    .depth = keys.size(),
                                    .packed = p.packed_v});
    return {p.packed_v, tile_cols * keys.size() * size, tile_cols * size};
  }

  /// The queries of a tile meet the keys of `range`, some of the packed ones, `keys`, with their values.
  void attend_packed(const Tile& t, KeyRange keys, KeyRange range, const Panels& values) {
    attend_tile(
        t, keys, range, [&](KeyRange cols) { multiply_keys(t, keys, cols); },
        [&](KeyRange run, const T* weights) {
          multiply({.left = {reinterpret_cast<const std::byte*>(weights), 0, size},
                    .right = {values.data + (run.first - keys.first) * values.depth_stride, values.panel_stride,
                              values.depth_stride},
                    .rows = t.rows,
                    .cols = p.value_depth,
                    .depth = run.size(),
                    .run_length = kRunLength,
                    .out = reinterpret_cast<std::byte*>(sums(t.first)),
                    .out_row = p.sum_row,
                    .out_col = size,
                    .accumulate = true});
        });
  }

  /// The same where `k` and `v` hold those of `keys`, as they are or copied.
  template <class Element>
  void attend_in_place(const Tile& t, KeyRange keys, KeyRange range, const StoredRows& k, const StoredRows& v) {
    using Products = InPlace<V, Element>;
    const auto from = [&](const StoredRows& rows, std::int64_t key) {
      return StoredRows{rows.data + (key - keys.first) * rows.row, rows.row};
    };
    attend_tile(
        t, keys, range,
        [&](KeyRange cols) {
          copy_queries(t, 0, p.depth);
          Products::score(elements(p.queries), t.rows, p.depth, from(k, cols.first), cols.size(), elements(p.scores));
        },
        [&](KeyRange run, const T* weights) {
          Products::add_values(weights, t.rows, from(v, run.first), run.first, run.size(), p.value_depth, sums(t.first),
                               p.sum_row / size);
        });
  }

  /// score(cols) computes q·k for all keys of `cols`; add_values(run, weights) adds to the sums of the tile's queries
  /// the values of some keys with their weights.
  template <class Score, class AddValues>
  void attend_tile(const Tile& t, KeyRange keys, KeyRange range, Score&& score, AddValues&& add_values) {
    if (range.size() == 0) return;
    const KeyRange cols{keys.first + (range.first - keys.first) / tile_cols * tile_cols, range.last};
    ahead[bias] = of(p.bias, t, cols);
    ahead[mask] = of(p.mask, t, cols);
    score(cols);
    const auto row = [&](std::int64_t r) { return elements(p.scores + r * score_row); };
    T here[tile_rows];  // all of them before the first is needed
    for (std::int64_t r = 0; r < t.rows; ++r) {
      const std::int64_t i = t.first + r;
      scores.transform(head_of(i), row_of(i), cols, row(r));
      // Keys before `range` that share its first panel: those of the part before, where a query is computed again.
      for (std::int64_t j = 0; j < range.first - cols.first; ++j) row(r)[j] = minus_infinity;
      here[r] = largest(cols.size(), row(r));
    }
    for (std::int64_t r = 0; r < t.rows; ++r) raise(t.first + r, here[r]);
    for (std::int64_t r = 0; r < t.rows; ++r) {
      weigh(t.first + r, cols.size(), row(r));
      if (p.v_scales != nullptr) Scores::dequantise(p.v_scales + cols.first, cols.size(), row(r));
    }
    // In runs of keys that begin at the same ones for every tile, so that all sum in the same order.
    for (KeyRange run = range; run.first < range.last; run.first = run.last) {
      run.last = lesser((run.first / kRunLength + 1) * kRunLength, range.last);
      add_values(run, row(0) + (run.first - cols.first));
    }
  }

  /// The tile's part of a mask or a bias, needed when its scores are there.
  Ahead of(const AttentionPiece::Scores& some, const Tile& t, KeyRange cols) const {
    constexpr std::int64_t widest = sizeof(double);
    if (some.data == nullptr || some.row == 0 || some.col <= 0 || some.col > widest || t.rows > p.rows) return {};
    const std::byte* const first =
        some.data + head_of(t.first) * some.head + row_of(t.first) * some.row + cols.first * some.col;
    Ahead all{first, some.row, cols.size() * some.col, t.rows};
    all.spread(panels(cols.size()));
    return all;
  }

  /// A product panel by panel.
  void multiply(MatmulTBlock block) {
    for (std::int64_t left = block.cols; left > 0; left -= tile_cols) {
      ask();
      block.cols = lesser(left, tile_cols);
      Product::block(block);
      block.right.data += block.right.panel_stride;
      block.out += tile_cols * size;
    }
  }

  /// scores = q · kᵀ, of the keys `cols` among the packed ones, `keys`: in one go, unless q is longer than a row.
  void multiply_keys(const Tile& t, KeyRange keys, KeyRange cols) {
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

  /// Elements first <= d < first + count of the queries of a tile, to where the products read them, filled up to whole
  /// vectors.
  void copy_queries(const Tile& t, std::int64_t first, std::int64_t count) const {
    visit_query_type([&](auto type) {
      using Query = Stored<V, decltype(type)>;
      for (std::int64_t r = 0; r < t.rows; ++r) {
        const std::int64_t i = t.first + r;
        const std::byte* const from = p.q + head_of(i) * p.q_head + row_of(i) * p.q_row + first * p.q_col;
        T* const to = elements(p.queries + r * score_row);
        for (std::int64_t d = 0; d < count; d += width) {
          const int left = smaller(count - d, V::width);
          V::store(to + d, p.q_col == Query::size ? Query::load_first(from + d * p.q_col, left)
                                                  : Query::gather(from + d * p.q_col, p.q_col, left));
        }
      }
    });
  }

  /// visit(type{}) with the type of queries and results.
  template <class Visit>
  void visit_query_type(Visit&& visit) const {
    if constexpr (std::is_same_v<T, double>) {
      visit(double{});
    } else {
      switch (p.q_dtype) {
        case DType::float16: return visit(Float16{});
        case DType::bfloat16: return visit(BFloat16{});
        default: return visit(float{});
      }
    }
  }

  /// The largest of a row of scores; NaN is passed over.
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
    const T growth = (here - maximum(i)) * scores.factor;
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
    const T exponent = top * scores.factor;
    const Reg slope = V::fill(scores.factor);
    if (exponent < kNear && exponent > -kNear) {
      const Reg shift = V::fill(-exponent);
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

  /// Adds what the parts after the first know of query i to what that knows.
  void merge(std::int64_t i) const {
    if (p.parts == 1) return;
    T top = minus_infinity;
    for (std::int64_t one = 0; one < p.parts; ++one) top = maximum(i, one) > top ? maximum(i, one) : top;
    for (std::int64_t one = 0; one < p.parts; ++one) {
      const T growth = maximum(i, one) == top ? 0 : (top - maximum(i, one)) * scores.factor;
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

  /// Whether some key that this query does not see may have been among those that its tile met.
  bool hides_keys(std::int64_t row) const {
    return p.mask.data != nullptr || p.bias.data != nullptr ||
           scores.seen(row, 1).size() != scores.seen(0, p.rows).size();
  }

  /// Writes the result of a query. Returns false if something that the query does not see may have spoilt it.
  bool write(std::int64_t i) const {
    const std::int64_t head = head_of(i);
    const std::int64_t row = row_of(i);
    double sum = static_cast<double>(reduce_add<V>(V::load(total(i))));
    double shift = static_cast<double>(maximum(i)) * scores.scale;  // sum counts in units of e^shift
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
    visit_query_type([&](auto type) {
      using Result = Stored<V, decltype(type)>;
      for (std::int64_t d = 0; d < p.value_depth; d += width) {
        const int count = smaller(p.value_depth - d, V::width);
        const Reg value = V::mul(V::load_partial(sums(i) + d, count), share);
        probe = V::fma(value, V::zero(), probe);  // NaN from the first value on that is not finite
        if (p.out_col == Result::size)
          Result::store_partial(out + d * p.out_col, value, count);
        else
          Result::scatter(out + d * p.out_col, p.out_col, value, count);
      }
    });
    const T finite = reduce_add<V>(probe);
    return finite == finite || sum != sum;  // NaN in the sum is that of a key that the query sees
  }

  /// A query again, with zeros for the keys and values that it does not see: where those are NaN or infinite, a
  /// probability of 0 does not take them out of a sum.
  void attend_again(std::int64_t i) {
    for (Ahead& one : ahead) one = {};
    const KeyRange all = scores.seen(row_of(i), 1);
    for (part = 0; part < p.parts; ++part) {
      reset(i);
      const std::int64_t first = (p.first_part + part) * p.part_keys;
      const KeyRange range = both(all, {first, first + p.part_keys});
      each_block(range, [&](KeyRange keys) { attend_visible(i, keys, range); });
    }
    part = 0;
    merge(i);
  }

  void attend_visible(std::int64_t i, KeyRange keys, KeyRange range) {
    const Tile tile{i, 1};
    T* const s = elements(p.scores);  // as if all were 0: what is hidden becomes -inf
    for (std::int64_t j = 0; j < Scores::whole_vectors(keys.size()); j += width) V::store(s + j, V::zero());
    scores.transform(head_of(i), row_of(i), keys, s);
    T* const k = elements(p.packed_k);
    T* const v = elements(p.packed_v);
    if (p.in_place) {
      for (std::int64_t j = 0; j < keys.size(); ++j) {
        const bool visible = s[j] != minus_infinity;
        copy_row(p.k + (keys.first + j) * p.k_row, p.depth, visible, k + j * p.depth);
        copy_row(p.v + (keys.first + j) * p.v_row, p.value_depth, visible, v + j * p.value_depth);
      }
      attend_in_place<T>(tile, keys, both(keys, range), {p.packed_k, p.depth * size},
                         {p.packed_v, p.value_depth * size});
      return;
    }
    pack_keys(keys);
    const Panels values = pack_values(keys);
    for (std::int64_t j = 0; j < keys.size(); ++j) {
      if (s[j] != minus_infinity) continue;
      T* const key = k + j / tile_cols * tile_cols * p.depth + j % tile_cols;
      for (std::int64_t d = 0; d < p.depth; ++d) key[d * tile_cols] = 0;
      T* const value = v + j * tile_cols;
      for (std::int64_t d = 0; d < p.value_depth; ++d)
        value[d / tile_cols * tile_cols * keys.size() + d % tile_cols] = 0;
    }
    attend_packed(tile, keys, both(keys, range), values);
  }

  static void copy_row(const std::byte* from, std::int64_t count, bool visible, T* to) {
    for (std::int64_t d = 0; d < count; ++d) to[d] = visible ? widen(load_element<S>(from + d * stored_size)) : T{0};
  }
};

template <class V, class S>
constexpr AttentionKernels attention_kernels = {Attention<V, S>::attend, Attention<V, S>::finish};

}  // namespace
}  // namespace transfuse
