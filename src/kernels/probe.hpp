// The arithmetic limit of one core.
#pragma once

#include <cstdint>

#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Twelve independent chains hide a latency of 4 over 2 ports, and of 5 and 6 too.
template <class V>
std::int64_t fma_probe(std::int64_t rounds) {
  constexpr int chains = 12;
  typename V::Reg sum[chains];
  unroll<chains>([&](auto i) { sum[decltype(i)::value] = V::fill(static_cast<typename V::T>(decltype(i)::value)); });
  const auto factor = V::fill(static_cast<typename V::T>(0.5));
  const auto term = V::fill(1);
  for (std::int64_t round = 0; round < rounds; ++round) {
    unroll<chains>([&](auto i) __attribute__((always_inline)) {
      auto& s = sum[decltype(i)::value];
      s = V::fma(s, factor, term);
      asm volatile("" : "+x"(s));  // keeps the compiler from folding the rounds
    });
  }
  return rounds * chains * V::width * 2;
}

}  // namespace
}  // namespace transfuse
