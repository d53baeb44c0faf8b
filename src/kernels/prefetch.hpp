// Asking for memory ahead of its use, where the hardware does not: rows that lie a page or more apart.
#pragma once

#include <cstddef>

namespace transfuse {
namespace {  // see simd/scalar.hpp

/// Into the second-level cache: in the first, rows a page apart would drive each other out.
inline void prefetch_far(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace transfuse
