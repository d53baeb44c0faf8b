// Transposition of a square block held in registers.
#pragma once

#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

// One exchange of the butterfly: bit `Step` of the column index changes places with that of the row index.
template <int Step, class Reg, int... I>
[[gnu::always_inline]] inline void exchange(Reg& upper, Reg& lower, std::integer_sequence<int, I...>) {
  constexpr int width = sizeof...(I);
  const Reg a = upper;
  const Reg b = lower;
  upper = __builtin_shufflevector(a, b, ((I & Step) == 0 ? I : width + I - Step)...);
  lower = __builtin_shufflevector(a, b, ((I & Step) == 0 ? I + Step : width + I)...);
}

template <class V, int Step>
[[gnu::always_inline]] inline void transpose_from(typename V::Reg (&rows)[V::width]) {
  if constexpr (Step < V::width) {
    unroll<V::width>([&](auto i) __attribute__((always_inline)) {
      constexpr int row = decltype(i)::value;
      if constexpr ((row & Step) == 0)
        exchange<Step>(rows[row], rows[row + Step], std::make_integer_sequence<int, V::width>{});
    });
    transpose_from<V, Step * 2>(rows);
  }
}

/// rows[i][j] becomes rows[j][i].
template <class V>
[[gnu::always_inline]] inline void transpose(typename V::Reg (&rows)[V::width]) {
  transpose_from<V, 1>(rows);
}

}  // namespace
}  // namespace transfuse
