// Arrays from Python as views: NumPy's read from their own struct, others through DLPack or __array_interface__.
// Nothing is copied.
#pragma once

#include <cstdint>
#include <optional>

#include "bindings/python.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse::python {

/// What an input may hold.
enum class Elements { floating, boolean };

/// An input array, valid while this object and the Python argument live.
class InputArray {
 public:
  /// \param argument its name, for errors
  /// \throws TypeError if it is no array, of no supported dtype, elsewhere than in the CPU's memory, or requires grad
  InputArray(PyObject* object, const char* argument, Elements elements = Elements::floating);
  InputArray(const InputArray&) = delete;
  InputArray& operator=(const InputArray&) = delete;

  const ConstTensorView& view() const { return view_; }

 private:
  void read_foreign(PyObject* object, const char* argument);
  bool read_dlpack(PyObject* object, const char* argument);
  bool read_array_interface(PyObject* object, const char* argument);

  /// Room for the dimensions, whose number is known now. They are copied, because reading the next argument may run
  /// Python code that reshapes the array of this one.
  void set_rank(int rank, const char* argument);
  void read_ndarray(PyArrayObject* array, const char* argument);

  Elements elements_;
  ConstTensorView view_;
  Object owner_;  // keeps borrowed memory alive
  std::int64_t shape_[kMaxRank], strides_[kMaxRank];
};

/// The view of an `out` argument. \throws TypeError if it is no ndarray, ValueError if it is read-only or of no
/// supported dtype
TensorView output_view(PyObject* object, const char* argument);

/// A new C-contiguous ndarray. \throws ErrorSet (MemoryError)
Object new_array(const Shape& shape, DType dtype);

/// The DType of an ndarray, or nothing if it is of another dtype or byte order.
inline std::optional<DType> supported_dtype(PyArrayObject* array) {
  if (PyArray_ISBYTESWAPPED(array)) return std::nullopt;
  switch (PyArray_TYPE(array)) {
    case NPY_FLOAT: return DType::float32;
    case NPY_DOUBLE: return DType::float64;
    default: return std::nullopt;
  }
}

/// `object` if it is an ndarray (of no subclass) of two dimensions, contiguous, of a supported dtype; else null.
inline PyArrayObject* plain_matrix(PyObject* object) {
  if (!PyArray_CheckExact(object)) return nullptr;
  auto* const array = reinterpret_cast<PyArrayObject*>(object);
  return supported_dtype(array) && PyArray_NDIM(array) == 2 && PyArray_IS_C_CONTIGUOUS(array) ? array : nullptr;
}

inline std::byte* bytes_of(PyArrayObject* array) { return static_cast<std::byte*>(PyArray_DATA(array)); }

/// The DType of an ndarray whose dtype is supported.
inline DType dtype_of_array(PyArrayObject* array) {
  switch (PyArray_TYPE(array)) {
    case NPY_FLOAT: return DType::float32;
    case NPY_BOOL: return DType::boolean;
    default: return DType::float64;
  }
}

/// The view of an ndarray whose dtype is supported.
TensorView view_of(PyArrayObject* array);

}  // namespace transfuse::python
