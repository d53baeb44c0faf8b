#include "operations/checks.hpp"

#include <algorithm>
#include <string>

#include "core/overlap.hpp"
#include "core/text.hpp"
#include "transfuse/error.hpp"

namespace transfuse {

void require_float(const char* argument, DType dtype) {
  if (dtype != DType::float32 && dtype != DType::float64)
    throw TypeError(std::string(argument) + ": expected dtype float32 or float64, got " + name(dtype));
}

void require_number(const char* argument, DType dtype) {
  if (dtype == DType::boolean || dtype == DType::int8)
    throw TypeError(std::string(argument) + ": expected dtype float32, float64, float16 or bfloat16, got " +
                    name(dtype));
}

void require_dtype(const char* argument, DType got, const char* like, DType expected) {
  if (got != expected)
    throw TypeError(std::string(argument) + ": expected the dtype of " + like + ", " + name(expected) + ", got " +
                    name(got));
}

void require_output(const char* argument, const TensorView& out, DType dtype, const Shape& shape) {
  const std::string prefix = std::string(argument) + ": expected ";
  if (out.dtype != dtype) throw ValueError(prefix + "dtype " + name(dtype) + ", got " + name(out.dtype));
  if (!std::ranges::equal(out.shape, shape.span()))
    throw ValueError(prefix + "shape " + to_text(shape.span()) + ", got " + to_text(out.shape));
  const Overlap overlap = overlaps_itself(out);
  if (overlap != Overlap::no)
    throw ValueError(prefix + "elements that do not share memory with each other, " +
                     (overlap == Overlap::yes ? "got" : "which is too hard to decide for") + " strides " +
                     to_text(out.strides));
}

void require_disjoint(const char* argument, const ConstTensorView& out, const ConstTensorView& input,
                      const char* input_argument) {
  const Overlap overlap = shares_memory(out, input);
  if (overlap == Overlap::yes)
    throw ValueError(std::string(argument) + ": expected no memory shared with " + input_argument);
  if (overlap == Overlap::undecided)
    throw ValueError(std::string(argument) + ": whether it shares memory with " + input_argument +
                     " is too hard to decide for these strides; pass an array whose address range is its own");
}

void check_shared_options(int num_threads, const std::optional<Isa>& isa) {
  if (num_threads < 0) throw ValueError("num_threads: expected at least 1, got " + std::to_string(num_threads));
  if (isa) require_isa(name(*isa), "isa");
}

}  // namespace transfuse
