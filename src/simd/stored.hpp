// Vectors of elements that are stored in another type than they are computed in.
#pragma once

#include "simd/element.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Elements of type S in memory, of V's type in registers.
template <class V, class S>
struct Stored {
  using T = typename V::T;
  using Reg = typename V::Reg;
  static constexpr std::int64_t size = sizeof(S);
  static constexpr bool same = std::is_same_v<S, T>;

  static Reg load(const void* p) {
    if constexpr (same)
      return V::load(p);
    else
      return V::load_as(S{}, p);
  }

  static Reg load_partial(const void* p, int count) {
    if constexpr (same) {
      return V::load_partial(p, count);
    } else if constexpr (V::width == 1) {
      return count > 0 ? load(p) : V::zero();
    } else {
      S copy[V::width] = {};
      std::memcpy(copy, p, static_cast<std::size_t>(count) * sizeof(S));
      return load(copy);
    }
  }

  /// The first `count` elements.
  static Reg load_first(const void* p, int count) { return count >= V::width ? load(p) : load_partial(p, count); }

  /// Elements `stride` bytes apart.
  static Reg gather(const std::byte* p, std::int64_t stride, int count) {
    alignas(64) T lanes[V::width] = {};
    for (int i = 0; i < count && i < V::width; ++i) lanes[i] = widen(load_element<S>(p + i * stride));
    return V::load(lanes);
  }

  static void scatter(std::byte* p, std::int64_t stride, Reg v, int count) {
    alignas(64) T lanes[V::width];
    V::store(lanes, v);
    for (int i = 0; i < count; ++i) store_element<S>(p + i * stride, narrow<S>(lanes[i]));
  }

  static void store(void* p, Reg v) {
    if constexpr (same)
      V::store(p, v);
    else
      V::store_as(S{}, p, v);
  }

  static void store_partial(void* p, Reg v, int count) {
    if constexpr (same) {
      V::store_partial(p, v, count);
    } else {
      S copy[V::width];
      V::store_as(S{}, copy, v);
      std::memcpy(p, copy, static_cast<std::size_t>(count) * sizeof(S));
    }
  }
};

}  // namespace
}  // namespace transfuse
