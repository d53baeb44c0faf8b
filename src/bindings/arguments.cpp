#include "bindings/arguments.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>

#include "transfuse/error.hpp"

namespace transfuse::python {

Object find_attribute(PyObject* object, const char* name) {
  PyObject* value = PyObject_GetAttrString(object, name);
  if (value == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw ErrorSet{};
    PyErr_Clear();
  }
  return Object(value);
}

std::string name_of_type(PyTypeObject* type) {
  const Object module = find_attribute(reinterpret_cast<PyObject*>(type), "__module__");
  const std::string name = text_of(find_attribute(reinterpret_cast<PyObject*>(type), "__qualname__").get());
  if (!module || !PyUnicode_Check(module.get())) return name;
  const std::string module_name = text_of(module.get());
  return module_name == "builtins" ? name : module_name + "." + name;
}

std::string text_of(PyObject* object) {
  const Object text = Object::checked(PyObject_Str(object));
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(text.get(), &size);
  if (utf8 == nullptr) throw ErrorSet{};
  return {utf8, static_cast<std::size_t>(size)};
}

void set_python_error(const char* function) noexcept {
  const auto set = [&](PyObject* type, const char* what) { PyErr_Format(type, "%s: %s", function, what); };
  try {
    throw;
  } catch (const ErrorSet&) {
  } catch (const TypeError& error) {
    set(PyExc_TypeError, error.what());
  } catch (const ValueError& error) {
    set(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    set(PyExc_MemoryError, "not enough memory for the working buffers");
  } catch (const std::exception& error) {
    set(PyExc_RuntimeError, error.what());
  }
}

Signature::Signature(const char* function, int required, std::initializer_list<const char*> positional,
                     std::initializer_list<const char*> keyword_only)
    : function_(function), required_(required), positional_(static_cast<int>(positional.size())) {
  for (const auto& names : {positional, keyword_only}) {
    for (const char* name : names) {
      names_.at(static_cast<std::size_t>(count_)) = PyUnicode_InternFromString(name);
      if (names_[static_cast<std::size_t>(count_)] == nullptr) throw ErrorSet{};
      ++count_;
    }
  }
}

// Keywords of a call are almost always the very objects that we interned.
int Signature::find(PyObject* name) const {
  for (int i = 0; i < count_; ++i)
    if (names_[static_cast<std::size_t>(i)] == name) return i;
  for (int i = 0; i < count_; ++i)
    if (PyUnicode_Compare(names_[static_cast<std::size_t>(i)], name) == 0) return i;
  return -1;
}

void Signature::refuse(const char* format, PyObject* name) const {
  PyErr_Format(PyExc_TypeError, format, function_, name);
  throw ErrorSet{};
}

void Signature::parse(PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names,
                      std::span<PyObject*> values) const {
  if (positional > positional_) {
    PyErr_Format(PyExc_TypeError, "%s() takes %d positional arguments but %zd were given", function_, positional_,
                 positional);
    throw ErrorSet{};
  }
  std::copy_n(args, positional, values.begin());
  std::fill(values.begin() + positional, values.end(), nullptr);
  const Py_ssize_t keywords = keyword_names == nullptr ? 0 : PyTuple_GET_SIZE(keyword_names);
  for (Py_ssize_t i = 0; i < keywords; ++i) {
    PyObject* name = PyTuple_GET_ITEM(keyword_names, i);
    const int index = find(name);
    if (index < 0) refuse("%s() got an unexpected keyword argument '%U'", name);
    PyObject*& value = values[static_cast<std::size_t>(index)];
    if (value != nullptr) refuse("%s() got multiple values for argument '%U'", name);
    value = args[positional + i];
  }
  for (int i = 0; i < required_; ++i) require(i, values);
}

void Signature::require(int index, std::span<PyObject* const> values) const {
  if (values[static_cast<std::size_t>(index)] == nullptr)
    refuse("%s() missing required argument '%U'", names_[static_cast<std::size_t>(index)]);
}

}  // namespace transfuse::python
