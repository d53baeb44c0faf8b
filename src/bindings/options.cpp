#include "bindings/options.hpp"

#include <algorithm>
#include <climits>
#include <cmath>
#include <string_view>

#include "bindings/array.hpp"
#include "core/text.hpp"
#include "transfuse/error.hpp"

namespace transfuse::python {
namespace {

constexpr std::pair<const char*, Activation> kActivations[] = {
    {"relu", Activation::relu},
    {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh},
    {"silu", Activation::silu},
};

std::string read_string(PyObject* object, const std::string& argument) {
  if (!PyUnicode_Check(object)) throw TypeError(argument + ": expected a str, got " + type_name(object));
  return text_of(object);
}

/// A dict of its own: config may be any mapping, and reading its values may run code that changes it.
Object as_dict(PyObject* object) {
  if (PyType_Check(object) || !find_attribute(object, "keys"))
    throw TypeError("config: expected a mapping or None, got " + type_name(object));
  Object dict = Object::checked(PyDict_New());
  if (PyDict_Update(dict.get(), object) != 0) throw ErrorSet{};
  return dict;
}

std::optional<DType> find_dtype(const std::string& text, int count) {
  for (int i = 0; i < count; ++i)
    if (text == name(DType{static_cast<std::uint8_t>(i)})) return DType{static_cast<std::uint8_t>(i)};
  return std::nullopt;
}

[[noreturn]] void refuse_integers(const char* argument, const std::string& got) {
  throw TypeError(std::string(argument) + ": expected integers, got " + got);
}

/// An int of a list. `got` is what to say if it is none, by default its type.
std::int64_t read_element(PyObject* item, const char* argument, const std::string& got) {
  if (PyIndex_Check(item) == 0 || PyBool_Check(item) || PyArray_IsScalar(item, Bool))
    refuse_integers(argument, got.empty() ? type_name(item) : got);
  return read_integer(item, argument);
}

}  // namespace

Activation read_activation(PyObject* object) {
  if (is_none(object)) return Activation::none;
  const std::string name = read_string(object, "activation");
  std::string known = "None";
  for (const auto& [text, activation] : kActivations) {
    if (name == text) return activation;
    known += std::string(", '") + text + "'";
  }
  throw ValueError("activation: expected one of " + known + ", got '" + name + "'");
}

int read_threads(PyObject* object, const char* argument) {
  const std::int64_t value = read_integer(object, argument);
  if (value < 1) throw ValueError(std::string(argument) + ": expected at least 1, got " + text_of(object));
  return static_cast<int>(value < INT_MAX ? value : INT_MAX);
}

Isa read_isa(PyObject* object, const char* argument) {
  const std::string name = read_string(object, argument);
  return require_isa(name, argument);
}

DType read_dtype(const std::string& text, int count) {
  if (const auto dtype = find_dtype(text, count)) return *dtype;
  std::string known;
  for (int i = 0; i < count; ++i)
    known += std::string(known.empty() ? "'" : ", '") + name(DType{static_cast<std::uint8_t>(i)}) + "'";
  throw ValueError("dtype: expected one of " + known + ", got '" + text + "'");
}

std::int64_t read_integer(PyObject* object, const std::string& argument) {
  if (PyIndex_Check(object) == 0) throw TypeError(argument + ": expected an int, got " + type_name(object));
  const Object index = Object::checked(PyNumber_Index(object));
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(index.get(), &overflow);
  if (overflow != 0) return overflow > 0 ? LLONG_MAX : LLONG_MIN;
  return value;
}

DType read_stored_dtype(PyObject* object) {
  if (type_name(object) == "torch.dtype")
    return read_dtype(text_of(object).substr(std::string_view("torch.").size()), kStoredDTypes);
  const bool named = PyUnicode_Check(object);
  if (named)
    if (const auto dtype = find_dtype(text_of(object), kStoredDTypes)) return *dtype;  // NumPy may not know bfloat16
  PyArray_Descr* descriptor = nullptr;
  if (object == Py_None || PyArray_DescrConverter(object, &descriptor) == 0) {
    if (object != Py_None) take_error();
    if (named) return read_dtype(text_of(object), kStoredDTypes);  // which says what is known
    throw TypeError("dtype: expected a dtype or its name, got " + type_name(object));
  }
  const Object owned(reinterpret_cast<PyObject*>(descriptor));
  const DType dtype = read_dtype(text_of(find_attribute(owned.get(), "name").get()), kStoredDTypes);
  if (PyDataType_ISBYTESWAPPED(descriptor))
    throw ValueError("dtype: expected the byte order of this machine, got '" + text_of(owned.get()) + "'");
  return dtype;
}

bool read_bool(PyObject* object, const char* argument) {
  if (!PyBool_Check(object) && !PyArray_IsScalar(object, Bool))
    throw TypeError(std::string(argument) + ": expected a bool, got " + type_name(object));
  return PyObject_IsTrue(object) == 1;
}

double read_number(PyObject* object, const char* argument) {
  const double value = PyBool_Check(object) ? -1 : PyFloat_AsDouble(object);
  if (!PyBool_Check(object) && (value != -1 || PyErr_Occurred() == nullptr)) return value;
  if (PyErr_Occurred() != nullptr) {
    const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
    take_error();
    if (too_large) return HUGE_VAL;
  }
  throw TypeError(std::string(argument) + ": expected a number, got " + type_name(object));
}

std::vector<std::int64_t> read_integers(PyObject* object, const char* argument,
                                        std::span<const std::int64_t> expected) {
  if (PyBool_Check(object)) refuse_integers(argument, "bool");
  if (PyLong_Check(object) || PyArray_IsScalar(object, Integer)) return {read_integer(object, argument)};
  Object any(PyArray_FromAny(object, nullptr, 0, 0, 0, nullptr));
  if (!any) {
    take_error();
    refuse_integers(argument, type_name(object));
  }
  auto* array = reinterpret_cast<PyArrayObject*>(any.get());
  std::vector<std::int64_t> values;
  const bool integers = PyArray_ISINTEGER(array) || PyArray_SIZE(array) == 0;
  if (!integers) {  // perhaps only because an int is too large
    const std::string dtype = text_of(reinterpret_cast<PyObject*>(PyArray_DESCR(array)));
    if (!PyList_Check(object) && !PyTuple_Check(object)) refuse_integers(argument, dtype);
    const bool objects = PyArray_TYPE(array) == NPY_OBJECT;
    any = Object::checked(PyArray_FROMANY(object, NPY_OBJECT, 0, 0, NPY_ARRAY_CARRAY_RO));
    array = reinterpret_cast<PyArrayObject*>(any.get());
    const std::span items(static_cast<PyObject**>(PyArray_DATA(array)), static_cast<std::size_t>(PyArray_SIZE(array)));
    for (PyObject* item : items) values.push_back(read_element(item, argument, objects ? "" : dtype));
  }
  const std::span<const std::int64_t> shape(PyArray_DIMS(array), static_cast<std::size_t>(PyArray_NDIM(array)));
  if (!shape.empty() && !std::ranges::equal(shape, expected))
    throw ValueError(std::string(argument) + ": expected shape " + to_text(expected) + ", got " + to_text(shape));
  if (!integers) return values;
  const Object cast =
      Object::checked(PyArray_FROMANY(any.get(), NPY_INT64, 0, 0, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST));
  const auto* const data = static_cast<const std::int64_t*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(cast.get())));
  values.assign(data, data + PyArray_SIZE(array));
  if (PyArray_ISUNSIGNED(array))  // those that do not fit came out negative
    for (std::int64_t& value : values) value = value < 0 ? INT64_MAX : value;
  return values;
}

