#include "bindings/array.hpp"

#include <algorithm>
#include <span>

#include "bindings/dlpack.hpp"
#include "bindings/results.hpp"
#include "core/arithmetic.hpp"
#include "transfuse/error.hpp"

namespace transfuse::python {
namespace {

static_assert(sizeof(npy_intp) == sizeof(std::int64_t));

// npy_intp is long and so is int64_t on the platforms that we build for.
std::span<const std::int64_t> dimensions(const npy_intp* values, int count) {
  return {values, static_cast<std::size_t>(count)};
}

std::string expected_dtype(const char* argument, const std::string& got, Elements elements) {
  constexpr const char* expected[] = {"float32 or float64", "float32, float64, float16 or bfloat16", "bool"};
  return std::string(argument) + ": expected dtype " + expected[static_cast<int>(elements)] + ", got " + got;
}

bool is_one_of(Elements elements, const std::optional<DType>& dtype) {
  if (!dtype) return false;
  switch (elements) {
    case Elements::computed: return *dtype == DType::float32 || *dtype == DType::float64;
    case Elements::floating: return *dtype != DType::boolean;
    default: return *dtype == DType::boolean;
  }
}

std::string dtype_text(PyArrayObject* array) { return text_of(reinterpret_cast<PyObject*>(PyArray_DESCR(array))); }

[[noreturn]] void refuse_object(PyObject* object, const char* argument) {
  throw TypeError(std::string(argument) +
                  ": expected an array (numpy.ndarray, or an object with __dlpack__ or __array_interface__), got " +
                  type_name(object));
}

void refuse_masked_array(PyObject* object, const char* argument) {
  if (find_attribute(object, "_mask"))
    throw TypeError(std::string(argument) + ": expected an array without a mask, got " + type_name(object) +
                    "; pass its .filled(value)");
}

/// \throws ErrorSet if it has no truth value
bool is_true(PyObject* object) {
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) throw ErrorSet{};
  return truth == 1;
}

/// A tensor whose memory holds the negated values, which DLPack cannot say: the imaginary part of a lazy conjugate.
void refuse_negative_bit(PyObject* object, const char* argument) {
  const Object is_negative = find_attribute(object, "is_neg");
  if (is_negative && is_true(Object::checked(PyObject_CallNoArgs(is_negative.get())).get()))
    throw TypeError(std::string(argument) + ": got a tensor with the negative bit set; pass its .resolve_neg()");
}

void refuse_gradient(PyObject* object, const char* argument) {
  const Object requires_grad = find_attribute(object, "requires_grad");
  if (requires_grad && is_true(requires_grad.get()))
    throw TypeError(std::string(argument) +
                    ": got a tensor that requires grad; use the differentiable functions of transfuse.torch, or pass "
                    "its .detach()");
}

std::optional<DType> dlpack_dtype(const dlpack::DataType& dtype) {
  if (dtype.lanes != 1) return std::nullopt;
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::float32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::float64;
  if (dtype.code == dlpack::kFloat && dtype.bits == 16) return DType::float16;
  if (dtype.code == dlpack::kBFloat && dtype.bits == 16) return DType::bfloat16;
  if (dtype.code == dlpack::kBool && dtype.bits == 8) return DType::boolean;
  return std::nullopt;
}

/// A new reference to NumPy's descriptor.
PyArray_Descr* new_descriptor(DType dtype) {
  switch (dtype) {
    case DType::float32: return PyArray_DescrFromType(NPY_FLOAT);
    case DType::float64: return PyArray_DescrFromType(NPY_DOUBLE);
    case DType::float16: return PyArray_DescrFromType(NPY_HALF);
    case DType::int8: return PyArray_DescrFromType(NPY_INT8);
    case DType::boolean: return PyArray_DescrFromType(NPY_BOOL);
    case DType::bfloat16: break;
  }
  const Object module = Object::checked(PyImport_ImportModule("ml_dtypes"));
  const Object type = Object::checked(PyObject_GetAttrString(module.get(), "bfloat16"));
  PyArray_Descr* const descriptor = PyArray_DescrFromTypeObject(type.get());
  if (descriptor == nullptr) throw ErrorSet{};
  return descriptor;
}

/// Calls a method without arguments or with the keyword max_version=(1, 0).
Object call_dlpack(const Object& method) {
  const Object no_arguments = Object::checked(PyTuple_New(0));
  const Object keywords = Object::checked(Py_BuildValue("{s:(ii)}", "max_version", 1, 0));
  Object capsule(PyObject_Call(method.get(), no_arguments.get(), keywords.get()));
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // a producer from before version 1
    PyErr_Clear();
    capsule = Object(PyObject_CallNoArgs(method.get()));
  }
  return capsule;
}

}  // namespace

