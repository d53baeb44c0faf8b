// The two products of attention for few queries. Memory limits them: keys and values are read once, in place, and
// converted in registers where they are stored in another type than they are computed in.
#pragma once

#include "core/constants.hpp"
#include "kernels/pack.hpp"
#include "kernels/prefetch.hpp"
#include "simd/reduce.hpp"
#include "simd/stored.hpp"
#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Rows of keys or values, their elements side by side.
struct StoredRows {
  const std::byte* data;
  std::int64_t row;  // bytes from one to the next

  StoredRows from(std::int64_t first, std::int64_t bytes) const { return {data + first * row + bytes, row}; }
};

/// Keys and values of type S, computed with as vectors V. What keeps memory busy depends on how many queries meet them.
///
/// Few ("streamed"): the hardware fetches ahead if each load instruction steps through memory in equal strides,
/// there are some eight of them, so that as many lines are under way as a core can wait for, and few others. So the
/// loads of a row are unrolled, rows come one after another, and what they are multiplied with stays in registers.
/// Queries for which there are no registers meet the same rows a little later, in the first-level cache. Asking for
/// what is a little further on helps the hardware across the pages of memory beyond the caches ("far"); within the
/// caches it only takes time.
///
/// More: there is arithmetic enough to hide memory behind, if what is needed later is asked for all the time.
template <class V, class S>
struct InPlace {
  using T = typename V::T;
  using Reg = typename V::Reg;
  using Store = Stored<V, S>;

  static constexpr bool many = kIsa == Isa::avx512;  // registers: 32, not 16
  static constexpr int most_rows = many ? 4 : 2;     // of a tile
  static constexpr int tile_keys = 4;
  static constexpr std::int64_t line_vectors = larger(kCacheLine / (V::width * Store::size), 1);
  static constexpr std::int64_t streamed_rows = Store::same ? kStreamedQueries : kStreamedConverted;

  bool far;

