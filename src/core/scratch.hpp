// Working memory of a call: aligned, reused by the next call from the same thread, and bounded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace transfuse {

/// What a thread keeps between calls at most; a larger buffer goes back to the system when its call ends.
inline constexpr std::int64_t kRetainedScratchBytes = std::int64_t{32} << 20;

/// A lease on at least `bytes` uninitialised bytes, aligned to a cache line (to a huge page from 2 MiB on). Give each
/// thread of a team a slice of one lease taken before the region starts, so that running out of memory is noticed
/// before anything is written. A lease on 0 bytes is null.
class Scratch {
 public:
  /// \throws std::bad_alloc
  explicit Scratch(std::int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  bool owned_ = false;  // not from this thread's buffer, which was already on lease
};

/// Bytes that the calling thread keeps now.
std::int64_t retained_scratch_bytes();

}  // namespace transfuse
