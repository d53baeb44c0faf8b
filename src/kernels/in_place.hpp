// The two products of attention for few queries. Memory limits them: keys and values are read once, in place, and
// converted in registers where they are stored in another type than they are computed in.
#pragma once

#include "core/constants.hpp"
#include "simd/reduce.hpp"
#include "simd/stored.hpp"
#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Rows of keys or values, their elements side by side.
struct StoredRows {
  const std::byte* data;
  std::int64_t row;  // bytes from one to the next
};

/// Keys and values of type S, computed with as vectors V. `ask()` is called before every few rows of them: the place to
/// prefetch.
template <class V, class S>
struct InPlace {
  using T = typename V::T;
  using Reg = typename V::Reg;
  using Store = Stored<V, S>;

  // Tiles that fit the registers: 4 queries · 4 keys and their operands, 4 queries · 4 vectors of values; half of that
  // with 16 registers.
  static constexpr int tile_rows = kIsa == Isa::avx512 ? 4 : 2;
  static constexpr int tile_keys = 4;
  static constexpr int tile_vectors = 4;

  /// How often ask() is called for so many keys.
  static std::int64_t steps_of_scores(std::int64_t keys) { return (keys + tile_keys - 1) / tile_keys; }
  static std::int64_t steps_of_values(std::int64_t keys, std::int64_t value_depth) {
    const std::int64_t vectors = (value_depth + V::width - 1) / V::width;
    return steps_of_scores(keys) * (vectors / tile_vectors + vectors % tile_vectors);
  }

  /// scores[r, j] = q[r] · k[j]. Rows of q and of scores are kScoreRow apart; q is filled up to whole vectors, scores
  /// have room for tile_keys more.
  template <class Ask>
  static void score(const T* q, std::int64_t rows, std::int64_t depth, const StoredRows& k, std::int64_t keys,
                    T* scores, Ask&& ask) {
    for (std::int64_t j = 0; j < keys; j += tile_keys) {
      ask();
      const std::byte* at[tile_keys];
      unroll<tile_keys>([&](auto c) {
        constexpr int i = decltype(c)::value;
        at[i] = k.data + (j + i < keys ? j + i : keys - 1) * k.row;
      });
      each_rows(rows, [&](std::int64_t r, auto count) {
        score_tile<decltype(count)::value>(q + r * kScoreRow, depth, at, scores + r * kScoreRow + j);
      });
    }
  }

  /// sums[r, d] += sum over `keys` keys j of weights[r, j] · v[j, d]. Rows of weights are kScoreRow apart, those of
  /// sums sum_row, with room for whole vectors.
  template <class Ask>
  static void add_values(const T* weights, std::int64_t rows, const StoredRows& v, std::int64_t keys,
                         std::int64_t value_depth, T* sums, std::int64_t sum_row, Ask&& ask) {
    std::int64_t d = 0;
    const auto columns = [&](auto vectors, int last) {
      each_rows(rows, [&](std::int64_t r, auto count) {
        const auto add = [&](auto&& before) {
          add_tile<decltype(count)::value, decltype(vectors)::value>(weights + r * kScoreRow,
                                                                     {v.data + d * Store::size, v.row}, keys, last,
                                                                     sums + r * sum_row + d, sum_row, before);
        };
        if (r == 0)
          add(ask);
        else
          add([] {});
      });
      d += decltype(vectors)::value * V::width;
    };
    while (d + tile_vectors * V::width <= value_depth) columns(Index<tile_vectors>{}, V::width);
    while (d + V::width <= value_depth) columns(Index<1>{}, V::width);
    if (d < value_depth) columns(Index<1>{}, static_cast<int>(value_depth - d));
  }

 private:
  /// visit(first, Index<count>) for groups of at most tile_rows rows.
  template <class Visit>
  static void each_rows(std::int64_t count, Visit&& visit) {
    std::int64_t r = 0;
    for (; r + tile_rows <= count; r += tile_rows) visit(r, Index<tile_rows>{});
    switch (count - r) {
      case 3:
        if constexpr (tile_rows > 3) visit(r, Index<3>{});
        break;
      case 2:
        if constexpr (tile_rows > 2) visit(r, Index<2>{});
        break;
      case 1: visit(r, Index<1>{}); break;
      default: break;
    }
  }

  template <int Rows>
  static void score_tile(const T* q, std::int64_t depth, const std::byte* const (&k)[tile_keys], T* scores) {
    Reg sum[Rows][tile_keys];
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<tile_keys>(
          [&](auto c) __attribute__((always_inline)) { sum[decltype(r)::value][decltype(c)::value] = V::zero(); });
    });
    const auto add = [&](std::int64_t d, auto load) __attribute__((always_inline)) {
      Reg x[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        x[decltype(r)::value] = V::load(q + decltype(r)::value * kScoreRow + d);
      });
      unroll<tile_keys>([&](auto c) __attribute__((always_inline)) {
        const Reg y = load(k[decltype(c)::value] + d * Store::size);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          Reg& s = sum[decltype(r)::value][decltype(c)::value];
          s = V::fma(x[decltype(r)::value], y, s);
        });
      });
    };
    std::int64_t d = 0;
    for (; d + V::width <= depth; d += V::width)
      add(d, [](const std::byte* p) __attribute__((always_inline)) { return Store::load(p); });
    if (d < depth)
      add(d, [count = static_cast<int>(depth - d)](const std::byte* p) { return Store::load_partial(p, count); });
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      store_four_sums<V>(scores + decltype(r)::value * kScoreRow, sum[decltype(r)::value]);
    });
  }

  template <int Rows, int Vecs, class Ask>
  static void add_tile(const T* weights, const StoredRows& v, std::int64_t keys, int last, T* sums,
                       std::int64_t sum_row, Ask&& ask) {
    Reg sum[Rows][Vecs];
    const auto each = [&](auto&& visit) __attribute__((always_inline)) {
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
          visit(sum[decltype(r)::value][decltype(c)::value],
                sums + decltype(r)::value * sum_row + decltype(c)::value * V::width);
        });
      });
    };
    each([](Reg& s, T*) __attribute__((always_inline)) { s = V::zero(); });
    const auto add = [&](const std::byte* p, const T* weight, auto load) __attribute__((always_inline)) {
      Reg w[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        w[decltype(r)::value] = V::broadcast(weight + decltype(r)::value * kScoreRow);
      });
      unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
        const Reg y = load(p + decltype(c)::value * V::width * Store::size);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          Reg& s = sum[decltype(r)::value][decltype(c)::value];
          s = V::fma(w[decltype(r)::value], y, s);
        });
      });
    };
    const std::byte* p = v.data;
    for (std::int64_t j = 0; j < keys; ++j, p += v.row) {
      if (j % tile_keys == 0) ask();
      if (last == V::width)
        add(p, weights + j, [](const std::byte* at) __attribute__((always_inline)) { return Store::load(at); });
      else
        add(p, weights + j, [last](const std::byte* at) { return Store::load_partial(at, last); });
    }
    each([](Reg& s, T* out) __attribute__((always_inline)) { V::store(out, V::add(V::load(out), s)); });
  }
};

}  // namespace
}  // namespace transfuse
