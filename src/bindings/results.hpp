// Memory for large results. What the system hands out anew it clears first, page by page, so memory of a result that is
// freed is kept for the next ones: attention that writes 147 MB takes 152 ms on one thread instead of 163.
#pragma once

#include <cstdint>

#include "bindings/python.hpp"

namespace transfuse::python {

/// Results from here on; what is smaller malloc keeps by itself (glibc's dynamic threshold ends here).
inline constexpr std::int64_t kLargeResult = std::int64_t{32} << 20;

/// What is kept at most: the results that were freed last.
inline constexpr std::int64_t kKeptResults = std::int64_t{256} << 20;

/// While it lives, NumPy allocates new arrays from memory that is kept, unless the program has set an allocator of its
/// own (NEP 49). Arrays find their way back by themselves, and may outlive everything.
class ResultMemory {
 public:
  /// \throws ErrorSet
  ResultMemory();
  ~ResultMemory();
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;

 private:
  Object previous_;  // NumPy's allocator, where it was exchanged
};

/// Bytes that are kept now.
std::int64_t kept_result_bytes();

}  // namespace transfuse::python
