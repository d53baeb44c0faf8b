// Whether two views, or two elements of one view, share memory: exactly, within bounded work.
#pragma once

#include "transfuse/tensor.hpp"

namespace transfuse {

enum class Overlap { no, yes, undecided };

/// Do any two elements of `a` and `b` share a byte? Disjoint address ranges answer at once; interleaved views (the
/// slices of one packed buffer) are solved exactly, as by numpy.shares_memory with max_work.
Overlap shares_memory(const ConstTensorView& a, const ConstTensorView& b);

/// Do two different elements of `view` share a byte?
Overlap overlaps_itself(const ConstTensorView& view);

}  // namespace transfuse
