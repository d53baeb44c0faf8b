#include "operations/thin.hpp"

#include <algorithm>

#include "core/arithmetic.hpp"

namespace transfuse {

std::optional<ThinKind> thin_kind(const Gemm& gemm, std::int64_t item_size) {
  const bool adjacent = gemm.cols == 1 || gemm.right.lane_stride == item_size;
  if (gemm.depth == 1) return adjacent && gemm.out_col == item_size ? std::optional(ThinKind::outer) : std::nullopt;
  if (gemm.depth == 0) return std::nullopt;
  if (gemm.rows <= kSweepRows && gemm.cols >= kSweepCols && adjacent) return ThinKind::sweep;
  if (gemm.depth < kDotDepth) return std::nullopt;
  // A left operand that lies otherwise is copied, element by element.
  const bool left_fits = gemm.left.depth_stride == item_size ||
                         (gemm.cols >= kCopyCols && gemm.depth <= kPackedBytes / (kDotRows * item_size));
  if (gemm.rows <= kDotRows && gemm.right.depth_stride == item_size && left_fits) return ThinKind::dots;
  return std::nullopt;
}

ThinPlan::ThinPlan(ThinKind kind, const GemmKernels& kernels, const Gemm& gemm, int threads)
    : item_size_(kernels.item_size), chunk_rows_(gemm.rows), chunk_cols_(gemm.cols) {
  const auto chunk = [](std::int64_t count, std::int64_t least) {
    return std::max<std::int64_t>(least, ceil_divide(count, kChunks));
  };
  switch (kind) {
    case ThinKind::outer:
      kernel_ = kernels.kernels.outer;
      chunk_rows_ = chunk(gemm.rows, ceil_divide(kThinChunk, gemm.cols));
      stream_ = gemm.activation == Activation::none && gemm.bias == nullptr && gemm.cols >= 64 &&
                saturating_multiply(saturating_multiply(gemm.rows, gemm.cols), item_size_) >= kStreamBytes;
      break;
    case ThinKind::sweep:
      kernel_ = kernels.kernels.sweep;
      // One piece for each thread: the longer the pieces of a row, the faster memory delivers them.
      chunk_cols_ = round_up(std::max(ceil_divide(gemm.cols, threads), ceil_divide(kThinChunk, gemm.rows * gemm.depth)),
                             kernels.tile_cols);
      far_ = saturating_multiply(saturating_multiply(gemm.depth, gemm.cols), item_size_) >= kFarBytes;
      break;
    case ThinKind::dots:
      kernel_ = kernels.kernels.dots;
      chunk_cols_ = chunk(gemm.cols, ceil_divide(kThinChunk, gemm.rows * gemm.depth));
      if (gemm.left.depth_stride != item_size_)
        scratch_bytes_ = round_up(gemm.rows * gemm.depth * item_size_, kCacheLine);
      break;
  }
}

void ThinPlan::run(Team& team, const Gemm& gemm, std::byte* scratch) const {
  Gemm::Operand left = gemm.left;
  if (scratch_bytes_ > 0) {
    copy_left(team, gemm, scratch);
    left = {scratch, gemm.depth * item_size_, item_size_};
  }
  const std::int64_t row_chunks = ceil_divide(gemm.rows, chunk_rows_);
  team.for_each(row_chunks * ceil_divide(gemm.cols, chunk_cols_), [&](std::int64_t chunk) {
    const std::int64_t row = chunk % row_chunks * chunk_rows_;
    const std::int64_t col = chunk / row_chunks * chunk_cols_;
    kernel_({.left = left.data + row * left.lane_stride,
             .left_row = left.lane_stride,
             .left_depth = left.depth_stride,
             .right = gemm.right.data + col * gemm.right.lane_stride,
             .right_col = gemm.right.lane_stride,
             .right_depth = gemm.right.depth_stride,
             .rows = std::min(chunk_rows_, gemm.rows - row),
             .cols = std::min(chunk_cols_, gemm.cols - col),
             .depth = gemm.depth,
             .out = gemm.out + row * gemm.out_row + col * gemm.out_col,
             .out_row = gemm.out_row,
             .out_col = gemm.out_col,
             .bias = gemm.bias == nullptr ? nullptr : gemm.bias + row * gemm.bias_row + col * gemm.bias_col,
             .bias_row = gemm.bias_row,
             .bias_col = gemm.bias_col,
             .activation = gemm.activation,
             .stream = stream_,
             .far = far_});
  });
}

/// The left operand with its depth adjacent.
void ThinPlan::copy_left(Team& team, const Gemm& gemm, std::byte* copy) const {
  team.for_each(ceil_divide(gemm.depth, kCopyChunk), [&](std::int64_t chunk) {
    const std::int64_t last = std::min(gemm.depth, (chunk + 1) * kCopyChunk);
    for (std::int64_t r = 0; r < gemm.rows; ++r)
      for (std::int64_t k = chunk * kCopyChunk; k < last; ++k)
        std::copy_n(gemm.left.data + r * gemm.left.lane_stride + k * gemm.left.depth_stride, item_size_,
                    copy + (r * gemm.depth + k) * item_size_);
  });
}

}  // namespace transfuse
