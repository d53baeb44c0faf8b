#include "operations/gemm.hpp"

#include <algorithm>

#include "core/arithmetic.hpp"

namespace transfuse {
namespace {

/// Lanes per section: as many whole tiles as fit the memory bound.
std::int64_t section_lanes(std::int64_t lanes, int tile, std::int64_t lane_bytes) {
  const std::int64_t fitting = kPackedBytes / std::max<std::int64_t>(1, lane_bytes) / tile * tile;
  return std::min(round_up(lanes, tile), std::max<std::int64_t>(tile, fitting));
}

/// Halves the longer side (in tiles) until a loop over rows x cols has enough chunks for many threads, or its chunks
/// would become too small to be worth the trouble.
void refine(const Gemm& gemm, int tile_rows, int tile_cols, std::int64_t depth, std::int64_t& rows,
            std::int64_t& cols) {
  const auto chunks = [&] { return ceil_divide(gemm.rows, rows) * ceil_divide(gemm.cols, cols); };
  const auto halve = [](std::int64_t& side, int tile) { side = round_up(ceil_divide(side, 2), tile); };
  while (chunks() < kChunks && rows * cols * (depth + kStoreWork) >= 2 * kChunkWork) {
    if (rows / tile_rows >= cols / tile_cols && rows > tile_rows) {
      halve(rows, tile_rows);
    } else if (cols > tile_cols) {
      halve(cols, tile_cols);
    } else {
      return;
    }
  }
}

}  // namespace

GemmPlan::GemmPlan(const Gemm& gemm, Isa isa, DType dtype, const MatmulTConfig& config, bool divide) {
  const MatmulTConstants& constants = matmul_t_constants(isa, dtype);
  kernels_ = &kernels(isa).matmul_t[static_cast<int>(dtype)];
  item_size_ = item_size(dtype);
  tile_rows_ = constants.tile_rows;
  tile_cols_ = constants.tile_vectors * vector_width(isa, dtype);

  // config speaks of the caller's (A·B)ᵀ, whose rows are N and whose columns are M.
  block_depth_ = std::min(config.block_k, std::max<std::int64_t>(1, gemm.depth));
  block_rows_ = std::min(round_up(config.block_n, tile_rows_), round_up(gemm.rows, tile_rows_));
  block_cols_ = std::min(round_up(config.block_m, tile_cols_), round_up(gemm.cols, tile_cols_));
  if (divide) refine(gemm, tile_rows_, tile_cols_, block_depth_, block_rows_, block_cols_);

  const auto must_pack = [&](const Gemm::Operand& operand, std::int64_t lanes, std::int64_t other,
                             std::int64_t beyond) {
    if (lanes > 1 && operand.lane_stride != item_size_) return true;
    return gemm.depth > 1 && other > beyond;
  };
  pack_left_ = must_pack(gemm.left, gemm.rows, gemm.cols, constants.pack_left_beyond);
  pack_right_ = must_pack(gemm.right, gemm.cols, gemm.rows, constants.pack_right_beyond);

  panel_rows_ = round_up(gemm.rows, tile_rows_);
  panel_cols_ = round_up(gemm.cols, tile_cols_);
  const std::int64_t lane_bytes = block_depth_ * item_size_;
  if (pack_left_) {
    panel_rows_ = section_lanes(gemm.rows, tile_rows_, lane_bytes);
    left_bytes_ = round_up(panel_rows_ * lane_bytes, 64);
  }
  if (pack_right_) {
    panel_cols_ = section_lanes(gemm.cols, tile_cols_, lane_bytes);
    right_bytes_ = round_up(panel_cols_ * lane_bytes, 64);
  }
}

void GemmPlan::run(Team& team, const Gemm& gemm, std::byte* scratch) const {
  std::byte* const left = scratch;
  std::byte* const right = scratch + left_bytes_;
  Section s{};
  for (s.col = 0; s.col < gemm.cols; s.col += panel_cols_) {
    s.cols = std::min(panel_cols_, gemm.cols - s.col);
    s.k = 0;
    do {  // once even if there is nothing to sum: the bias and the activation remain
      s.depth = std::min(block_depth_, gemm.depth - s.k);
      for (s.row = 0; s.row < gemm.rows; s.row += panel_rows_) {
        s.rows = std::min(panel_rows_, gemm.rows - s.row);
        pack(team, gemm, s, left, right);
        compute(team, gemm, s, panels(gemm.left, s.row, s, pack_left_ ? left : nullptr, tile_rows_),
                panels(gemm.right, s.col, s, pack_right_ ? right : nullptr, tile_cols_));
      }
      s.k += block_depth_;
    } while (s.k < gemm.depth);
  }
}

GemmPlan::Panels GemmPlan::panels(const Gemm::Operand& operand, std::int64_t lane, const Section& section,
                                  const std::byte* packed, int tile) const {
  if (packed != nullptr) return {packed, tile * section.depth * item_size_, tile * item_size_};
  return {operand.data + lane * operand.lane_stride + section.k * operand.depth_stride, tile * item_size_,
          operand.depth_stride};
}

void GemmPlan::pack(Team& team, const Gemm& gemm, const Section& section, std::byte* left, std::byte* right) const {
  const auto pack_panels = [&](auto kernel, const Gemm::Operand& operand, std::int64_t origin, std::int64_t lanes,
                               int tile, std::byte* packed) {
    // A chunk packs whole panels, about kPackChunk elements.
    const std::int64_t panel = tile * std::max<std::int64_t>(1, section.depth);
    const std::int64_t step = tile * ceil_divide(kPackChunk, panel);
    team.for_each(ceil_divide(lanes, step), [&](std::int64_t chunk) {
      const std::int64_t lane = chunk * step;
      kernel({.source = operand.data + (origin + lane) * operand.lane_stride + section.k * operand.depth_stride,
              .lane_stride = operand.lane_stride,
              .depth_stride = operand.depth_stride,
              .lanes = std::min(step, lanes - lane),
              .depth = section.depth,
              .packed = packed + lane * section.depth * item_size_});
    });
  };
  if (pack_left_) pack_panels(kernels_->pack_left, gemm.left, section.row, section.rows, tile_rows_, left);
  // The right operand's panels serve all rows.
  if (pack_right_ && section.row == 0)
    pack_panels(kernels_->pack_right, gemm.right, section.col, section.cols, tile_cols_, right);
}

void GemmPlan::compute(Team& team, const Gemm& gemm, const Section& section, const Panels& left,
                       const Panels& right) const {
  const std::int64_t row_chunks = ceil_divide(section.rows, block_rows_);
  const std::int64_t col_chunks = ceil_divide(section.cols, block_cols_);
  team.for_each(row_chunks * col_chunks, [&](std::int64_t chunk) {
    const std::int64_t row = chunk % row_chunks * block_rows_;
    const std::int64_t col = chunk / row_chunks * block_cols_;
    const std::int64_t out_row = section.row + row;
    const std::int64_t out_col = section.col + col;
    kernels_->block(
        {.left = left.data + row / tile_rows_ * left.panel_stride,
         .left_panel = left.panel_stride,
         .left_depth = left.depth_stride,
         .right = right.data + col / tile_cols_ * right.panel_stride,
         .right_panel = right.panel_stride,
         .right_depth = right.depth_stride,
         .rows = std::min(block_rows_, section.rows - row),
         .cols = std::min(block_cols_, section.cols - col),
         .depth = section.depth,
         .out = gemm.out + out_row * gemm.out_row + out_col * gemm.out_col,
         .out_row = gemm.out_row,
         .out_col = gemm.out_col,
         .accumulate = section.k > 0,
         .finish = section.k + section.depth == gemm.depth,
         .bias = gemm.bias == nullptr ? nullptr : gemm.bias + out_row * gemm.bias_row + out_col * gemm.bias_col,
         .bias_row = gemm.bias_row,
         .bias_col = gemm.bias_col,
         .activation = gemm.activation});
  });
}

}  // namespace transfuse
