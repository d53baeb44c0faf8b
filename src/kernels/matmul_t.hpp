// The blocked product: a micro-kernel that holds a tile of the output in registers, and the two loops around it.
#pragma once

#include "core/constants.hpp"
#include "kernels/activation.hpp"
#include "kernels/pack.hpp"
#include "kernels/table.hpp"
#include "kernels/thin.hpp"
#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Arguments of the micro-kernel, the addresses already those of its tile.
struct Tile {
  const std::byte* left;
  std::int64_t left_depth;
  const std::byte* right;
  std::int64_t right_depth;
  std::int64_t depth;
  std::int64_t run_length;
  std::byte* out;
  std::int64_t out_row;  // columns are adjacent
  int last_cols;         // columns in the last vector, when it is partial
  bool accumulate;
  const std::byte* row_bias;  // null: none
  std::int64_t row_bias_stride;
  const std::byte* col_bias;  // null: none; adjacent
};

constexpr std::int64_t kPrefetchDepth = 64;  // steps from which on the output is worth fetching ahead

/// out[r, c] = (accumulate ? out[r, c] : 0) + sum_k left[r, k]·right[k, c] (+ bias) for r < Rows and Vecs vectors of
/// columns, the last of which holds only `last_cols` columns if Partial. Rows of left are LeftRow bytes apart.
template <class V, std::int64_t LeftRow, int Rows, int Vecs, bool Partial>
void compute_tile(const Tile& t) {
  using Reg = typename V::Reg;
  constexpr std::int64_t vector = sizeof(Reg);

  Reg sum[Rows][Vecs];
  const auto each = [&](auto&& visit) __attribute__((always_inline)) {
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<Vecs>([&](auto c)
                       __attribute__((always_inline)) { visit(sum[decltype(r)::value][decltype(c)::value], r, c); });
    });
  };
  const auto load = [&](const std::byte* p, auto c) __attribute__((always_inline)) {
    constexpr int column = decltype(c)::value;
    if constexpr (Partial && column == Vecs - 1)
      return V::load_partial(p + column * vector, t.last_cols);
    else
      return V::load(p + column * vector);
  };

  const auto out = [&](auto r) __attribute__((always_inline)) { return t.out + decltype(r)::value * t.out_row; };
  if (t.depth >= kPrefetchDepth)
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<Vecs>([&](auto c)
                       __attribute__((always_inline)) { __builtin_prefetch(out(r) + decltype(c)::value * vector, 1); });
    });

  // Terms are summed in runs, and the runs' sums with each other: few terms meet a sum much larger than they are.
  alignas(kCacheLine) std::byte total[Rows][Vecs * vector];
  const auto total_of = [&](auto r, auto c) __attribute__((always_inline)) {
    return total[decltype(r)::value] + decltype(c)::value * vector;
  };
  const std::byte* left = t.left;
  const std::byte* right = t.right;
  for (std::int64_t first = 0;; first += t.run_length) {
    const std::int64_t last = first + t.run_length < t.depth ? first + t.run_length : t.depth;
    each([&](Reg& s, auto, auto) __attribute__((always_inline)) { s = V::zero(); });
    for (std::int64_t k = first; k < last; ++k, left += t.left_depth, right += t.right_depth) {
      Reg columns[Vecs];
      unroll<Vecs>([&](auto c) __attribute__((always_inline)) { columns[decltype(c)::value] = load(right, c); });
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        const Reg row = V::broadcast(left + decltype(r)::value * LeftRow);
        unroll<Vecs>([&](auto c) __attribute__((always_inline)) {
          Reg& s = sum[decltype(r)::value][decltype(c)::value];
          s = V::fma(row, columns[decltype(c)::value], s);
        });
      });
    }
    if (first > 0)
      each([&](Reg& s, auto r, auto c) __attribute__((always_inline)) { s = V::add(V::load(total_of(r, c)), s); });
    if (last == t.depth) break;
    each([&](Reg& s, auto r, auto c) __attribute__((always_inline)) { V::store(total_of(r, c), s); });
  }

  if (t.accumulate)
    each([&](Reg& s, auto r, auto c) __attribute__((always_inline)) { s = V::add(load(out(r), c), s); });
  if (t.row_bias != nullptr) {
    each([&](Reg& s, auto r, auto) __attribute__((always_inline)) {
      s = V::add(s, V::broadcast(t.row_bias + decltype(r)::value * t.row_bias_stride));
    });
  }
  if (t.col_bias != nullptr)
    each([&](Reg& s, auto, auto c) __attribute__((always_inline)) { s = V::add(s, load(t.col_bias, c)); });

  each([&](Reg& s, auto r, auto c) __attribute__((always_inline)) {
    constexpr int column = decltype(c)::value;
    std::byte* p = out(r) + column * vector;
    if constexpr (Partial && column == Vecs - 1)
      V::store_partial(p, s, t.last_cols);
    else
      V::store(p, s);
  });
}

/// The micro-kernels of one element type, one for each number of rows and vectors that an edge can leave. Rows of left
/// are side by side, as packing leaves them, or LeftRow bytes apart.
template <class V, std::int64_t LeftRow = sizeof(typename V::T)>
struct MatmulT {
  using T = typename V::T;
  static constexpr const MatmulTConstants& constants = matmul_t_constants(kIsa, dtype_of<T>);
  static constexpr int tile_rows = constants.tile_rows;
  static constexpr int tile_vectors = constants.tile_vectors;
  static constexpr int tile_cols = tile_vectors * V::width;
  static constexpr std::int64_t size = sizeof(T);
  static_assert(V::width == vector_width(kIsa, dtype_of<T>));

