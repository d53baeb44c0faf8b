/// \file
/// Tensor views: how an array crosses every boundary of the library. Nothing is owned and nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace transfuse {

/// The element types. Their values index the tables of kernels and constants: those that are computed with come first,
/// then those that are only stored (int8: by caches, with scales beside it); boolean (a byte, 0 is false) is for masks.
enum class DType : std::uint8_t { float32, float64, float16, bfloat16, int8, boolean };

inline constexpr int kDTypeCount = 2;    ///< that are computed with
inline constexpr int kStoredDTypes = 5;  ///< that hold numbers

/// Size of one element in bytes.
constexpr std::int64_t item_size(DType dtype) {
  constexpr std::int64_t sizes[] = {4, 8, 2, 2, 1, 1};
  return sizes[static_cast<int>(dtype)];
}

/// The name as NumPy and ml_dtypes spell it.
constexpr const char* name(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16", "int8", "bool"};
  return names[static_cast<int>(dtype)];
}

/// What is computed with where `dtype` is stored.
constexpr DType compute_dtype(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

/// Elements of 16 bits: IEEE's binary16, and the upper half of binary32.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

/// The DType of a C++ element type.
template <class T>
inline constexpr DType dtype_of = DType::boolean;
template <>
inline constexpr DType dtype_of<float> = DType::float32;
template <>
inline constexpr DType dtype_of<double> = DType::float64;
template <>
inline constexpr DType dtype_of<Float16> = DType::float16;
template <>
inline constexpr DType dtype_of<BFloat16> = DType::bfloat16;
template <>
inline constexpr DType dtype_of<std::int8_t> = DType::int8;

/// The largest number of dimensions that a view may have (as in NumPy 2).
inline constexpr int kMaxRank = 64;

/// A strided view. `strides` are in *bytes* and may be negative, zero (broadcast) or not a multiple of the element
/// size; `data` need not be aligned. `shape` and `strides` have the same length and outlive the view.
template <class Byte>
struct BasicTensorView {
  Byte* data = nullptr;
  DType dtype = DType::float32;
  std::span<const std::int64_t> shape;
  std::span<const std::int64_t> strides;

  constexpr int rank() const { return static_cast<int>(shape.size()); }

  /// Dimension and stride counted from the end: axis 1 is the last one.
  constexpr std::int64_t size_from_end(int axis) const { return shape[shape.size() - static_cast<std::size_t>(axis)]; }
  constexpr std::int64_t stride_from_end(int axis) const {
    return strides[strides.size() - static_cast<std::size_t>(axis)];
  }

  /// A writable view may be read.
  constexpr operator BasicTensorView<const Byte>() const
    requires(!std::is_const_v<Byte>)
  {
    return {data, dtype, shape, strides};
  }
};

using TensorView = BasicTensorView<std::byte>;
using ConstTensorView = BasicTensorView<const std::byte>;

/// The dimensions of a result, held inline so that asking for them allocates nothing.
struct Shape {
  int rank = 0;
  std::int64_t dims[kMaxRank];

  std::span<const std::int64_t> span() const { return {dims, static_cast<std::size_t>(rank)}; }
};

}  // namespace transfuse
