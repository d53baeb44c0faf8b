// The limits of one core: arithmetic, softmax and memory.
#pragma once

#include <cstdint>

#include "core/constants.hpp"
#include "kernels/table.hpp"
#include "simd/math.hpp"
#include "simd/reduce.hpp"
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

/// As long a row as a block of keys is. It is read from one place and written to another, so that every row is the
/// same.
template <class V>
std::int64_t softmax_probe(std::int64_t rows) {
  using T = typename V::T;
  constexpr int keys = 256;
  constexpr int step = 2 * V::width;  // two chains, because a maximum takes longer than a load
  alignas(kCacheLine) T scores[keys];
  alignas(kCacheLine) T probabilities[keys];
  for (int j = 0; j < keys; ++j) scores[j] = static_cast<T>(j * 37 % keys) / 16;
  const auto scale = V::fill(static_cast<T>(0.18));  // log2(e) / √64
  for (std::int64_t row = 0; row < rows; ++row) {
    // Somebody else wrote the one and reads the other.
    asm volatile("" : : "r"(&scores[0]), "r"(&probabilities[0]) : "memory");
    auto even = V::load(scores), odd = V::load(scores + V::width);
    for (int j = step; j < keys; j += step) {
      even = V::max(V::load(scores + j), even);
      odd = V::max(V::load(scores + j + V::width), odd);
    }
    const auto shift = V::mul(V::fill(-reduce_max<V>(V::max(even, odd))), scale);
    auto sum = V::zero();
    for (int j = 0; j < keys; j += V::width) {
      const auto probability = exp2_below<V>(V::fma(V::load(scores + j), scale, shift));
      V::store(probabilities + j, probability);
      sum = V::add(sum, probability);
    }
    asm volatile("" : : "x"(sum));  // nobody else wants it
  }
  return rows * keys;
}

template <class V>
void memory_probe(const MemoryProbe& p) {
  constexpr int step = V::width * static_cast<int>(sizeof(typename V::T));
  const auto aligned = [](const std::byte* address) {
    return static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(address) % kCacheLine);
  };
  for (std::int64_t at = aligned(p.read); at + kCacheLine <= p.read_bytes; at += kCacheLine)
    unroll<kCacheLine / step>([&](auto i) __attribute__((always_inline)) {
      const auto value = V::load(p.read + at + decltype(i)::value * step);
      asm volatile("" : : "x"(value));  // nobody else wants it
    });
  const auto value = V::fill(1);
  const auto write = [&](auto store) __attribute__((always_inline)) {
    for (std::int64_t at = aligned(p.write); at + kCacheLine <= p.write_bytes; at += kCacheLine)
      unroll<kCacheLine / step>(
          [&](auto i) __attribute__((always_inline)) { store(p.write + at + decltype(i)::value * step, value); });
  };
  if (p.stream) {
    write([](std::byte* to, auto v) __attribute__((always_inline)) { V::stream(to, v); });
  } else {
    write([](std::byte* to, auto v) __attribute__((always_inline)) { V::store(to, v); });
  }
}

}  // namespace
}  // namespace transfuse
