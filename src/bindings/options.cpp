#include "bindings/options.hpp"

#include <climits>
#include <string_view>

#include "transfuse/error.hpp"

namespace transfuse::python {
namespace {

constexpr std::pair<const char*, Activation> kActivations[] = {
    {"relu", Activation::relu},
    {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh},
    {"silu", Activation::silu},
};

/// An int, or whatever has __index__; numbers that do not fit become the largest or least one that does.
std::int64_t read_integer(PyObject* object, const std::string& argument) {
  if (PyIndex_Check(object) == 0) throw TypeError(argument + ": expected an int, got " + type_name(object));
  const Object index = Object::checked(PyNumber_Index(object));
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(index.get(), &overflow);
  if (overflow != 0) return overflow > 0 ? LLONG_MAX : LLONG_MIN;
  return value;
}

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

DType read_dtype(const std::string& text) {
  for (DType dtype : {DType::float32, DType::float64})
    if (text == name(dtype)) return dtype;
  throw ValueError("dtype: expected 'float32' or 'float64', got '" + text + "'");
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

}  // namespace transfuse::python
