// Asking for memory ahead of its use, where the hardware does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/constants.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Into the second-level cache: in the first, rows a page apart would drive each other out.
inline void prefetch_far(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

/// Memory that will be wanted soon, row by row: a share of its lines is asked for before each step.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const std::byte* first, std::int64_t stride, std::int64_t bytes, std::int64_t rows)
      : row_(first), stride_(stride), bytes_(bytes), rows_(rows) {
    if (stride == bytes) {  // one long row
      bytes_ *= rows;
      rows_ = 1;
    }
  }

  void spread(std::int64_t steps) { share_ = (rows_ * ((bytes_ + kCacheLine - 1) / kCacheLine) + steps - 1) / steps; }

  void ask() {
    if (rows_ == 0) return;
    std::int64_t at = at_;  // in registers: what is stored and loaded again in every turn takes longer than the rest
    for (std::int64_t i = 0; i < share_; ++i) {
      prefetch_far(row_ + at);
      at += kCacheLine;
      if (at < bytes_) continue;
      at = 0;
      row_ += stride_;
      if (--rows_ == 0) break;
    }
    at_ = at;
  }

 private:
  const std::byte* row_ = nullptr;
  std::int64_t stride_ = 0, bytes_ = 0, rows_ = 0;
  std::int64_t share_ = 0;
  std::int64_t at_ = 0;
};

}  // namespace
}  // namespace transfuse
