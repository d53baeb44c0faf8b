// Arrays of every layout that a view can describe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "transfuse/tensor.hpp"

namespace transfuse::test {

using Dims = std::vector<std::int64_t>;

/// How the rows and columns (the last two axes) of an array lie in memory. Batch axes lie outside them.
struct Layout {
  const char* name = "C order";
  bool transposed = false;                                                    // columns outside, rows inside
  bool reversed_rows = false, reversed_cols = false, reversed_batch = false;  // negative strides
  bool repeated_rows = false, repeated_cols = false, repeated_batch = false;  // stride 0
  std::int64_t step = 1;                                                      // elements from one to the next
  std::int64_t skew = 0;     // bytes between one element and the next, besides
  std::int64_t padding = 0;  // bytes after each row (column, matrix)
  std::int64_t offset = 0;   // bytes before the first element
};

inline constexpr Layout kFortranOrder{.name = "Fortran order", .transposed = true};
inline constexpr Layout kScattered{.name = "scattered", .reversed_rows = true, .step = 3, .skew = 1, .padding = 7};

/// An array whose gaps, and `guard` bytes on either side, hold a pattern. As a number the pattern is NaN, so reading a
/// gap shows; without a guard the allocation ends where the array does, so that AddressSanitizer sees further.
template <class T>
class Array {
 public:
  static constexpr std::int64_t kSize = sizeof(T);
  static constexpr std::byte kPattern{0xFF};

  explicit Array(Dims shape, const Layout& layout = {}, std::int64_t guard = 0)
      : shape_(std::move(shape)), strides_(shape_.size()) {
    const int rank = static_cast<int>(shape_.size());
    origin_ = guard + layout.offset;
    std::int64_t stride = kSize * layout.step + layout.skew;
    std::int64_t extent = kSize;
    for (int i = 0; i < rank; ++i) {
      // The axis counted from the end, from the innermost one on.
      const int from_end = layout.transposed && rank >= 2 && i < 2 ? 1 - i : i;
      const auto axis = static_cast<std::size_t>(rank - 1 - from_end);
      const bool repeated = pick(from_end, layout.repeated_cols, layout.repeated_rows, layout.repeated_batch);
      const bool reversed = pick(from_end, layout.reversed_cols, layout.reversed_rows, layout.reversed_batch);
      if (repeated) continue;
      const std::int64_t span = stride * (std::max<std::int64_t>(shape_[axis], 1) - 1);
      strides_[axis] = reversed ? -stride : stride;
      if (reversed) origin_ += span;
      extent += span;
      stride = stride * std::max<std::int64_t>(shape_[axis], 1) + layout.padding;
    }
    bytes_.assign(count() == 0 ? 0 : static_cast<std::size_t>(2 * guard + layout.offset + extent), kPattern);
  }

  const Dims& shape() const { return shape_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }

  std::int64_t count() const {
    std::int64_t product = 1;
    for (std::int64_t size : shape_) product *= size;
    return product;
  }

  ConstTensorView view() const { return {data(bytes_), dtype_of<T>, shape_, strides_}; }
  TensorView view() { return {data(bytes_), dtype_of<T>, shape_, strides_}; }

  /// The elements in C order.
  std::vector<T> values() const {
    std::vector<T> result;
    result.reserve(static_cast<std::size_t>(count()));
    each_offset([&](std::int64_t offset) {
      T value;
      std::memcpy(&value, bytes_.data() + offset, sizeof value);
      result.push_back(value);
    });
    return result;
  }

  /// Element number i in C order becomes value(i); where a stride is 0 the last one stays.
  template <class Value>
  void fill(Value&& value) {
    std::int64_t i = 0;
    each_offset([&](std::int64_t offset) {
      const T element = static_cast<T>(value(i++));
      std::memcpy(bytes_.data() + offset, &element, sizeof element);
    });
  }

  void fill_randomly(unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<T> distribution(-1, 1);
    fill([&](std::int64_t) { return distribution(generator); });
  }

  /// Nothing was written but elements.
  bool gaps_are_untouched() const {
    std::vector<std::byte> rest = bytes_;
    each_offset([&](std::int64_t offset) { std::fill_n(rest.begin() + offset, kSize, kPattern); });
    return std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == kPattern; });
  }

 private:
  static bool pick(int from_end, bool cols, bool rows, bool batch) {
    return from_end == 0 ? cols : from_end == 1 ? rows : batch;
  }

  template <class Bytes>
  auto data(Bytes& bytes) const {
    return bytes.empty() ? nullptr : bytes.data() + origin_;
  }

  template <class Visit>
  void each_offset(Visit&& visit) const {
    if (count() == 0) return;
    if (shape_.empty()) return visit(origin_);
    Dims index(shape_.size());
    std::int64_t offset = origin_;
    const std::size_t last = shape_.size() - 1;
    while (true) {
      for (std::int64_t i = 0; i < shape_[last]; ++i) visit(offset + i * strides_[last]);
      std::size_t axis = last;
      do {
        if (axis-- == 0) return;
        offset += strides_[axis];
        if (++index[axis] < shape_[axis]) break;
        offset -= index[axis] * strides_[axis];
        index[axis] = 0;
      } while (true);
    }
  }

  Dims shape_, strides_;
  std::int64_t origin_ = 0;
  std::vector<std::byte> bytes_;
};

template <class T>
Array<T> random_array(Dims shape, unsigned seed, const Layout& layout = {}) {
  Array<T> array(std::move(shape), layout);
  array.fill_randomly(seed);
  return array;
}

}  // namespace transfuse::test
