// Activations, in place, on rows of the output that are still in cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/math.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// max(x, 0)
template <class V>
typename V::Reg relu(typename V::Reg x) {
  return V::max(V::zero(), x);
}

/// x·Φ(x), Φ(x) = ½(1 + erf(x/√2)), by way of the tail Φ(-|x|), which keeps the relative accuracy left of zero.
template <class V>
typename V::Reg gelu(typename V::Reg x) {
  const auto tail = normal_tail<V>(V::max(V::sub(V::zero(), x), x));
  return V::mul(x, V::select_negative(x, tail, V::sub(V::fill(1), tail)));
}

/// x·½(1 + tanh(u)) = x·sigmoid(2u), u = √(2/π)(x + 0.044715 x³)
template <class V>
typename V::Reg gelu_tanh(typename V::Reg x) {
  using T = typename V::T;
  const auto cubic = V::fma(V::mul(V::fill(T(0.044715L)), V::mul(x, x)), x, x);
  return V::mul(x, sigmoid<V>(V::mul(V::fill(T(2 * 0.79788456080286535588L)), cubic)));
}

/// x / (1 + e^(-x))
template <class V>
typename V::Reg silu(typename V::Reg x) {
  return V::div(x, V::add(V::fill(1), exp<V>(V::sub(V::zero(), x))));
}

/// A block of rows with adjacent elements; `row_stride` in bytes.
struct Rows {
  std::byte* data;
  std::int64_t row_stride;
  std::int64_t rows, cols;
};

template <class V, typename V::Reg (*Function)(typename V::Reg)>
void map_rows(const Rows& block) {
  for (std::int64_t r = 0; r < block.rows; ++r) {
    std::byte* p = block.data + r * block.row_stride;
    std::int64_t left = block.cols;
    for (; left >= V::width; left -= V::width, p += sizeof(typename V::Reg)) V::store(p, Function(V::load(p)));
    if (left > 0) {
      const int count = static_cast<int>(left);
      V::store_partial(p, Function(V::load_partial(p, count)), count);
    }
  }
}

// Not inlined: one copy serves every shape of tile.
template <class V>
[[gnu::noinline]] void activate(Activation activation, const Rows& block) {
  switch (activation) {
    case Activation::none: return;
    case Activation::relu: return map_rows<V, relu<V>>(block);
    case Activation::gelu: return map_rows<V, gelu<V>>(block);
    case Activation::gelu_tanh: return map_rows<V, gelu_tanh<V>>(block);
    case Activation::silu: return map_rows<V, silu<V>>(block);
  }
}

}  // namespace
}  // namespace transfuse
