// transfuse.KVCache.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/python.hpp"
#include "transfuse/kv_cache.hpp"

namespace transfuse::python {

void define_kv_cache(pybind11::module_& m);

/// \throws TypeError if it is no KVCache
const KVCache& read_cache(PyObject* object);

bool is_cache(PyObject* object);

}  // namespace transfuse::python
