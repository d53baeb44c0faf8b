// The two products of attention for few queries. Memory limits them: keys and values are read once, in place, and
// converted in registers where they are stored in another type than they are computed in.
#pragma once

#include "core/constants.hpp"
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
};

/// Keys and values of type S, computed with as vectors V. What lies kInPlaceAhead bytes further on in memory, most
/// likely the next rows, is asked for with every vector that is read: one by one, because a burst of prefetches waits
/// for itself.
template <class V, class S>
struct InPlace {
  using T = typename V::T;
  using Reg = typename V::Reg;
  using Store = Stored<V, S>;

  // Tiles that fit the registers: 4 queries · 4 keys and their operands, or queries · vectors of values; half of that
  // with 16 registers.
  static constexpr bool many = kIsa == Isa::avx512;
  static constexpr int tile_rows = many ? 4 : 2;
  static constexpr int tile_keys = 4;
  static constexpr int tile_vectors(int rows) { return rows == 1 || (many && rows < 4) ? 8 : 4; }

  /// scores[r, j] = q[r] · k[j]. Rows of q and of scores are kScoreRow apart; q is filled up to whole vectors, scores
  /// have room for tile_keys more.
  static void score(const T* q, std::int64_t rows, std::int64_t depth, const StoredRows& k, std::int64_t keys,
                    T* scores) {
    for (std::int64_t j = 0; j < keys; j += tile_keys) {
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
  static void add_values(const T* weights, std::int64_t rows, const StoredRows& v, std::int64_t keys,
                         std::int64_t value_depth, T* sums, std::int64_t sum_row) {
    each_rows(rows, [&](std::int64_t r, auto count) {
      constexpr int most = tile_vectors(decltype(count)::value);
      std::int64_t d = 0;
      const auto columns = [&](auto vectors, auto partial, int last) {
        add_tile<decltype(count)::value, decltype(vectors)::value, decltype(partial)::value>(
            weights + r * kScoreRow, {v.data + d * Store::size, v.row}, keys, last, sums + r * sum_row + d, sum_row);
        d += decltype(vectors)::value * V::width;
      };
      while (d + most * V::width <= value_depth) columns(Index<most>{}, Index<0>{}, V::width);
      if constexpr (most > 4)
        if (d + 4 * V::width <= value_depth) columns(Index<4>{}, Index<0>{}, V::width);
      while (d + V::width <= value_depth) columns(Index<1>{}, Index<0>{}, V::width);
      if (d < value_depth) columns(Index<1>{}, Index<1>{}, static_cast<int>(value_depth - d));
    });
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
    const auto add = [&](std::int64_t d, auto first, auto count, auto load) __attribute__((always_inline)) {
      Reg x[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        x[decltype(r)::value] = V::load(q + decltype(r)::value * kScoreRow + d);
      });
      unroll<decltype(count)::value>([&](auto c) __attribute__((always_inline)) {
        constexpr int key = decltype(first)::value + decltype(c)::value;
        prefetch_far(k[key] + d * Store::size + kInPlaceAhead);
        const Reg y = load(k[key] + d * Store::size);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          Reg& s = sum[decltype(r)::value][key];
          s = V::fma(x[decltype(r)::value], y, s);
        });
      });
    };
    const auto add_keys = [&](auto first, auto count) __attribute__((always_inline)) {
      std::int64_t d = 0;
      for (; d + V::width <= depth; d += V::width)
        add(d, first, count, [](const std::byte* p) __attribute__((always_inline)) { return Store::load(p); });
      if (d < depth)
        add(d, first, count,
            [rest = static_cast<int>(depth - d)](const std::byte* p) { return Store::load_partial(p, rest); });
    };
    if constexpr (Rows == 1)  // one key after another: the hardware's prefetcher follows, and that is the limit
      unroll<tile_keys>([&](auto c) __attribute__((always_inline)) { add_keys(c, Index<1>{}); });
    else
      add_keys(Index<0>{}, Index<tile_keys>{});
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      store_four_sums<V>(scores + decltype(r)::value * kScoreRow, sum[decltype(r)::value]);
    });
  }

  template <int Rows, int Vecs, int Partial>
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
    each([](Reg& s, T*) __attribute__((always_inline)) { s = V::zero(); });
    const auto add = [&](const std::byte* p, const T* weight, auto load) __attribute__((always_inline)) {
      Reg w[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        w[decltype(r)::value] = V::broadcast(weight + decltype(r)::value * kScoreRow);
      });
      unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
        const std::byte* const at = p + decltype(c)::value * V::width * Store::size;
        prefetch_far(at + kInPlaceAhead);
        const Reg y = load(at);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          Reg& s = sum[decltype(r)::value][decltype(c)::value];
          s = V::fma(w[decltype(r)::value], y, s);
        });
      });
    };
    const std::byte* p = v.data;
    for (std::int64_t j = 0; j < keys; ++j, p += v.row) {
      if constexpr (Partial == 0)
        add(p, weights + j, [](const std::byte* at) __attribute__((always_inline)) { return Store::load(at); });
      else
        add(p, weights + j, [last](const std::byte* at) { return Store::load_partial(at, last); });
    }
    each([](Reg& s, T* out) __attribute__((always_inline)) { V::store(out, V::add(V::load(out), s)); });
  }
};

}  // namespace
}  // namespace transfuse
