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
        unroll<Width / V::width>([&](auto i) {
          constexpr int offset = decltype(i)::value * V::width * size;
          V::store(to + offset, V::load(from + offset));
        });
        copy_partial(from, to, Width / V::width * V::width, Width);
      } else {
        for (int lane = 0; lane < Width; lane += V::width) copy_partial(from, to, lane, lanes);
      }
    }
  }

  // Up to a vector of lanes from `lane` on; lanes from `end` on become zero.
  static void copy_partial(const std::byte* from, std::byte* to, int lane, int end) {
    if (lane >= Width) return;
    const int present = end > lane ? smaller(end - lane, V::width) : 0;
    const Reg values = present > 0 ? V::load_partial(from + lane * size, present) : V::zero();
    V::store_partial(to + lane * size, values, smaller(Width - lane, V::width));
  }

  // Depth is adjacent: square blocks are turned in registers.
  void transpose_blocks() const {
    std::int64_t k = 0;
    for (; k + V::width <= depth; k += V::width) {
      unroll<(Width + V::width - 1) / V::width>([&](auto i) {
        constexpr int first = decltype(i)::value * V::width;
        Reg block[V::width];
        unroll<V::width>([&](auto j) {
          constexpr int lane = first + decltype(j)::value;
          block[decltype(j)::value] =
              lane < Width && lane < lanes ? V::load(source + lane * lane_stride + k * size) : V::zero();
        });
        transpose<V>(block);
        unroll<V::width>([&](auto j) {
          V::store_partial(packed + (k + decltype(j)::value) * row + first * size, block[decltype(j)::value],
                           smaller(Width - first, V::width));
        });
      });
    }
    copy_elements(k, depth);
  }

  void copy_elements(std::int64_t first, std::int64_t last) const {
    using T = typename V::T;
    for (std::int64_t k = first; k < last; ++k) {
      for (int lane = 0; lane < Width; ++lane) {
        const T value = lane < lanes ? load_element<T>(source + lane * lane_stride + k * depth_stride) : 0;
        store_element<T>(packed + k * row + lane * size, value);
      }
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
