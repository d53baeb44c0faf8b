// The options that operations share, from Python objects.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/python.hpp"
#include "core/parameters.hpp"
#include "transfuse/attention.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse::python {

/// True for an argument that was not given or is None.
inline bool is_none(PyObject* object) { return object == nullptr || object == Py_None; }

/// None -> none. \throws TypeError, ValueError
Activation read_activation(PyObject* object);

/// A count of threads, at least 1. \throws TypeError, ValueError naming `argument`
int read_threads(PyObject* object, const char* argument);

/// The name of a tier that this machine can run. \throws TypeError, ValueError naming `argument`
Isa read_isa(PyObject* object, const char* argument);

/// One of the first `count`, by default those that are computed with. \throws ValueError
DType read_dtype(const std::string& text, int count = kDTypeCount);

/// One that is stored: its name, PyTorch's, or whatever numpy.dtype() takes, in this machine's byte order. \throws
/// TypeError, ValueError
DType read_stored_dtype(PyObject* object);

/// An int, or whatever has __index__; numbers that do not fit become the largest or least one that does. \throws
/// TypeError
std::int64_t read_integer(PyObject* object, const std::string& argument);

/// \throws TypeError
bool read_bool(PyObject* object, const char* argument);

/// A real number; infinity for an int that is too large. \throws TypeError naming `argument`
double read_number(PyObject* object, const char* argument);

/// One integer, or an array of integers of exactly the shape `expected`; in C order. Numbers that do not fit as by
/// read_integer(). \throws TypeError, ValueError
std::vector<std::int64_t> read_integers(PyObject* object, const char* argument, std::span<const std::int64_t> expected);

/// False, True, "upper_left" or "lower_right". \throws TypeError, ValueError
Causal read_causal(PyObject* object);

/// "bhsd" or "bshd". \throws TypeError, ValueError
HeadLayout read_layout(PyObject* object);

/// The two sides of a window, each an int or None. \throws TypeError, ValueError
std::pair<std::optional<std::int64_t>, std::optional<std::int64_t>> read_window(PyObject* object);

/// What a `config` argument says: the parameters of the operation, and what every operation understands.
template <class Config>
struct ConfigArgument {
  Config parameters;
  std::optional<Isa> isa;
  int threads = 0;
};

/// \throws TypeError, ValueError (unknown key, value out of range)
template <class Config>
ConfigArgument<Config> read_config(PyObject* object);

}  // namespace transfuse::python
