// What every binding includes: Python, NumPy's C API (imported once, by module.cpp) and how errors reach Python.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#ifndef TRANSFUSE_IMPORT_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace transfuse::python {

/// A Python exception is already set.
struct ErrorSet {};

/// An owned reference.
class Object {
 public:
  Object() = default;
  explicit Object(PyObject* owned) : object_(owned) {}
  static Object borrowed(PyObject* object) { return Object(Py_XNewRef(object)); }
  /// \throws ErrorSet if `owned` is null, as what the C API returns on failure
  static Object checked(PyObject* owned) {
    if (owned == nullptr) throw ErrorSet{};
    return Object(owned);
  }
  ~Object() { Py_XDECREF(object_); }
  Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

/// Lets other Python threads run during its scope, in which no Python object may be touched.
class ReleasedLock {
 public:
  ReleasedLock() : state_(PyEval_SaveThread()) {}
  // While the interpreter ends, Python before 3.14 unwinds a daemon thread that asks for the lock back. The references
  // of the frames above must not be given up without the lock, so the thread waits here for the process to end.
  ~ReleasedLock() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  ReleasedLock(const ReleasedLock&) = delete;
  ReleasedLock& operator=(const ReleasedLock&) = delete;

 private:
  PyThreadState* state_;
};

/// The attribute, or nothing if there is none. \throws ErrorSet
Object find_attribute(PyObject* object, const char* name);

/// The name of a type: "list", "torch.Tensor".
std::string name_of_type(PyTypeObject* type);

/// That of an object's type.
inline std::string type_name(PyObject* object) { return name_of_type(Py_TYPE(object)); }

/// str(object)
std::string text_of(PyObject* object);

/// Sets the Python exception for the C++ one that is being handled: ValueError, TypeError, MemoryError, RuntimeError.
void set_python_error(const char* function) noexcept;

}  // namespace transfuse::python
