// Products with few rows or with a depth of 1. Memory limits them: nothing is packed, and each operand is read once.
#pragma once

#include "kernels/activation.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/table.hpp"
#include "simd/element.hpp"
#include "simd/reduce.hpp"
#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <class V>
struct Thin {
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t vector = sizeof(Reg);

  // Depth 1.

  // A piece of the output that the activation finds in L1.
  static constexpr std::int64_t kOuterCols = 2048;
  static constexpr std::int64_t kOuterRows = 32;

  /// out[r, c] = finish(left[r] · right[c])
  static void outer(const ThinProduct& p) {
    // No whole element starts at an aligned address if one starts at no multiple of its size.
    const auto out = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p.out));
    if (p.stream && out % size == 0 && p.out_row % size == 0) {
      for (std::int64_t r = 0; r < p.rows; ++r) stream_row(p, r);
      return;
    }
    switch ((p.cols + V::width - 1) / V::width) {
      case 1: return outer_short<1>(p);
      case 2: return outer_short<2>(p);
      case 3: return outer_short<3>(p);
      case 4: return outer_short<4>(p);
      default: break;
    }
    std::int64_t r = 0;
    for (; r + 4 <= p.rows; r += 4) outer_rows<4>(p, r);
    for (; r < p.rows; ++r) outer_rows<1>(p, r);
  }

  /// Rows of so few vectors that the right operand stays in registers.
  template <int Vecs>
  static void outer_short(const ThinProduct& p) {
    const int last = static_cast<int>(p.cols - (Vecs - 1) * V::width);  // columns in the last vector
    const auto load = [&](const std::byte* from, Reg(&to)[Vecs]) __attribute__((always_inline)) {
      unroll<Vecs>([&](auto i) __attribute__((always_inline)) {
        constexpr int c = decltype(i)::value;
        to[c] = c < Vecs - 1 ? V::load(from + c * vector) : V::load_partial(from + c * vector, last);
      });
    };
    Reg y[Vecs];
    load(p.right, y);
    Reg term[Vecs];
    unroll<Vecs>([&](auto i) __attribute__((always_inline)) { term[decltype(i)::value] = V::zero(); });
    if (p.bias != nullptr && p.bias_col != 0) load(p.bias, term);
    const bool row_bias = p.bias != nullptr && p.bias_col == 0;
    const auto compute = [&](std::int64_t r, auto store_last) __attribute__((always_inline)) {
      const Reg x = V::broadcast(p.left + r * p.left_row);
      const Reg own = row_bias ? V::broadcast(p.bias + r * p.bias_row) : V::zero();
      std::byte* const out = p.out + r * p.out_row;
      unroll<Vecs>([&](auto i) __attribute__((always_inline)) {
        constexpr int c = decltype(i)::value;
        const Reg v = V::add(V::fma(x, y[c], V::zero()), V::add(own, term[c]));
        if constexpr (c < Vecs - 1)
          V::store(out + c * vector, v);
        else
          store_last(out + c * vector, v);
      });
    };
    for (std::int64_t first = 0; first < p.rows; first += kOuterRows) {
      const std::int64_t end = first + kOuterRows < p.rows ? first + kOuterRows : p.rows;
      if (last == V::width) {
        for (std::int64_t r = first; r < end; ++r)
          compute(r, [](std::byte* to, Reg v) __attribute__((always_inline)) { V::store(to, v); });
      } else {
        for (std::int64_t r = first; r < end; ++r)
          compute(r, [last](std::byte* to, Reg v) __attribute__((always_inline)) { V::store_partial(to, v, last); });
      }
      if (p.activation != Activation::none)
        activate<V>(p.activation, {p.out + first * p.out_row, p.out_row, end - first, p.cols});
    }
  }

  template <int Rows>
  static void outer_rows(const ThinProduct& p, std::int64_t row) {
    for (std::int64_t c = 0; c < p.cols; c += kOuterCols) {
      const std::int64_t cols = c + kOuterCols < p.cols ? kOuterCols : p.cols - c;
      outer_piece<Rows>(p, row, c, cols);
      if (p.activation != Activation::none)
        activate<V>(p.activation, {p.out + row * p.out_row + c * size, p.out_row, Rows, cols});
    }
  }

  template <int Rows>
  static void outer_piece(const ThinProduct& p, std::int64_t row, std::int64_t col, std::int64_t cols) {
    Reg x[Rows];
    Reg bias[Rows];
    unroll<Rows>([&](auto i) {
      constexpr int r = decltype(i)::value;
      x[r] = V::broadcast(p.left + (row + r) * p.left_row);
      bias[r] = p.bias != nullptr && p.bias_col == 0 ? V::broadcast(p.bias + (row + r) * p.bias_row) : V::zero();
    });
    const std::byte* const right = p.right + col * size;
    const std::byte* const col_bias = p.bias != nullptr && p.bias_col != 0 ? p.bias + col * size : nullptr;
    std::byte* const out = p.out + row * p.out_row + col * size;
    const auto compute = [&](std::int64_t at, auto load, auto store) __attribute__((always_inline)) {
      const Reg y = load(right + at);
      const Reg term = col_bias != nullptr ? load(col_bias + at) : V::zero();
      unroll<Rows>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = decltype(i)::value;
        store(out + r * p.out_row + at, V::add(V::fma(x[r], y, V::zero()), V::add(bias[r], term)));
      });
    };
    const auto compute_vector = [&](std::int64_t c) {
      compute(
          c * size, [](const std::byte* from) { return V::load(from); }, [](std::byte* to, Reg v) { V::store(to, v); });
    };
    if (cols < V::width) {
      const int count = static_cast<int>(cols);
      return compute(
          0, [count](const std::byte* from) { return V::load_partial(from, count); },
          [count](std::byte* to, Reg v) { V::store_partial(to, v, count); });
    }
    // The vectors at both ends overlap their neighbours.
    std::int64_t c = columns_to_alignment(out, p.out_row);
    if (c > 0) compute_vector(0);
    for (; c + V::width <= cols; c += V::width) compute_vector(c);
    if (c < cols) compute_vector(cols - V::width);
  }

  /// Columns before the first whose address is a multiple of a vector's size, if it is the same one in every row: a
  /// store that touches two cache lines costs as much as two.
  static std::int64_t columns_to_alignment(const std::byte* out, std::int64_t row) {
    const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(out) % vector);
    return beyond % size == 0 && row % vector == 0 ? (vector - beyond) % vector / size : 0;
  }

  /// A row of at least two vectors, without bias or activation, past the caches: whole vectors from the first aligned
  /// address on; those at both ends go through the caches.
  static void stream_row(const ThinProduct& p, std::int64_t row) {
    const Reg x = V::broadcast(p.left + row * p.left_row);
    std::byte* const out = p.out + row * p.out_row;
    const std::int64_t bytes = p.cols * size;
    const auto value = [&](std::int64_t at)
                           __attribute__((always_inline)) { return V::fma(x, V::load(p.right + at), V::zero()); };
    V::store(out, value(0));
    std::int64_t at = -static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(out) % vector) + vector;
    for (; at + vector <= bytes; at += vector) V::stream(out + at, value(at));
    V::store(out + bytes - vector, value(bytes - vector));
  }

  // Few rows, the right operand's columns adjacent.

  // Sums stay in L1 while rows of the right operand stream by, several at a time: so many terms are summed by
  // themselves, their sum is added to that of kSweepDepth terms, and that to the total.
  static constexpr std::int64_t kSweepBytes = 16384;  // of the sums
  static constexpr std::int64_t kSweepDepth = 128;
  static constexpr int kSteps = kIsa == Isa::avx512 ? 8 : 4;  // rows of the right operand that are read together

  struct Sums {
    alignas(kCacheLine) std::byte part[kSweepBytes];
    alignas(kCacheLine) std::byte total[kSweepBytes];
  };

  static void sweep(const ThinProduct& p) {
    Sums sums;
    const std::int64_t most = kSweepBytes / (p.rows * vector) * V::width;
    for (std::int64_t c = 0; c < p.cols; c += most) {
      const std::int64_t cols = c + most < p.cols ? most : p.cols - c;
      const std::int64_t row_bytes = (cols + V::width - 1) / V::width * vector;
      sum_columns(p, c, cols, row_bytes, sums);
      finish(p, c, cols, sums.total, row_bytes);
    }
  }

  static void sum_columns(const ThinProduct& p, std::int64_t col, std::int64_t cols, std::int64_t row_bytes,
                          Sums& sums) {
    for (std::int64_t first = 0; first < p.depth; first += kSweepDepth) {
      const std::int64_t last = first + kSweepDepth < p.depth ? first + kSweepDepth : p.depth;
      std::byte* const part = first == 0 ? sums.total : sums.part;
      sum_depth(p, col, cols, first, last, part, row_bytes);
      if (first > 0)
        for (std::int64_t at = 0; at < p.rows * row_bytes; at += vector)
          V::store(sums.total + at, V::add(V::load(sums.total + at), V::load(part + at)));
    }
  }

  static void sum_depth(const ThinProduct& p, std::int64_t col, std::int64_t cols, std::int64_t first,
                        std::int64_t last, std::byte* sums, std::int64_t row_bytes) {
    std::int64_t k = first;
    while (k < last) {
      const auto pass = [&](auto depth) {
        constexpr int steps = decltype(depth)::value;
        for (std::int64_t r = 0; r < p.rows; r += 4) {
          const auto group = [&](auto rows) {
            step<decltype(rows)::value, steps>(p, r, col, cols, k, k == first, sums + r * row_bytes, row_bytes);
          };
          switch (p.rows - r) {
            case 1: group(Index<1>{}); break;
            case 2: group(Index<2>{}); break;
            case 3: group(Index<3>{}); break;
            default: group(Index<4>{});
          }
        }
        k += steps;
      };
      if (last - k >= kSteps)
        pass(Index<kSteps>{});
      else
        pass(Index<1>{});
    }
  }

  /// sums[r, c] (+)= sum over Depth steps from k on, for Rows rows from `row` on.
  template <int Rows, int Depth>
  static void step(const ThinProduct& p, std::int64_t row, std::int64_t col, std::int64_t cols, std::int64_t k,
                   bool start, std::byte* sums, std::int64_t row_bytes) {
    Reg x[Rows][Depth];
    unroll<Rows>([&](auto r) __attribute__((always_inline)) {
      unroll<Depth>([&](auto d) __attribute__((always_inline)) {
        x[decltype(r)::value][decltype(d)::value] =
            V::broadcast(p.left + (row + decltype(r)::value) * p.left_row + (k + decltype(d)::value) * p.left_depth);
      });
    });
    const std::byte* const right = p.right + col * size + k * p.right_depth;
    const auto compute = [&](std::int64_t at, auto load) __attribute__((always_inline)) {
      Reg s[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) { s[decltype(r)::value] = V::zero(); });
      unroll<Depth>([&](auto d) __attribute__((always_inline)) {
        const std::byte* const from = right + decltype(d)::value * p.right_depth + at;
        if (p.far && at % kCacheLine == 0) prefetch_far(from + kSteps * p.right_depth);
        const Reg y = load(from);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          s[decltype(r)::value] = V::fma(x[decltype(r)::value][decltype(d)::value], y, s[decltype(r)::value]);
        });
      });
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        std::byte* const sum = sums + decltype(r)::value * row_bytes + at;
        V::store(sum, start ? s[decltype(r)::value] : V::add(V::load(sum), s[decltype(r)::value]));
      });
    };
    const std::int64_t whole = cols / V::width * vector;
    for (std::int64_t at = 0; at < whole; at += vector)
      compute(at, [](const std::byte* from) { return V::load(from); });
    if (cols % V::width != 0)
      compute(whole, [rest = static_cast<int>(cols % V::width)](const std::byte* from) {
        return V::load_partial(from, rest);
      });
  }

  // Few rows, depth adjacent in both operands.

  static constexpr std::int64_t kDotCols = 64;  // columns whose sums are finished together
  static constexpr int kRun = 64;               // vectors of terms that are summed one after another

  static void dots(const ThinProduct& p) {
    constexpr bool many = kIsa == Isa::avx512;  // registers
    alignas(kCacheLine) std::byte sums[4 * kDotCols * size];
    for (std::int64_t c = 0; c < p.cols; c += kDotCols) {
      const std::int64_t cols = c + kDotCols < p.cols ? kDotCols : p.cols - c;
      for (std::int64_t i = 0; i < cols;) {
        const auto tile = [&](auto rows, auto count) {
          dot_tile<decltype(rows)::value, decltype(count)::value>(p, c + i, sums + i * size);
          i += decltype(count)::value;
        };
        const auto some = [&](auto rows, auto count) {
          if (cols - i >= decltype(count)::value)
            tile(rows, count);
          else
            tile(rows, Index<1>{});
        };
        switch (p.rows) {
          case 1: some(Index<1>{}, Index<4>{}); break;
          case 2: some(Index<2>{}, Index<many ? 4 : 2>{}); break;
          case 3: some(Index<3>{}, Index<many ? 2 : 1>{}); break;
          default: some(Index<4>{}, Index<many ? 2 : 1>{}); break;
        }
      }
      finish(p, c, cols, sums, kDotCols * size);
    }
  }

  /// sums[r, c] = sum_k left[r, k] · right[k, col + c] for r < Rows, c < Cols; rows of `sums` are kDotCols apart.
  template <int Rows, int Cols>
  static void dot_tile(const ThinProduct& p, std::int64_t col, std::byte* sums) {
    constexpr int ahead = 2;  // sums of even and of odd vectors, whatever the tile, so that it does not affect rounding
    constexpr int count = Rows * Cols * ahead;
    const std::byte* const right = p.right + col * p.right_col;
    Reg sum[count];
    Reg total[count];
    const auto each = [&](auto&& visit) __attribute__((always_inline)) {
      unroll<Rows * Cols>([&](auto i) __attribute__((always_inline)) {
        visit(Index<decltype(i)::value / Cols>{}, Index<decltype(i)::value % Cols>{});
      });
    };
    const auto add = [&](std::int64_t at, auto load, auto lane) __attribute__((always_inline)) {
      Reg x[Rows];
      unroll<Rows>([&](auto r) __attribute__((always_inline)) {
        x[decltype(r)::value] = load(p.left + decltype(r)::value * p.left_row + at);
      });
      unroll<Cols>([&](auto c) __attribute__((always_inline)) {
        const Reg y = load(right + decltype(c)::value * p.right_col + at);
        unroll<Rows>([&](auto r) __attribute__((always_inline)) {
          Reg& s = sum[(decltype(r)::value * Cols + decltype(c)::value) * ahead + decltype(lane)::value];
          s = V::fma(x[decltype(r)::value], y, s);
        });
      });
    };
    unroll<count>([&](auto i) __attribute__((always_inline)) { total[decltype(i)::value] = V::zero(); });
    const std::int64_t bytes = p.depth * size;
    const std::int64_t whole = p.depth / V::width * vector;
    for (std::int64_t at = 0; at < bytes;) {
      unroll<count>([&](auto i) __attribute__((always_inline)) { sum[decltype(i)::value] = V::zero(); });
      const auto load = [](const std::byte* from) { return V::load(from); };
      const std::int64_t last = at + kRun * vector < whole ? at + kRun * vector : whole;
      for (; at + ahead * vector <= last; at += ahead * vector)
        unroll<ahead>([&](auto lane)
                          __attribute__((always_inline)) { add(at + decltype(lane)::value * vector, load, lane); });
      for (; at < last; at += vector) add(at, load, Index<0>{});
      if (at == whole && at < bytes) {
        const int rest = static_cast<int>(p.depth % V::width);
        add(at, [rest](const std::byte* from) { return V::load_partial(from, rest); }, Index<0>{});
        at = bytes;
      }
      unroll<count>([&](auto i) __attribute__((always_inline)) {
        total[decltype(i)::value] = V::add(total[decltype(i)::value], sum[decltype(i)::value]);
      });
    }
    each([&](auto r, auto c) __attribute__((always_inline)) {
      constexpr int first = (decltype(r)::value * Cols + decltype(c)::value) * ahead;
      const Reg all = V::add(total[first], total[first + 1]);
      store_element<T>(sums + (decltype(r)::value * kDotCols + decltype(c)::value) * size, reduce_add<V>(all));
    });
  }

  /// Adds the bias to sums (rows `row_bytes` apart, whole vectors), activates them, and writes them from column `col`
  /// on.
  static void finish(const ThinProduct& p, std::int64_t col, std::int64_t cols, std::byte* sums,
                     std::int64_t row_bytes) {
    if (p.bias != nullptr)
      for (std::int64_t r = 0; r < p.rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) {
          std::byte* const at = sums + r * row_bytes + c * size;
          store_element<T>(at, load_element<T>(at) + load_element<T>(p.bias + r * p.bias_row + (col + c) * p.bias_col));
        }
    if (p.activation != Activation::none) activate<V>(p.activation, {sums, row_bytes, p.rows, cols});
    std::byte* const out = p.out + col * p.out_col;
    for (std::int64_t c = 0; c < cols; ++c)
      for (std::int64_t r = 0; r < p.rows; ++r)
        store_element<T>(out + r * p.out_row + c * p.out_col, load_element<T>(sums + r * row_bytes + c * size));
  }
};

}  // namespace
}  // namespace transfuse
