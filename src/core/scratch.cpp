#include "core/scratch.hpp"

#include <cstdlib>
#include <new>

#include "core/memory.hpp"

namespace transfuse {
namespace {

std::byte* allocate(std::int64_t bytes) {
  std::byte* const memory = allocate_aligned(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

/// One thread's buffer.
struct Buffer {
  std::byte* data = nullptr;
  std::int64_t capacity = 0;
  bool leased = false;

  void release() {
    std::free(data);
    data = nullptr;
    capacity = 0;
  }
  ~Buffer() { release(); }
};

thread_local Buffer buffer;

}  // namespace

Scratch::Scratch(std::int64_t bytes) {
  if (bytes == 0) return;
  if (buffer.leased) {
    data_ = allocate(bytes);
    owned_ = true;
    return;
  }
  if (buffer.capacity < bytes) {
    buffer.release();
    buffer.data = allocate(bytes);
    buffer.capacity = bytes;
  }
  buffer.leased = true;
  data_ = buffer.data;
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  if (owned_) {
    std::free(data_);
    return;
  }
  buffer.leased = false;
  if (buffer.capacity > kRetainedScratchBytes) buffer.release();
}

std::int64_t retained_scratch_bytes() { return buffer.capacity; }

}  // namespace transfuse