  /// scores[r, j] = q[r] · k[j], with the same bits however many rows there are. Rows of q and of scores are kScoreRow
  /// apart; q is filled up to whole vectors, scores have room for 3 more.
  void score(const T* q, std::int64_t rows, std::int64_t depth, const StoredRows& k, std::int64_t keys,
             T* scores) const {
    const auto each_tile = [&](std::int64_t step, auto rows_of_a_tile, auto&& visit) {
      each_step(step, 0, keys, [&](std::int64_t first, std::int64_t count) {
        each_rows<decltype(rows_of_a_tile)::value>(rows, [&](std::int64_t r, auto group) {
          each_vectors<8>(depth, [&](std::int64_t d, auto vectors, int last) {
            visit(group, vectors,
                  ScoreTile{q + r * kScoreRow + d, k.from(first, d * Store::size), count, last, d > 0,
                            scores + r * kScoreRow + first});
          });
        });
      });
    };
    if (depth == 0) {
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t j = 0; j < keys; ++j) scores[r * kScoreRow + j] = 0;
    } else if (rows <= streamed_rows) {
      visit_ahead([&](auto ahead) {
        each_tile(kInPlaceKeys, Index<many ? 2 : 1>{}, [](auto group, auto vectors, const ScoreTile& tile) {
          score_streamed<decltype(group)::value, decltype(vectors)::value, decltype(ahead)::value>(tile);
        });
      });
    } else {
      each_tile(tile_keys, Index<most_rows>{}, [](auto group, auto vectors, const ScoreTile& tile) {
        score_tiled<decltype(group)::value, decltype(vectors)::value>(tile);
      });
    }
  }

  /// sums[r, d] += sum over `keys` keys j of weights[r, j] · v[j, d]; `key` is the number of the first among all keys,
  /// for steps end at multiples, wherever they begin, so that they do not depend on which keys a tile sees. Rows of
  /// weights are kScoreRow apart, those of sums sum_row, with room for whole vectors.
  void add_values(const T* weights, std::int64_t rows, const StoredRows& v, std::int64_t key, std::int64_t keys,
                  std::int64_t value_depth, T* sums, std::int64_t sum_row) const {
    const auto add = [&](auto rows_of_a_tile, auto vectors_of_a_tile, auto ahead) {
      each_step(kInPlaceKeys, key, keys, [&](std::int64_t first, std::int64_t count) {
        each_rows<decltype(rows_of_a_tile)::value>(rows, [&](std::int64_t r, auto group) {
          each_vectors<decltype(vectors_of_a_tile)::value>(value_depth, [&](std::int64_t d, auto vectors, int last) {
            add_tile<decltype(group)::value, decltype(vectors)::value, decltype(ahead)::value>(
                weights + r * kScoreRow + first, v.from(first, d * Store::size), count, last, sums + r * sum_row + d,
                sum_row);
          });
        });
      });
    };
    if (rows > streamed_rows)
      add(Index<most_rows>{}, Index<4>{}, Index<kTiledAhead>{});
    else
      visit_ahead([&](auto ahead) { add(Index<many ? 3 : 1>{}, Index<8>{}, ahead); });
  }

 private:
  /// visit(Index<bytes>) with how far ahead memory is asked for while it is streamed; 0: not at all.
  template <class Visit>
  void visit_ahead(Visit&& visit) const {
    if (Store::same && far)
      visit(Index<Store::same ? kStreamedAhead : 0>{});
    else
      visit(Index<0>{});
  }

  /// Asks for the line `Ahead` bytes beyond p, of a row's vector `i`.
  template <std::int64_t Ahead>
  [[gnu::always_inline]] static void ask(const std::byte* p, std::int64_t i) {
    if (Ahead > 0 && i % line_vectors == 0) prefetch_far(p + Ahead);
  }

  /// A vector that is not loaded again for each of its uses.
  [[gnu::always_inline]] static Reg once(Reg v) {
    asm("" : "+v"(v));
    return v;
  }

  /// visit(first, count) for `keys` keys, the first of which is number `key`, up to the next multiple of `step` each
  /// time: all queries meet these before the next ones.
  template <class Visit>
  static void each_step(std::int64_t step, std::int64_t key, std::int64_t keys, Visit&& visit) {
    for (std::int64_t first = 0, count = step - key % step; first < keys; first += count, count = step)
      visit(first, keys - first < count ? keys - first : count);
  }

  /// visit(first, Index<count>) for groups of at most Most rows, all about as large.
  template <int Most, class Visit>
  static void each_rows(std::int64_t rows, Visit&& visit) {
    const std::int64_t groups = (rows + Most - 1) / Most;
    for (std::int64_t group = 0, r = 0; group < groups; ++group) {
      const std::int64_t end = rows * (group + 1) / groups;
      unroll<Most>([&](auto i) {
        if (end - r == decltype(i)::value + 1) visit(r, Index<decltype(i)::value + 1>{});
      });
      r = end;
    }
  }

  /// visit(first, Index<vectors>, last) for groups of at most Most vectors, the last of which has `last` elements: all,
  /// unless it is one by itself.
  template <int Most, class Visit>
  static void each_vectors(std::int64_t depth, Visit&& visit) {
    std::int64_t d = 0;
    const auto next = [&](auto vectors) {
      visit(d, vectors, V::width);
      d += decltype(vectors)::value * V::width;
    };
    while (d + Most * V::width <= depth) next(Index<Most>{});
    if constexpr (Most > 4)
      if (d + 4 * V::width <= depth) next(Index<4>{});
    if (d + 2 * V::width <= depth) next(Index<2>{});
    for (; d < depth; d += V::width) visit(d, Index<1>{}, smaller(depth - d, V::width));
  }

  /// Some vectors of some queries and keys, the last of which has `last` elements; added to the scores where `more`.
  struct ScoreTile {
    const T* q;
    StoredRows k;
    std::int64_t keys;
    int last;
    bool more;
    T* scores;
  };

  template <int Rows, int Vecs, std::int64_t Ahead>
  static void score_streamed(const ScoreTile& t) {
    constexpr int together = 4 / Rows;  // keys whose sums are added up together
    Reg queries[Rows][Vecs];
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
        constexpr int row = decltype(r)::value;
        constexpr int i = decltype(c)::value;
        queries[row][i] = V::load(t.q + row * kScoreRow + i * V::width);
      });
    });
    const auto all = [&](auto load) __attribute__((always_inline)) {
      const std::byte* p = t.k.data;
      for (std::int64_t j = 0; j < t.keys; j += together) {
        Reg sum[4];
        unroll<together>([&](auto n) __attribute__((always_inline)) {
          constexpr int key = decltype(n)::value;
          unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
            constexpr int i = decltype(c)::value;
            const std::byte* const at = p + i * V::width * Store::size;
            ask<Ahead>(at, i);
            const Reg y = once(load(at));
            unroll<Rows>([&](auto r) __attribute__((always_inline)) {
              Reg& s = sum[decltype(r)::value * together + key];
              const Reg x = queries[decltype(r)::value][i];
              s = i == 0 ? V::mul(x, y) : V::fma(x, y, s);
            });
          });
          p += j + key + 1 < t.keys ? t.k.row : 0;
          asm volatile("" : "+r"(p) : : "memory");  // one key after another
        });
        store_sums<V, together>(t.scores + j, kScoreRow, sum, t.more);
      }
    };
    if (Vecs > 1 || t.last == V::width)
      all([](const std::byte* p) __attribute__((always_inline)) { return Store::load(p); });
    else
      all([last = t.last](const std::byte* p) { return Store::load_partial(p, last); });
  }

  template <int Rows, int Vecs>
  static void score_tiled(const ScoreTile& t) {
    const std::byte* at[tile_keys];
    for (int i = 0; i < tile_keys; ++i) at[i] = t.k.data + (i < t.keys ? i : t.keys - 1) * t.k.row;
    Reg sum[Rows][tile_keys];
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<tile_keys>(
          [&](auto c) __attribute__((always_inline)) { sum[decltype(r)::value][decltype(c)::value] = V::zero(); });
    });
    const auto all = [&](auto load) __attribute__((always_inline)) {
      for (std::int64_t d = 0; d < Vecs * V::width; d += V::width) {
        Reg x[Rows];
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          x[decltype(r)::value] = V::load(t.q + decltype(r)::value * kScoreRow + d);
        });
        unroll<tile_keys>([&](auto c) __attribute__((always_inline)) {
          const std::byte* const p = at[decltype(c)::value] + d * Store::size;
          ask<kTiledAhead>(p, d / V::width);
          const Reg y = load(p);
          unroll<Rows>([&](auto r) __attribute__((always_inline)) {
            Reg& s = sum[decltype(r)::value][decltype(c)::value];
            s = V::fma(x[decltype(r)::value], y, s);
          });
        });
      }
    };
    if (Vecs > 1 || t.last == V::width)
      all([](const std::byte* p) __attribute__((always_inline)) { return Store::load(p); });
    else
      all([last = t.last](const std::byte* p) { return Store::load_partial(p, last); });
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      store_sums<V, tile_keys>(t.scores + decltype(r)::value * kScoreRow, 0, sum[decltype(r)::value], t.more);
    });
  }

  template <int Rows, int Vecs, std::int64_t Ahead>
  static void add_tile(const T* weights, const StoredRows& v, std::int64_t keys, int last, T* sums,
                       std::int64_t sum_row) {
    Reg sum[Rows][Vecs];
    const auto each = [&](auto&& visit) __attribute__((always_inline)) {
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
          visit(sum[decltype(r)::value][decltype(c)::value],
                sums + decltype(r)::value * sum_row + decltype(c)::value * V::width);
        });
      });
    };
    each([](Reg& s, const T*) __attribute__((always_inline)) { s = V::zero(); });
    const auto all = [&](auto load) __attribute__((always_inline)) {
      const std::byte* p = v.data;
      for (std::int64_t j = 0; j < keys; ++j, p += v.row) {
        Reg w[Rows];
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          w[decltype(r)::value] = V::broadcast(weights + decltype(r)::value * kScoreRow + j);
        });
        unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
          const std::byte* const at = p + decltype(c)::value * V::width * Store::size;
          ask<Ahead>(at, decltype(c)::value);
          const Reg y = once(load(at));
          unroll<Rows>([&](auto r) __attribute__((always_inline)) {
            Reg& s = sum[decltype(r)::value][decltype(c)::value];
            s = V::fma(w[decltype(r)::value], y, s);
          });
        });
      }
    };
    if (Vecs > 1 || last == V::width)
      all([](const std::byte* p) __attribute__((always_inline)) { return Store::load(p); });
    else
      all([last](const std::byte* p) { return Store::load_partial(p, last); });
    each([](Reg& s, T* to) __attribute__((always_inline)) { V::store(to, V::add(V::load(to), s)); });
  }
};

}  // namespace
}  // namespace transfuse
