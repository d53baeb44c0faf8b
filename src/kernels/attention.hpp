// Attention for some queries of the heads that share keys and values: blocks of keys, each met by every tile of queries
// in turn, with an online softmax, so that no row of scores is ever whole in memory (Dao et al., arXiv:2205.14135).
#pragma once

#include "core/constants.hpp"
#include "kernels/attention_scores.hpp"
#include "kernels/in_place.hpp"
#include "kernels/matmul_t.hpp"
#include "kernels/online_softmax.hpp"
#include "kernels/pack.hpp"
#include "kernels/prefetch.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Keys and values of type S, computed with as vectors V.
template <class V, class S>
class Attention {
 public:
  /// The piece's part of the keys; where that is all of them, the results too.
  static void attend(const AttentionPiece& piece) { Attention(piece).run(); }

  /// The results, from what attend() found of each part of the keys.
  static void finish(const AttentionPiece& piece) { Attention(piece).finish_parts(); }

 private:
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t stored_size = sizeof(S);
  static constexpr std::int64_t width = V::width;
  static constexpr std::int64_t score_row = kScoreRow * size;  // bytes from one row of scores to the next

  using Scores = AttentionScores<V>;

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

  OnlineSoftmax<V> softmax;

  explicit Attention(const AttentionPiece& piece) : p(piece), scores(piece), softmax(piece, scores.factor) {}

  static T* elements(std::byte* bytes) { return reinterpret_cast<T*>(bytes); }
  std::int64_t queries() const { return p.heads * p.rows; }
  std::int64_t head_of(std::int64_t i) const { return p.heads == 1 ? 0 : i / p.rows; }  // a division takes long
  std::int64_t row_of(std::int64_t i) const { return p.heads == 1 ? i : i % p.rows; }

  void run() {
    const KeyRange all = scores.seen(0, p.rows);
    if (all.size() == 0) return each_tile([&](const Tile& t) { begin(t), end(t); });
    // So that a tile is finished before the next one begins.
    const bool one_block = p.parts == 1 && all.last <= all.first / p.block_kv * p.block_kv + p.block_kv;
    const auto each = [&](KeyRange keys, auto&& attend) __attribute__((always_inline)) {
      each_tile([&](const Tile& t) {
        if (one_block) softmax.origin = t.first;
        if (keys.first <= all.first) begin(t);
        attend(t, both(keys, seen(t)));
        if (keys.last == all.last) end(t);
      });
    };
    each_block(all, [&](KeyRange keys) {
      if (p.in_place) {
        const StoredRows k{p.k + keys.first * p.k_row, p.k_row};
        const StoredRows v{p.v + keys.first * p.v_row, p.v_row};
        each(keys, [&](const Tile& t, KeyRange range) { attend_in_place<S>(t, keys, range, k, v); });
      } else {
        look_ahead(keys, all);
        pack_keys(keys);
        const Panels values =
            p.pack_v ? pack_values(keys) : Panels{p.v + keys.first * p.v_row, tile_cols * size, p.v_row};
        each(keys, [&](const Tile& t, KeyRange range) {
          attend_packed(t, keys, range, values, range.first == seen(t).first);
        });
      }
    });
    if (p.parts == 1) attend_spoilt();
  }

  void begin(const Tile& t) const {
    // Packed values that are the first ones overwrite the sums.
    const bool overwritten = !p.in_place && seen(t).size() > 0;
    for (std::int64_t i = t.first; i < t.first + t.rows; ++i) {
      softmax.reset(i);
      if (!overwritten) softmax.clear_sums(i);
    }
  }

  /// The tile has met its last keys.
  void end(const Tile& t) const {
    if (p.parts > 1) return;
    for (std::int64_t i = t.first; i < t.first + t.rows; ++i) finish(i);
  }

  void finish_parts() {
    for (std::int64_t i = 0; i < queries(); ++i) {
      softmax.merge(i);
      finish(i);
    }
    attend_spoilt();
  }

