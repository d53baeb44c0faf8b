// Asking for memory ahead of its use, where the hardware does not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Into the second-level cache: in the first, rows a page apart would drive each other out.
inline void prefetch_far(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

/// Memory that will be wanted soon, row by row: a share of its lines is asked for before each step.
struct Ahead {
  static constexpr std::int64_t line = 64;

  const std::byte* row = nullptr;
  std::int64_t stride = 0, bytes = 0, rows = 0;
  std::int64_t share = 0;
  std::int64_t at = 0;

  void spread(std::int64_t steps) { share = (rows * ((bytes + line - 1) / line) + steps - 1) / steps; }

  void ask() {
    for (std::int64_t i = 0; i < share && rows > 0; ++i) {
      prefetch_far(row + at);
      at += line;
      if (at < bytes) continue;
      at = 0;
      row += stride;
      --rows;
    }
  }
};

}  // namespace
}  // namespace transfuse