std::string take_error() {
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0 || PyErr_ExceptionMatches(PyExc_MemoryError) != 0) throw ErrorSet{};
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  const Object owned_type(type);
  const Object owned_value(value);
  const Object owned_traceback(traceback);
  return value == nullptr ? "unknown error" : text_of(value);
}

TensorView view_of(PyArrayObject* array, DType dtype) {
  const int rank = PyArray_NDIM(array);
  return {bytes_of(array), dtype, dimensions(PyArray_DIMS(array), rank), dimensions(PyArray_STRIDES(array), rank)};
}

InputArray::InputArray(PyObject* object, const char* argument, Elements elements) : elements_(elements) {
  if (!PyArray_Check(object)) {
    read_foreign(object, argument);
    return;
  }
  if (!PyArray_CheckExact(object)) refuse_masked_array(object, argument);
  read_ndarray(reinterpret_cast<PyArrayObject*>(object), argument);
}

void InputArray::set_rank(int rank, const char* argument) {
  if (rank > kMaxRank)
    throw ValueError(std::string(argument) + ": expected at most " + std::to_string(kMaxRank) + " dimensions, got " +
                     std::to_string(rank));
  view_.shape = {shape_, static_cast<std::size_t>(rank)};
  view_.strides = {strides_, static_cast<std::size_t>(rank)};
}

void InputArray::read_ndarray(PyArrayObject* array, const char* argument) {
  const auto dtype = dtype_of_array(array);
  if (!is_one_of(elements_, dtype)) throw TypeError(expected_dtype(argument, dtype_text(array), elements_));
  const TensorView view = view_of(array, *dtype);
  view_.data = view.data;
  view_.dtype = view.dtype;
  set_rank(view.rank(), argument);
  std::ranges::copy(view.shape, shape_);
  std::ranges::copy(view.strides, strides_);
}

void InputArray::read_foreign(PyObject* object, const char* argument) {
  if (PyType_Check(object)) refuse_object(object, argument);
  refuse_gradient(object, argument);
  refuse_negative_bit(object, argument);
  if (!read_dlpack(object, argument) && !read_array_interface(object, argument)) refuse_object(object, argument);
}

bool InputArray::read_dlpack(PyObject* object, const char* argument) {
  const Object method = find_attribute(object, "__dlpack__");
  const Object get_device = find_attribute(object, "__dlpack_device__");
  if (!method || !get_device) return false;

  const Object device(PyObject_CallNoArgs(get_device.get()));
  if (!device) throw TypeError(std::string(argument) + ": DLPack says " + take_error());
  int device_type = 0;
  int device_id = 0;
  if (!PyTuple_Check(device.get()))
    throw TypeError(std::string(argument) + ": expected a tuple from __dlpack_device__, got " +
                    type_name(device.get()));
  if (PyArg_ParseTuple(device.get(), "ii", &device_type, &device_id) == 0)
    throw TypeError(std::string(argument) + ": __dlpack_device__: " + take_error());
  if (device_type != dlpack::kCpu)
    throw TypeError(std::string(argument) + ": expected an array in the CPU's memory, got DLPack device type " +
                    std::to_string(device_type));

  owner_ = call_dlpack(method);
  if (!owner_) throw TypeError(std::string(argument) + ": " + type_name(object) + " refuses DLPack: " + take_error());
  const dlpack::Tensor* tensor = nullptr;
  if (PyCapsule_IsValid(owner_.get(), "dltensor_versioned") != 0) {
    const auto* managed =
        static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(owner_.get(), "dltensor_versioned"));
    if (managed->major != 1)
      throw TypeError(std::string(argument) + ": expected DLPack version 1, got " + std::to_string(managed->major));
    tensor = &managed->tensor;
  } else if (PyCapsule_IsValid(owner_.get(), "dltensor") != 0) {
    tensor = &static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(owner_.get(), "dltensor"))->tensor;
  } else {
    throw TypeError(std::string(argument) + ": expected a DLPack capsule, got " + type_name(owner_.get()));
  }

  const auto dtype = dlpack_dtype(tensor->dtype);
  if (!is_one_of(elements_, dtype)) {
    const Object named = find_attribute(object, "dtype");
    throw TypeError(expected_dtype(argument, named ? text_of(named.get()) : "another DLPack type", elements_));
  }
  set_rank(tensor->rank, argument);
  // The capsule keeps its name: so its own destructor, when owner_ lets it go, returns the memory to the producer.
  const std::span<const std::int64_t> sizes(tensor->shape, static_cast<std::size_t>(tensor->rank));
  if (tensor->data == nullptr && std::ranges::find(sizes, 0) == sizes.end())
    throw TypeError(std::string(argument) + ": expected an array with memory, got " + type_name(object) +
                    " whose data pointer is null");
  view_.data = static_cast<const std::byte*>(tensor->data) + tensor->byte_offset;
  view_.dtype = *dtype;
  std::ranges::copy(sizes, shape_);
  std::int64_t next = item_size(view_.dtype);
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides_[i] = tensor->strides != nullptr ? tensor->strides[i] * item_size(view_.dtype) : next;
    next = saturating_multiply(next, shape_[i]);
  }
  return true;
}

