#include "core/memory.hpp"

#include <sys/mman.h>

#include <cstdlib>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"

namespace transfuse {

void prefer_huge_pages(void* memory, std::int64_t bytes) {
  madvise(memory, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // advice: failing is harmless
}

std::byte* allocate_aligned(std::int64_t& bytes) {
  const std::int64_t unit = bytes >= kHugePage ? kHugePage : kCacheLine;
  if (bytes > INT64_MAX - unit) return nullptr;
  bytes = round_up(bytes, unit);
  void* const memory = std::aligned_alloc(static_cast<std::size_t>(unit), static_cast<std::size_t>(bytes));
  if (memory != nullptr && unit == kHugePage) prefer_huge_pages(memory, bytes);
  return static_cast<std::byte*>(memory);
}

}  // namespace transfuse
