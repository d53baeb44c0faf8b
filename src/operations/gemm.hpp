// The loops around the block kernel: C = left · right over packed panels, by a team of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/constants.hpp"
#include "core/parallel.hpp"
#include "kernels/table.hpp"

namespace transfuse {

/// C (rows x cols) = finish(left (rows x depth) · right (depth x cols)). Strides in bytes; a "lane" is a row of left or
/// a column of right.
struct Gemm {
  struct Operand {
    const std::byte* data = nullptr;
    std::int64_t lane_stride = 0;
    std::int64_t depth_stride = 0;
  };
  std::int64_t rows, cols, depth;
  Operand left, right;
  std::byte* out = nullptr;
  std::int64_t out_row = 0, out_col = 0;
  const std::byte* bias = nullptr;  // as in MatmulTBlock
  std::int64_t bias_row = 0, bias_col = 0;
  Activation activation = Activation::none;
  std::int64_t run_length = kRunLength;  // as in MatmulTBlock
};

/// The kernels for one tier and dtype, and the tiles that they compute.
struct GemmKernels {
  GemmKernels(Isa isa, DType dtype);

  const MatmulTKernels& kernels;
  std::int64_t item_size;
  int tile_rows, tile_cols;
};

/// Computes `gemm` at once, on the calling thread and its stack, if the operands that must be packed are small enough
/// and `block_depth` is not exceeded; else does nothing and returns false. Spares small products the cost of a plan.
bool run_small(const GemmKernels& kernels, const Gemm& gemm, std::int64_t block_depth);

/// How products of one shape and layout are computed. Only the block of the depth affects rounding, so that the result
/// is the same for every number of threads.
class GemmPlan {
 public:
  /// With `divide`, the work is cut finely enough for many threads.
  GemmPlan(const GemmKernels& kernels, const Gemm& gemm, const MatmulTConstants& constants, const MatmulTConfig& config,
           bool divide);

  /// Bytes of working memory that run() needs.
  std::int64_t scratch_bytes() const { return left_bytes_ + right_bytes_; }

  /// Computes `gemm`, which has the shape and strides that the plan was made for. All threads of the team call it.
  void run(Team& team, const Gemm& gemm, std::byte* scratch) const;

 private:
  /// The part of the product that is computed from one set of packed panels.
  struct Section {
    std::int64_t row, rows;
    std::int64_t col, cols;
    std::int64_t k, depth;
  };

  void pack(Team& team, const Gemm& gemm, const Section& section, std::byte* left, std::byte* right) const;
  void compute(Team& team, const Gemm& gemm, const Section& section, const Panels& left, const Panels& right) const;

  GemmKernels kernels_;
  std::int64_t block_rows_, block_cols_, block_depth_;  // one chunk of work
  std::int64_t panel_rows_, panel_cols_;                // one section
  bool pack_left_, pack_right_;
  std::int64_t left_bytes_ = 0, right_bytes_ = 0;
};

}  // namespace transfuse