  /// Writes the result of a query, and marks it by a maximum of NaN if something that it does not see may have spoilt
  /// it.
  void finish(std::int64_t i) const {
    write(i);
    if (is_spoilt(i)) softmax.maximum(i) = __builtin_nan("");
  }

  void attend_spoilt() {
    for (std::int64_t i = 0; i < queries(); ++i) {
      if (softmax.maximum(i) == softmax.maximum(i)) continue;
      softmax.origin = i;
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

  /// The queries of a tile meet the keys of `range`, some of the packed ones, `keys`, with their values; the tile's
  /// first ones, where `first`.
  void attend_packed(const Tile& t, KeyRange keys, KeyRange range, const Panels& values, bool first) {
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
                    .out = reinterpret_cast<std::byte*>(softmax.sums(t.first)),
                    .out_row = p.sum_row,
                    .out_col = size,
                    .accumulate = !first || run.first > range.first});
        });
  }

  /// The same where `k` and `v` hold those of `keys`, as they are or copied.
  template <class Element>
  void attend_in_place(const Tile& t, KeyRange keys, KeyRange range, const StoredRows& k, const StoredRows& v) {
    const InPlace<V, Element> products{p.far};
    const auto from = [&](const StoredRows& rows, std::int64_t key) {
      return StoredRows{rows.data + (key - keys.first) * rows.row, rows.row};
    };
    attend_tile(
        t, keys, range,
        [&](KeyRange cols) {
          copy_queries(t, 0, p.depth);
          products.score(elements(p.queries), t.rows, p.depth, from(k, cols.first), cols.size(), elements(p.scores));
        },
        [&](KeyRange run, const T* weights) {
          products.add_values(weights, t.rows, from(v, run.first), run.first, run.size(), p.value_depth,
                              softmax.sums(t.first), p.sum_row / size);
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
      for (std::int64_t j = 0; j < range.first - cols.first; ++j) row(r)[j] = minus_infinity<T>;
      here[r] = OnlineSoftmax<V>::largest(cols.size(), row(r));
    }
    for (std::int64_t r = 0; r < t.rows; ++r) softmax.raise(t.first + r, here[r]);
    for (std::int64_t r = 0; r < t.rows; ++r) {
      softmax.weigh(t.first + r, cols.size(), row(r));
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
      const std::int64_t col = p.q_col;
      for (std::int64_t r = 0; r < t.rows; ++r) {
        const std::int64_t i = t.first + r;
        const std::byte* const from = p.q + head_of(i) * p.q_head + row_of(i) * p.q_row + first * col;
        T* const to = elements(p.queries + r * score_row);
        std::int64_t d = 0;
        if (col == Query::size) {
          for (; d + width <= count; d += width) V::store(to + d, Query::load(from + d * Query::size));
          if (d < count) V::store(to + d, Query::load_partial(from + d * Query::size, smaller(count - d, V::width)));
        } else {
          for (; d < count; d += width)
            V::store(to + d, Query::gather(from + d * col, col, smaller(count - d, V::width)));
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

  // Results.

  /// Whether some key that this query does not see may have been among those that its tile met.
  bool hides_keys(std::int64_t row) const {
    return p.mask.data != nullptr || p.bias.data != nullptr ||
           scores.seen(row, 1).size() != scores.seen(0, p.rows).size();
  }

  /// Writes the result of a query.
  void write(std::int64_t i) const {
    const std::int64_t head = head_of(i);
    const std::int64_t row = row_of(i);
    double sum = static_cast<double>(reduce_add<V>(V::load(softmax.total(i))));
    double shift = static_cast<double>(softmax.maximum(i)) * scores.scale;  // sum counts in units of e^shift
    double weight = 1;
    if (p.sinks != nullptr && p.sinks[head] != minus_infinity<double>) {
      const double sink = p.sinks[head];
      const double top = sink > shift ? sink : shift;
      weight = __builtin_exp(shift - top);
      sum = sum * weight + __builtin_exp(sink - top);
      shift = top;
    }
    const bool empty = sum == 0;
    if (p.lse != nullptr) {
      const T lse = static_cast<T>(shift + __builtin_log(sum));
      store_element<T>(p.lse + head * p.lse_head + row * p.lse_row, empty ? minus_infinity<T> : lse);
    }
    const Reg share = V::fill(empty ? 0 : static_cast<T>(weight / sum));
    const T* const from = softmax.sums(i);
    std::byte* const out = p.out + head * p.out_head + row * p.out_row;
    const std::int64_t depth = p.value_depth;
    const std::int64_t col = p.out_col;
    visit_query_type([&](auto type) {
      using Result = Stored<V, decltype(type)>;
      std::int64_t d = 0;
      if (col == Result::size) {
        for (; d + width <= depth; d += width) Result::store(out + d * Result::size, V::mul(V::load(from + d), share));
        if (d < depth)
          Result::store_partial(out + d * Result::size, V::mul(V::load(from + d), share), smaller(depth - d, V::width));
      } else {
        for (; d < depth; d += width)
          Result::scatter(out + d * col, col, V::mul(V::load(from + d), share), smaller(depth - d, V::width));
      }
    });
  }

  /// Whether something that query i does not see may have spoilt its sums: they are not finite, but the total of its
  /// probabilities, which only knows of what it sees, is a number.
  bool is_spoilt(std::int64_t i) const {
    if (!hides_keys(row_of(i))) return false;
    const T sum = reduce_add<V>(V::load(softmax.total(i)));
    const T* const from = softmax.sums(i);
    Reg probe = V::zero();  // NaN from the first value on that is not finite
    for (std::int64_t d = 0; d < p.value_depth; d += width) {
      const Reg value = V::load_partial(from + d, smaller(p.value_depth - d, V::width));
      probe = V::fma(value, V::zero(), probe);
    }
    const T finite = reduce_add<V>(probe);
    return finite != finite && sum == sum;
  }

  /// A query again, with zeros for the keys and values that it does not see: where those are NaN or infinite, a
  /// probability of 0 does not take them out of a sum.
  void attend_again(std::int64_t i) {
    for (Ahead& one : ahead) one = {};
    const KeyRange all = scores.seen(row_of(i), 1);
    for (softmax.part = 0; softmax.part < p.parts; ++softmax.part) {
      softmax.reset(i);
      softmax.clear_sums(i);
      const std::int64_t first = (p.first_part + softmax.part) * p.part_keys;
      const KeyRange range = both(all, {first, first + p.part_keys});
      each_block(range, [&](KeyRange keys) { attend_visible(i, keys, range); });
    }
    softmax.part = 0;
    softmax.merge(i);
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
        const bool visible = s[j] != minus_infinity<T>;
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
      if (s[j] != minus_infinity<T>) continue;
      T* const key = k + j / tile_cols * tile_cols * p.depth + j % tile_cols;
      for (std::int64_t d = 0; d < p.depth; ++d) key[d * tile_cols] = 0;
      T* const value = v + j * tile_cols;
      for (std::int64_t d = 0; d < p.value_depth; ++d)
        value[d / tile_cols * tile_cols * keys.size() + d % tile_cols] = 0;
    }
    attend_packed(tile, keys, both(keys, range), values, false);
  }

  static void copy_row(const std::byte* from, std::int64_t count, bool visible, T* to) {
    for (std::int64_t d = 0; d < count; ++d) to[d] = visible ? widen(load_element<S>(from + d * stored_size)) : T{0};
  }
};

template <class V, class S>
constexpr AttentionKernels attention_kernels = {Attention<V, S>::attend, Attention<V, S>::finish};

}  // namespace
}  // namespace transfuse