  using Micro = void (*)(const Tile&);

  template <int... I>
  struct Edges {
    static constexpr Micro whole[] = {compute_tile<V, LeftRow, I / tile_vectors + 1, I % tile_vectors + 1, false>...};
    static constexpr Micro partial[] = {compute_tile<V, LeftRow, I / tile_vectors + 1, I % tile_vectors + 1, true>...};
  };
  template <int... I>
  static Micro edge(int rows, int cols, std::integer_sequence<int, I...>) {
    const int index = (rows - 1) * tile_vectors + (cols - 1) / V::width;
    return cols % V::width == 0 ? Edges<I...>::whole[index] : Edges<I...>::partial[index];
  }

  /// Those of half a vector, by the number of rows.
  template <class Half, int... I>
  static Micro half_kernel(int rows, std::integer_sequence<int, I...>) {
    static constexpr Micro kernels[] = {compute_tile<Half, LeftRow, I + 1, 1, true>...};
    return kernels[rows - 1];
  }

  /// The micro-kernel for a tile of `rows` x `cols`.
  static Micro micro_kernel(int rows, int cols) {
    return edge(rows, cols, std::make_integer_sequence<int, tile_rows * tile_vectors>{});
  }

  // Columns outside, rows inside: a panel of the right operand stays in L1 while those of the left stream from L2.
  static void block(const MatmulTBlock& b) {
    for (std::int64_t c = 0; c < b.cols; c += tile_cols) {
      const int cols = smaller(b.cols - c, tile_cols);
      for (std::int64_t r = 0; r < b.rows; r += tile_rows) {
        const int rows = smaller(b.rows - r, tile_rows);
        const std::byte* bias = b.finish && b.bias != nullptr ? b.bias + r * b.bias_row + c * b.bias_col : nullptr;
        const Tile tile{.left = b.left.data + r / tile_rows * b.left.panel_stride,
                        .left_depth = b.left.depth_stride,
                        .right = b.right.data + c / tile_cols * b.right.panel_stride,
                        .right_depth = b.right.depth_stride,
                        .depth = b.depth,
                        .run_length = b.run_length,
                        .out = b.out + r * b.out_row + c * b.out_col,
                        .out_row = b.out_row,
                        .last_cols = (cols - 1) % V::width + 1,
                        .accumulate = b.accumulate,
                        .row_bias = b.bias_col == 0 ? bias : nullptr,
                        .row_bias_stride = b.bias_row,
                        .col_bias = b.bias_col != 0 ? bias : nullptr};
        const Activation activation = b.finish ? b.activation : Activation::none;
        if (b.out_col == size) {
          finish_tile(tile, rows, cols, activation);
        } else {
          scatter_tile(tile, b.out_col, rows, cols, activation);
        }
      }
    }
  }

 private:
  static void finish_tile(const Tile& tile, int rows, int cols, Activation activation) {
    if (rows == tile_rows && cols == tile_cols) {
      compute_tile<V, LeftRow, tile_rows, tile_vectors, false>(tile);
    } else {
      compute_edge(tile, rows, cols);
    }
    if (activation != Activation::none) activate<V>(activation, {tile.out, tile.out_row, rows, cols});
  }

  static void compute_edge(const Tile& tile, int rows, int cols) {
    if constexpr (requires { typename V::Half; }) {
      using Half = typename V::Half;
      const int rest = cols % V::width;
      if (rest > 0 && rest <= Half::width) {
        const int whole = cols - rest;
        if (whole > 0) micro_kernel(rows, whole)(tile);
        Tile last = tile;
        last.right += whole * size;
        last.out += whole * size;
        if (last.col_bias != nullptr) last.col_bias += whole * size;
        return half_kernel<Half>(rows, std::make_integer_sequence<int, tile_rows>{})(last);
      }
    }
    micro_kernel(rows, cols)(tile);
  }

  // Columns of the output are apart: the tile is computed in a buffer.
  [[gnu::noinline]] static void scatter_tile(Tile tile, std::int64_t out_col, int rows, int cols,
                                             Activation activation) {
    alignas(kCacheLine) T buffer[tile_rows][tile_cols];
    std::byte* const out = tile.out;
    const std::int64_t out_row = tile.out_row;
    const auto each = [&](auto&& visit) {
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) visit(out + r * out_row + c * out_col, buffer[r][c]);
    };
    if (tile.accumulate) each([](const std::byte* p, T& value) { value = load_element<T>(p); });
    tile.out = reinterpret_cast<std::byte*>(buffer);
    tile.out_row = sizeof buffer[0];
    finish_tile(tile, rows, cols, activation);
    each([](std::byte* p, const T& value) { store_element(p, value); });
  }
};

template <class V>
constexpr MatmulTKernels matmul_t_kernels = {pack<V, MatmulT<V>::tile_rows>,
                                             pack<V, MatmulT<V>::tile_cols>,
                                             MatmulT<V>::block,
                                             Thin<V>::outer,
                                             Thin<V>::sweep,
                                             Thin<V>::dots};

}  // namespace
}  // namespace transfuse
