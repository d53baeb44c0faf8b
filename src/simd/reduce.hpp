// Sums and maxima of a vector's elements, in pairs.
#pragma once

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

}  // namespace
}  // namespace transfuse
