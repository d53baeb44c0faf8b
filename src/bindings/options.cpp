#include "bindings/options.hpp"

#include <algorithm>
#include <climits>
#include <cmath>
#include <string_view>

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
  std::string known;
  for (int i = 0; i < count; ++i) {
    const DType dtype{static_cast<std::uint8_t>(i)};
    if (text == name(dtype)) return dtype;
    known += std::string(known.empty() ? "'" : ", '") + name(dtype) + "'";
  }
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
  std::string text;
  if (PyUnicode_Check(object)) {
    text = text_of(object);
  } else if (type_name(object) == "torch.dtype") {
    text = text_of(object).substr(std::string_view("torch.").size());
  } else {
    PyArray_Descr* descriptor = nullptr;
    if (object == Py_None || PyArray_DescrConverter(object, &descriptor) == 0) {
      PyErr_Clear();
      throw TypeError("dtype: expected a dtype or its name, got " + type_name(object));
    }
    const Object owned(reinterpret_cast<PyObject*>(descriptor));
    text = text_of(find_attribute(owned.get(), "name").get());
  }
  return read_dtype(text, kStoredDTypes);
}

bool read_bool(PyObject* object, const char* argument) {
  if (!PyBool_Check(object) && !PyArray_IsScalar(object, Bool))
    throw TypeError(std::string(argument) + ": expected a bool, got " + type_name(object));
  return PyObject_IsTrue(object) == 1;
}

double read_number(PyObject* object, const char* argument) {
  const double value = PyBool_Check(object) ? -1 : PyFloat_AsDouble(object);
  if (!PyBool_Check(object) && (value != -1 || PyErr_Occurred() == nullptr)) return value;
  const bool too_large = PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
  PyErr_Clear();
  if (too_large) return HUGE_VAL;
  throw TypeError(std::string(argument) + ": expected a number, got " + type_name(object));
}

std::vector<std::int64_t> read_integers(PyObject* object, const char* argument,
                                        std::span<const std::int64_t> expected) {
  const auto refuse = [&](const std::string& got) {
    throw TypeError(std::string(argument) + ": expected integers, got " + got);
  };
  if (PyBool_Check(object)) refuse("bool");
  if (PyLong_Check(object) || PyArray_IsScalar(object, Integer)) return {read_integer(object, argument)};
  const Object any(PyArray_FromAny(object, nullptr, 0, 0, 0, nullptr));
  if (!any) {
    PyErr_Clear();
    refuse(type_name(object));
  }
  auto* const array = reinterpret_cast<PyArrayObject*>(any.get());
  if (!PyArray_ISINTEGER(array) && PyArray_SIZE(array) > 0)
    refuse(text_of(reinterpret_cast<PyObject*>(PyArray_DESCR(array))));
  const std::span<const std::int64_t> shape(PyArray_DIMS(array), static_cast<std::size_t>(PyArray_NDIM(array)));
  if (!shape.empty() && !std::ranges::equal(shape, expected))
    throw ValueError(std::string(argument) + ": expected shape " + to_text(expected) + ", got " + to_text(shape));
  const Object cast =
      Object::checked(PyArray_FROMANY(any.get(), NPY_INT64, 0, 0, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST));
  const auto* const data = static_cast<const std::int64_t*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(cast.get())));
  std::vector<std::int64_t> values(data, data + PyArray_SIZE(array));
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
