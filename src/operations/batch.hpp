// Broadcasting of batch dimensions, as in numpy.matmul.
#pragma once

#include <array>
#include <cstdint>

#include "transfuse/tensor.hpp"

namespace transfuse {

/// The batch dimensions that Operands views share: their common shape, and each view's strides over it (0 where the
/// view is repeated).
template <int Operands>
class Batch {
 public:
  /// Adds a dimension inside those added before. Dimensions of size 1 need not be kept.
  void add(std::int64_t size, const std::array<std::int64_t, Operands>& strides) {
    if (size == 1) return;
    sizes_[rank_] = size;
    strides_[rank_] = strides;
    ++rank_;
    count_ *= size;
  }

  std::int64_t count() const { return count_; }

  /// Byte offsets of every operand's matrix number `index`.
  std::array<std::int64_t, Operands> offsets(std::int64_t index) const {
    std::array<std::int64_t, Operands> result{};
    for (int axis = rank_ - 1; axis >= 0 && index > 0; --axis) {
      const std::int64_t position = index % sizes_[axis];
      index /= sizes_[axis];
      for (int i = 0; i < Operands; ++i) result[i] += position * strides_[axis][i];
    }
    return result;
  }

 private:
  int rank_ = 0;
  std::int64_t count_ = 1;
  std::array<std::int64_t, kMaxRank> sizes_;
  std::array<std::array<std::int64_t, Operands>, kMaxRank> strides_;
};

/// The stride of `view` over the batch axis that is `axis` from the end, 0 where the view lacks it or repeats along it.
inline std::int64_t batch_stride(const ConstTensorView& view, int axis) {
  return axis > view.rank() || view.size_from_end(axis) == 1 ? 0 : view.stride_from_end(axis);
}

}  // namespace transfuse