Causal read_causal(PyObject* object) {
  if (PyUnicode_Check(object)) {
    const std::string name = text_of(object);
    if (name == "upper_left") return Causal::upper_left;
    if (name == "lower_right") return Causal::lower_right;
    throw ValueError("causal: expected False, True, 'upper_left' or 'lower_right', got '" + name + "'");
  }
  if (!PyBool_Check(object) && !PyArray_IsScalar(object, Bool))
    throw TypeError("causal: expected a bool, 'upper_left' or 'lower_right', got " + type_name(object));
  return PyObject_IsTrue(object) == 1 ? Causal::yes : Causal::no;
}

HeadLayout read_layout(PyObject* object) {
  const std::string name = read_string(object, "layout");
  if (name == "bhsd") return HeadLayout::bhsd;
  if (name == "bshd") return HeadLayout::bshd;
  throw ValueError("layout: expected 'bhsd' or 'bshd', got '" + name + "'");
}

std::pair<std::optional<std::int64_t>, std::optional<std::int64_t>> read_window(PyObject* object) {
  if (!PyTuple_Check(object) && !PyList_Check(object))
    throw TypeError("window: expected a pair (left, right) or None, got " + type_name(object));
  if (PySequence_Size(object) != 2)
    throw ValueError("window: expected two elements (left, right), got " + std::to_string(PySequence_Size(object)));
  const auto side = [&](Py_ssize_t i) -> std::optional<std::int64_t> {
    const Object item = Object::checked(PySequence_GetItem(object, i));
    if (is_none(item.get())) return std::nullopt;
    return read_integer(item.get(), i == 0 ? "window: left" : "window: right");
  };
  return {side(0), side(1)};
}

template <class Config>
ConfigArgument<Config> read_config(PyObject* object) {
  ConfigArgument<Config> result;
  if (is_none(object)) return result;
  const Object dict = as_dict(object);
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(dict.get(), &position, &key, &value) != 0;) {
    const std::string name = read_string(key, "config: key");
    const std::string argument = "config: " + name;
    bool known = false;
    std::string names;
    for (const auto& parameter : parameters(result.parameters)) {
      names += std::string("'") + parameter.name + "', ";
      if (name != parameter.name) continue;
      known = true;
      const std::int64_t number = read_integer(value, argument);
      check_parameter(parameter, number);
      result.parameters.*parameter.member = number;
    }
    if (name == "isa") {
      result.isa = read_isa(value, argument.c_str());
    } else if (name == "threads") {
      result.threads = read_threads(value, argument.c_str());
    } else if (!known) {
      throw ValueError("config: expected the keys " + names + "'isa', 'threads', got '" + name + "'");
    }
  }
  return result;
}

template ConfigArgument<MatmulTConfig> read_config<MatmulTConfig>(PyObject* object);
template ConfigArgument<AttentionConfig> read_config<AttentionConfig>(PyObject* object);

}  // namespace transfuse::python
