// The functions of the module that are called often, one file each.
#pragma once

#include "bindings/python.hpp"

namespace transfuse::python {

/// Method table entries, documentation included.
PyMethodDef matmul_t_method();
PyMethodDef attention_method();

}  // namespace transfuse::python