// NumPy reads the interface; what comes back is a view of the same memory.
bool InputArray::read_array_interface(PyObject* object, const char* argument) {
  if (!find_attribute(object, "__array_interface__")) return false;
  PyObject* array = PyArray_FromInterface(object);
  if (array == Py_NotImplemented || array == nullptr) {
    if (array == nullptr) throw TypeError(std::string(argument) + ": __array_interface__: " + take_error());
    Py_DECREF(array);
    return false;
  }
  owner_ = Object(array);
  read_ndarray(reinterpret_cast<PyArrayObject*>(array), argument);
  return true;
}

TensorView output_view(PyObject* object, const char* argument, Elements elements) {
  if (!PyArray_Check(object))
    throw TypeError(std::string(argument) + ": expected numpy.ndarray, got " + type_name(object));
  if (!PyArray_CheckExact(object)) refuse_masked_array(object, argument);
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  const auto dtype = dtype_of_array(array);
  if (!is_one_of(elements, dtype)) throw ValueError(expected_dtype(argument, dtype_text(array), elements));
  if (!PyArray_ISWRITEABLE(array))
    throw ValueError(std::string(argument) + ": expected a writable array, got a read-only one");
  return view_of(array, *dtype);
}

Object new_array(const Shape& shape, DType dtype) {
  npy_intp dims[kMaxRank];
  std::int64_t bytes = item_size(dtype);
  for (int i = 0; i < shape.rank; ++i) {
    dims[i] = shape.dims[i];
    bytes = saturating_multiply(bytes, shape.dims[i]);
  }
  Object descriptor(reinterpret_cast<PyObject*>(new_descriptor(dtype)));  // before: it may import a module
  std::optional<ResultMemory> memory;
  if (bytes >= kLargeResult) memory.emplace();
  return Object::checked(
      PyArray_SimpleNewFromDescr(shape.rank, dims, reinterpret_cast<PyArray_Descr*>(descriptor.release())));
}

Object view_array(const ConstTensorView& view, Object owner) {
  npy_intp dims[kMaxRank];
  npy_intp strides[kMaxRank];
  std::ranges::copy(view.shape, dims);
  std::ranges::copy(view.strides, strides);
  Object array = Object::checked(PyArray_NewFromDescr(&PyArray_Type, new_descriptor(view.dtype), view.rank(), dims,
                                                      strides, const_cast<std::byte*>(view.data), 0, nullptr));
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.get()), owner.release()) != 0) throw ErrorSet{};
  return array;
}

// NumPy numbers the dtypes of other modules as they come; this one's is known once it has been seen.
std::optional<DType> user_dtype(PyArrayObject* array) {
  static int bfloat16 = -1;
  const int number = PyArray_TYPE(array);
  if (number < NPY_USERDEF) return std::nullopt;
  if (bfloat16 < 0 && name_of_type(PyArray_DESCR(array)->typeobj) == "ml_dtypes.bfloat16") bfloat16 = number;
  return number == bfloat16 ? std::optional(DType::bfloat16) : std::nullopt;
}

}  // namespace transfuse::python
