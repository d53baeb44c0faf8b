// Loops whose counter is a compile-time constant, so that an array of vectors stays in registers.
#pragma once

#include <utility>

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <int I>
struct Index {
  static constexpr int value = I;
};

template <class Body, int... I>
[[gnu::always_inline]] inline void unroll(Body&& body, std::integer_sequence<int, I...>) {
  (body(Index<I>{}), ...);
}

/// body(Index<0>{}), ..., body(Index<Count - 1>{})
template <int Count, class Body>
[[gnu::always_inline]] inline void unroll(Body&& body) {
  unroll(body, std::make_integer_sequence<int, Count>{});
}

}  // namespace
}  // namespace transfuse
