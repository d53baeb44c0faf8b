// Packing: the lanes of an operand, side by side, in the order in which the micro-kernel reads them, and converted to
// what it computes with.
#pragma once

#include "core/constants.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/table.hpp"
#include "simd/element.hpp"
#include "simd/stored.hpp"
#include "simd/transpose.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

constexpr std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
constexpr std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
constexpr int smaller(std::int64_t a, std::int64_t b) { return static_cast<int>(a < b ? a : b); }

/// Steps of depth, and bytes along it, that packing asks for ahead.
constexpr std::int64_t kPackAhead = 16;
constexpr std::int64_t kPackAheadBytes = 256;

/// One panel of up to Width lanes, of elements of type S.
template <class V, int Width, class S>
struct Panel {
  using T = typename V::T;
  using Reg = typename V::Reg;
  using Source = Stored<V, S>;
  static constexpr std::int64_t size = sizeof(T);
  static constexpr std::int64_t row = Width * size;  // bytes of the panel per step of depth
  static constexpr int vectors = (Width + V::width - 1) / V::width;

  const std::byte* source;
  std::int64_t lane_stride, depth_stride, depth;
  int lanes;
  std::byte* packed;

  void pack() const {
    if (lane_stride == Source::size) {
      copy_rows();
    } else if (depth_stride == Source::size && V::width > 1) {
      transpose_blocks();
    } else {
      copy_elements(0, depth);
    }
  }

 private:
  // Lanes are adjacent: each step of depth is copied as it stands.
  void copy_rows() const {
    for (std::int64_t k = 0; k < depth; ++k) {
      const std::byte* from = source + k * depth_stride;
      std::byte* to = packed + k * row;
      for (int lane = 0; lane < lanes; lane += V::width) {
        const int count = smaller(lanes - lane, V::width);
        V::store_partial(to + lane * size, Source::load_first(from + lane * Source::size, count), count);
      }
    }
  }

  // Depth is adjacent: square blocks are turned in registers. A small rest is not worth a whole block.
  void transpose_blocks() const {
    std::int64_t k = 0;
    for (; k + V::width <= depth; k += V::width)
      transpose_block(k, V::width, [](const std::byte* p) { return Source::load(p); });
    const int rest = static_cast<int>(depth - k);
    if (rest * lanes <= 4 * V::width) {
      copy_elements(k, depth);
    } else {
      transpose_block(k, rest, [rest](const std::byte* p) { return Source::load_partial(p, rest); });
    }
  }

  template <class Load>
  void transpose_block(std::int64_t k, int steps, Load&& load) const {
    unroll<vectors>([&](auto i) {
      constexpr int first = decltype(i)::value * V::width;
      if (first >= lanes) return;
      Reg block[V::width];
      unroll<V::width>([&](auto j) {
        constexpr int lane = first + decltype(j)::value;
        const bool present = lane < Width && lane < lanes;
        const std::byte* const from = source + lane * lane_stride + k * Source::size;
        if (present) prefetch_far(from + kPackAheadBytes);
        block[decltype(j)::value] = present ? load(from) : V::zero();
      });
      transpose<V>(block);
      unroll<V::width>([&](auto j) {
        constexpr int step = decltype(j)::value;
        if (step < steps)
          V::store_partial(packed + (k + step) * row + first * size, block[step], smaller(Width - first, V::width));
      });
    });
  }

  void copy_elements(std::int64_t first, std::int64_t last) const {
    for (std::int64_t k = first; k < last; ++k) {
      const std::byte* from = source + k * depth_stride;
      std::byte* to = packed + k * row;
      for (int lane = 0; lane < lanes; ++lane)
        store_element<T>(to + lane * size, widen(load_element<S>(from + lane * lane_stride)));
    }
  }
};

/// Panels of adjacent lanes are copied side by side, so that each step of depth reads a longer piece of memory.
template <class V, int Width, class S>
void copy_panels(const PackArguments& a, std::int64_t lane) {
  using P = Panel<V, Width, S>;
  using Source = Stored<V, S>;
  constexpr int panels = kPackPanels;
  const std::int64_t panel_bytes = P::row * a.depth;
  const std::byte* from = a.source + lane * Source::size;
  std::byte* to = a.packed + lane * a.depth * P::size;
  const auto copy = [&](auto store_last) __attribute__((always_inline)) {
    for (int line = 0; line < panels * Width * Source::size; line += kCacheLine)
      prefetch_far(from + kPackAhead * a.depth_stride + line);
    unroll<panels>([&](auto panel) __attribute__((always_inline)) {
      unroll<P::vectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int first = decltype(i)::value * V::width;
        constexpr int count = smaller(Width - first, V::width);
        const std::byte* const at = from + (decltype(panel)::value * Width + first) * Source::size;
        std::byte* const there = to + decltype(panel)::value * panel_bytes + first * P::size;
        if constexpr (count == V::width)
          V::store(there, Source::load(at));
        else
          store_last(there, Source::load_partial(at, count), count);
      });
    });
    from += a.depth_stride;
    to += P::row;
  };
  // What a whole vector writes too much, the next step writes again.
  for (std::int64_t k = 0; k + 1 < a.depth; ++k)
    copy([](std::byte* p, auto v, int) __attribute__((always_inline)) { V::store(p, v); });
  copy([](std::byte* p, auto v, int count) __attribute__((always_inline)) { V::store_partial(p, v, count); });
}

template <class V, int Width, class S = typename V::T>
void pack(const PackArguments& a) {
  using P = Panel<V, Width, S>;
  std::int64_t lane = 0;
  if (a.lane_stride == P::Source::size && a.depth > 0)
    for (; lane + kPackPanels * Width <= a.lanes; lane += kPackPanels * Width) copy_panels<V, Width, S>(a, lane);
  for (; lane < a.lanes; lane += Width) {
    P{.source = a.source + lane * a.lane_stride,
      .lane_stride = a.lane_stride,
      .depth_stride = a.depth_stride,
      .depth = a.depth,
      .lanes = smaller(a.lanes - lane, Width),
      .packed = a.packed + lane * a.depth * P::size}
        .pack();
  }
}

}  // namespace
}  // namespace transfuse
