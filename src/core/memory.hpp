// Large memory in huge pages where the system has them, because those are read faster.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfuse {

inline constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

/// Asks for huge pages, which may be refused.
void prefer_huge_pages(void* memory, std::int64_t bytes);

/// Memory aligned to a cache line, or from 2 MiB on to a huge page; its size is rounded up to whole ones, `bytes`
/// included. To be freed by std::free(). Null where there is no memory.
std::byte* allocate_aligned(std::int64_t& bytes);

}  // namespace transfuse
