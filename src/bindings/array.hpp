// Arrays from Python as views: NumPy's read from their own struct, others through DLPack or __array_interface__.
// Nothing is copied.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bindings/python.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse::python {

/// The exception that is set, as text; clears it.
/// \throws ErrorSet if it is one that no caller should hide: out of memory, or an interrupt
std::string take_error();

/// What an input may hold: float32 and float64; these and those of 16 bits; truth values.
enum class Elements { computed, floating, boolean };

/// An input array, valid while this object and the Python argument live.
class InputArray {
 public:
  /// \param argument its name, for errors
  /// \throws TypeError if it is no array, of no supported dtype, elsewhere than in the CPU's memory, or requires grad
  InputArray(PyObject* object, const char* argument, Elements elements = Elements::computed);
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
TensorView output_view(PyObject* object, const char* argument, Elements elements = Elements::computed);

/// A new C-contiguous ndarray. \throws ErrorSet (MemoryError; ImportError for bfloat16 without ml_dtypes)
Object new_array(const Shape& shape, DType dtype);

/// A read-only ndarray over memory that `owner` keeps alive. \throws as new_array()
Object view_array(const ConstTensorView& view, Object owner);

/// The DType of an ndarray of a user-defined dtype, or nothing if it is not bfloat16.
std::optional<DType> user_dtype(PyArrayObject* array);

/// The DType of an ndarray, or nothing if it is of another dtype or byte order.
inline std::optional<DType> dtype_of_array(PyArrayObject* array) {
  if (PyArray_ISBYTESWAPPED(array)) return std::nullopt;
  switch (PyArray_TYPE(array)) {
    case NPY_FLOAT: return DType::float32;
    case NPY_DOUBLE: return DType::float64;
    case NPY_HALF: return DType::float16;
    case NPY_BOOL: return DType::boolean;
    default: return user_dtype(array);
  }
}

/// The same for those that are computed with.
inline std::optional<DType> computed_dtype(PyArrayObject* array) {
  const int type = PyArray_TYPE(array);
  if ((type != NPY_FLOAT && type != NPY_DOUBLE) || PyArray_ISBYTESWAPPED(array)) return std::nullopt;
  return type == NPY_FLOAT ? DType::float32 : DType::float64;
}

/// `object` if it is an ndarray (of no subclass) of two dimensions, contiguous, of a dtype that is computed with; else
/// null.
inline PyArrayObject* plain_matrix(PyObject* object) {
  if (!PyArray_CheckExact(object)) return nullptr;
  auto* const array = reinterpret_cast<PyArrayObject*>(object);
  return computed_dtype(array) && PyArray_NDIM(array) == 2 && PyArray_IS_C_CONTIGUOUS(array) ? array : nullptr;
}

inline std::byte* bytes_of(PyArrayObject* array) { return static_cast<std::byte*>(PyArray_DATA(array)); }

/// The view of an ndarray of a known dtype.
TensorView view_of(PyArrayObject* array, DType dtype);

}  // namespace transfuse::python
