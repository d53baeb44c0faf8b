#include "bindings/results.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "core/constants.hpp"
#include "core/memory.hpp"

namespace transfuse::python {
namespace {

/// In front of a result.
struct alignas(kCacheLine) Block {
  std::size_t capacity;  // of the result, in bytes

  void* data() { return this + 1; }
  static Block* of(void* data) { return static_cast<Block*>(data) - 1; }
};

/// Blocks whose results were freed, the oldest first. Guarded by the interpreter lock, with which NumPy allocates and
/// frees; never destroyed, because arrays are freed until the process ends.
std::vector<Block*>& kept() {
  static auto* const blocks = new std::vector<Block*>;
  return *blocks;
}

std::size_t total() {
  std::size_t bytes = 0;
  for (const Block* block : kept()) bytes += block->capacity;
  return bytes;
}

void drop_kept() {
  for (Block* const block : kept()) std::free(block);
  kept().clear();
}

Block* new_block(std::size_t size) {
  if (size > INT64_MAX - sizeof(Block)) return nullptr;
  auto bytes = static_cast<std::int64_t>(size + sizeof(Block));
  void* memory = allocate_aligned(bytes);
  if (memory == nullptr) {  // perhaps because of what is kept
    drop_kept();
    memory = allocate_aligned(bytes);
  }
  if (memory == nullptr) return nullptr;
  return ::new (memory) Block{static_cast<std::size_t>(bytes) - sizeof(Block)};
}

/// The smallest block that is kept and large enough, but not twice as large as needed; else a new one.
void* allocate(void* /*context*/, std::size_t size) {
  auto& blocks = kept();
  auto best = blocks.end();
  for (auto it = blocks.begin(); it != blocks.end(); ++it)
    if ((*it)->capacity >= size && (*it)->capacity / 2 <= size &&
        (best == blocks.end() || (*it)->capacity < (*best)->capacity))
      best = it;
  Block* block = nullptr;
  if (best != blocks.end()) {
    block = *best;
    blocks.erase(best);
  } else {
    block = new_block(size);
  }
  return block == nullptr ? nullptr : block->data();
}

void release(void* /*context*/, void* data, std::size_t /*size*/) {
  if (data == nullptr) return;
  auto& blocks = kept();
  Block* const block = Block::of(data);
  if (block->capacity > kKeptResults || block->capacity < kLargeResult / 2) {
    std::free(block);
    return;
  }
  try {
    blocks.push_back(block);
  } catch (const std::bad_alloc&) {
    std::free(block);
    return;
  }
  std::size_t bytes = total();
  auto last = blocks.begin();
  for (; bytes > kKeptResults; ++last) {
    bytes -= (*last)->capacity;
    std::free(*last);
  }
  blocks.erase(blocks.begin(), last);
}

/// For completeness: new_array() never asks for zeros.
void* allocate_zeros(void* context, std::size_t count, std::size_t size) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
  void* const data = allocate(context, bytes);
  if (data != nullptr) std::memset(data, 0, bytes);
  return data;
}

/// When an array is resized. What is much smaller moves, so that it does not hold the large block.
void* reallocate(void* context, void* data, std::size_t size) {
  if (data == nullptr) return allocate(context, size);
  const std::size_t capacity = Block::of(data)->capacity;
  if (size <= capacity && size >= capacity / 2) return data;
  void* const other = allocate(context, size);
  if (other == nullptr) return nullptr;
  std::memcpy(other, data, std::min(size, capacity));
  release(context, data, 0);
  return other;
}

PyDataMem_Handler handler = {"transfuse", 1, {nullptr, allocate, allocate_zeros, reallocate, release}};

}  // namespace

ResultMemory::ResultMemory() {
  static PyObject* const ours = PyCapsule_New(&handler, "mem_handler", nullptr);
  if (ours == nullptr) throw ErrorSet{};
  Object current = Object::checked(PyDataMem_GetHandler());
  if (current.get() != PyDataMem_DefaultHandler) return;
  previous_ = Object::checked(PyDataMem_SetHandler(ours));
}

ResultMemory::~ResultMemory() {
  if (!previous_) return;
  PyObject* type = nullptr;  // an exception may be set already: there was no memory
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  const Object ours(PyDataMem_SetHandler(previous_.get()));
  PyErr_Restore(type, value, traceback);
}

std::int64_t kept_result_bytes() { return static_cast<std::int64_t>(total()); }

}  // namespace transfuse::python
