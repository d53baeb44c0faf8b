// Sums and maxima of a vector's elements, in pairs.
#pragma once

#include <cstring>

#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <class Reg, int Step, int... I>
[[gnu::always_inline]] inline Reg exchange_halves(Reg v, std::integer_sequence<int, Step>,
                                                  std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ Step)...);
}

/// combine(... combine(v[0], v[1]) ...) in every element, by halves.
template <class V, int Step = V::width / 2, class Combine>
[[gnu::always_inline]] inline typename V::Reg reduce(typename V::Reg v, Combine&& combine) {
  if constexpr (Step == 0) {
    return v;
  } else {
    const auto other =
        exchange_halves(v, std::integer_sequence<int, Step>{}, std::make_integer_sequence<int, V::width>{});
    return reduce<V, Step / 2>(combine(v, other), combine);
  }
}

template <class V>
typename V::T first_element(typename V::Reg v) {
  if constexpr (V::width == 1)
    return v;
  else
    return v[0];
}

/// The largest element; NaN only if all are.
template <class V>
typename V::T reduce_max(typename V::Reg v) {
  return first_element<V>(reduce<V>(v, [](auto a, auto b) { return V::max(a, b); }));
}

template <class V>
typename V::T reduce_add(typename V::Reg v) {
  return first_element<V>(reduce<V>(v, [](auto a, auto b) { return V::add(a, b); }));
}

/// Lanes 0 ... Count - 1 and the ones after them, added, until Least lanes are left.
template <int Count, int Least, class Reg>
[[gnu::always_inline]] inline auto fold(Reg v) {
  if constexpr (Count == Least) {
    return v;
  } else {
    return [&]<int... I>(std::integer_sequence<int, I...>) {
      return fold<Count / 2, Least>(__builtin_shufflevector(v, v, I...) +
                                    __builtin_shufflevector(v, v, (I + Count / 2)...));
    }(std::make_integer_sequence<int, Count / 2>{});
  }
}

/// out[r * row + c] = the sum of the elements of v[r * Cols + c], added to what is there where `more`; in the same
/// order for each of them.
template <class V, int Cols>
[[gnu::always_inline]] inline void store_sums(typename V::T* out, std::int64_t row, const typename V::Reg (&v)[4],
                                              bool more) {
  using T = typename V::T;
  constexpr int width = V::width;
  // The sums of v[first], v[first + 1], ...
  const auto put = [&](const auto& sums, int first) __attribute__((always_inline)) {
    for (int i = 0; i < static_cast<int>(sizeof sums / sizeof(T)); ++i) {
      T& to = out[(first + i) / Cols * row + (first + i) % Cols];
      to = more ? to + sums[i] : sums[i];
    }
  };
  if constexpr (width == 1) {
    put(v, 0);
  } else {
    // Neighbours of two vectors are interleaved and added, within 128 bits, which costs the least.
    constexpr int lanes = 16 / sizeof(T);
    const auto pair = [](auto a, auto b) __attribute__((always_inline)) {
      return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        return __builtin_shufflevector(a, b, (I / lanes * lanes + I % lanes / 2 + I % 2 * width)...) +
               __builtin_shufflevector(a, b, (I / lanes * lanes + I % lanes / 2 + lanes / 2 + I % 2 * width)...);
      }(std::make_integer_sequence<int, width>{});
    };
    const auto first = pair(v[0], v[1]);
    const auto second = pair(v[2], v[3]);
    if constexpr (lanes == 2) {
      put(fold<width, 2>(first), 0);
      put(fold<width, 2>(second), 2);
    } else {
      const auto all = [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        return __builtin_shufflevector(first, second, (I / 4 * 4 + I % 2 + (I % 4 < 2 ? 0 : width))...) +
               __builtin_shufflevector(first, second, (I / 4 * 4 + I % 2 + 2 + (I % 4 < 2 ? 0 : width))...);
      }(std::make_integer_sequence<int, width>{});
      put(fold<width, 4>(all), 0);
    }
  }
}

}  // namespace
}  // namespace transfuse
