// Checks that operations share. Messages name the argument, what was expected and what came.
#pragma once

#include <optional>

#include "transfuse/isa.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// \throws TypeError if `dtype` is not one that is computed with
void require_float(const char* argument, DType dtype);

/// \throws TypeError if `dtype` is not one of numbers that are computed with or stored in 16 bits
void require_number(const char* argument, DType dtype);

/// \throws TypeError
void require_dtype(const char* argument, DType got, const char* like, DType expected);

/// An output's dtype, shape, and that its elements share no memory with each other. \throws ValueError
void require_output(const char* argument, const TensorView& out, DType dtype, const Shape& shape);

/// \throws ValueError if `out` shares memory with an input, or if that is too hard to decide
void require_disjoint(const char* argument, const ConstTensorView& out, const ConstTensorView& input,
                      const char* input_argument);

/// \throws ValueError
void check_shared_options(int num_threads, const std::optional<Isa>& isa);

}  // namespace transfuse
