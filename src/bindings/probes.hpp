// What the benchmark asks about the limits of the machine.
#pragma once

#include <pybind11/pybind11.h>

namespace transfuse::python {

void define_probes(pybind11::module_& m);

}  // namespace transfuse::python
