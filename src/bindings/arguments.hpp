// The keyword parser that all operations share. Operations are METH_FASTCALL functions: on small arrays the call itself
// is what costs, and this is the cheapest way to make it.
#pragma once

#include <array>
#include <span>

#include "bindings/python.hpp"

namespace transfuse::python {

/// The parameters of a function: `positional` ones, of which the first `required` must be given, then keyword-only
/// ones, all optional.
class Signature {
 public:
  static constexpr int kMaxParameters = 32;

  Signature(const char* function, int required, std::initializer_list<const char*> positional,
            std::initializer_list<const char*> keyword_only);

  const char* function() const { return function_; }

  /// Fills `values` (one per parameter, borrowed; null where not given) from the arguments of a METH_FASTCALL call.
  /// \throws ErrorSet (TypeError), worded as Python's own
  void parse(PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names, std::span<PyObject*> values) const;

  /// \throws ErrorSet (TypeError) if parameter number `index` was not given
  void require(int index, std::span<PyObject* const> values) const;

 private:
  int find(PyObject* name) const;
  [[noreturn]] void refuse(const char* format, PyObject* name) const;

  const char* function_;
  int required_;
  int positional_;
  int count_ = 0;
  std::array<PyObject*, kMaxParameters> names_{};  // interned
};

}  // namespace transfuse::python
