#include "core/scratch.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "core/arithmetic.hpp"

namespace transfuse {
namespace {

constexpr std::int64_t kCacheLine = 64;
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

std::byte* allocate(std::int64_t bytes) {
  const std::int64_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  if (bytes > INT64_MAX - alignment) throw std::bad_alloc();
  const auto size = static_cast<std::size_t>(round_up(bytes, alignment));
  void* memory = std::aligned_alloc(static_cast<std::size_t>(alignment), size);
  if (memory == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // advice: failing is harmless
  return static_cast<std::byte*>(memory);
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
