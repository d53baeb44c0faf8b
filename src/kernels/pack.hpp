// Packing: the lanes of an operand, side by side, in the order in which the micro-kernel reads them.
#pragma once

#include "kernels/table.hpp"
#include "simd/element.hpp"
#include "simd/transpose.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

constexpr int smaller(std::int64_t a, std::int64_t b) { return static_cast<int>(a < b ? a : b); }

/// One panel of up to Width lanes.
template <class V, int Width>
struct Panel {
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(typename V::T);
  static constexpr std::int64_t row = Width * size;  // bytes of the panel per step of depth
  static constexpr int vectors = (Width + V::width - 1) / V::width;

  const std::byte* source;
  std::int64_t lane_stride, depth_stride, depth;
  int lanes;
  std::byte* packed;

  void pack() const {
    if (lane_stride == size) {
      copy_rows();
    } else if (depth_stride == size && V::width > 1) {
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
      if (lanes == Width) {
        unroll<vectors>([&](auto i) {
          constexpr int lane = decltype(i)::value * V::width;
          copy<smaller(Width - lane, V::width)>(from + lane * size, to + lane * size);
        });
      } else {
        for (int lane = 0; lane < lanes; lane += V::width) {
          const int count = smaller(lanes - lane, V::width);
          V::store_partial(to + lane * size, V::load_partial(from + lane * size, count), count);
        }
      }
    }
  }

  template <int Count>
  static void copy(const std::byte* from, std::byte* to) {
    if constexpr (Count == V::width)
      V::store(to, V::load(from));
    else
      V::store_partial(to, V::load_partial(from, Count), Count);
  }

  // Depth is adjacent: square blocks are turned in registers. A small rest is not worth a whole block.
  void transpose_blocks() const {
    std::int64_t k = 0;
    for (; k + V::width <= depth; k += V::width)
      transpose_block(k, V::width, [](const std::byte* p) { return V::load(p); });
    const int rest = static_cast<int>(depth - k);
    if (rest * lanes <= 4 * V::width) {
      copy_elements(k, depth);
    } else {
      transpose_block(k, rest, [rest](const std::byte* p) { return V::load_partial(p, rest); });
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
        block[decltype(j)::value] = present ? load(source + lane * lane_stride + k * size) : V::zero();
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
    using T = typename V::T;
    for (std::int64_t k = first; k < last; ++k) {
      const std::byte* from = source + k * depth_stride;
      std::byte* to = packed + k * row;
      for (int lane = 0; lane < lanes; ++lane)
        store_element<T>(to + lane * size, load_element<T>(from + lane * lane_stride));
    }
  }
};

template <class V, int Width>
void pack(const PackArguments& a) {
  for (std::int64_t lane = 0; lane < a.lanes; lane += Width) {
    Panel<V, Width>{.source = a.source + lane * a.lane_stride,
                    .lane_stride = a.lane_stride,
                    .depth_stride = a.depth_stride,
                    .depth = a.depth,
                    .lanes = smaller(a.lanes - lane, Width),
                    .packed = a.packed + lane * a.depth * static_cast<std::int64_t>(sizeof(typename V::T))}
        .pack();
  }
}

}  // namespace
}  // namespace transfuse
