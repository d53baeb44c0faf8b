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

/// Halves the longer side (in tiles) of a block until the product has enough of them for many threads, or they would
/// become too small to be worth the trouble.
void refine(const GemmKernels& k, const Gemm& gemm, std::int64_t depth, std::int64_t& rows, std::int64_t& cols) {
  const auto blocks = [&] { return ceil_divide(gemm.rows, rows) * ceil_divide(gemm.cols, cols); };
  const auto halve = [](std::int64_t& side, int tile) { side = round_up(ceil_divide(side, 2), tile); };
  while (blocks() < kChunks && rows * cols * (depth + kStoreWork) >= 2 * kChunkWork) {
    if (rows / k.tile_rows >= cols / k.tile_cols && rows > k.tile_rows) {
      halve(rows, k.tile_rows);
    } else if (cols > k.tile_cols) {
      halve(cols, k.tile_cols);
    } else {
      return;
    }
  }
}

/// The block kernel wants adjacent lanes.
bool readable_in_place(const Gemm::Operand& operand, std::int64_t lanes, std::int64_t item_size) {
  return lanes <= 1 || operand.lane_stride == item_size;
}

Panels in_place(const Gemm::Operand& operand, std::int64_t lane, std::int64_t k, int tile, std::int64_t item_size) {
  return {operand.data + lane * operand.lane_stride + k * operand.depth_stride, tile * item_size, operand.depth_stride};
}

Panels packed(const std::byte* data, std::int64_t depth, int tile, std::int64_t item_size) {
  return {data, tile * depth * item_size, tile * item_size};
}

PackArguments pack_arguments(const Gemm::Operand& operand, std::int64_t lane, std::int64_t lanes, std::int64_t k,
                             std::int64_t depth, std::byte* packed) {
  return {.source = operand.data + lane * operand.lane_stride + k * operand.depth_stride,
          .lane_stride = operand.lane_stride,
          .depth_stride = operand.depth_stride,
          .lanes = lanes,
          .depth = depth,
          .packed = packed};
}

/// The block of `gemm` at (row, col); `left` and `right` start there. Finished in one pass unless told otherwise.
MatmulTBlock make_block(const Gemm& gemm, const Panels& left, const Panels& right, std::int64_t row, std::int64_t rows,
                        std::int64_t col, std::int64_t cols, std::int64_t depth) {
  return {.left = left,
          .right = right,
          .rows = rows,
          .cols = cols,
          .depth = depth,
          .run_length = gemm.run_length,
          .out = gemm.out + row * gemm.out_row + col * gemm.out_col,
          .out_row = gemm.out_row,
          .out_col = gemm.out_col,
          .accumulate = false,
          .finish = true,
          .bias = gemm.bias == nullptr ? nullptr : gemm.bias + row * gemm.bias_row + col * gemm.bias_col,
          .bias_row = gemm.bias_row,
          .bias_col = gemm.bias_col,
          .activation = gemm.activation};
}

}  // namespace

GemmKernels::GemmKernels(Isa isa, DType dtype)
    : kernels(transfuse::kernels(isa).matmul_t[static_cast<int>(dtype)]),
      item_size(transfuse::item_size(dtype)),
      tile_rows(matmul_t_constants(isa, dtype).tile_rows),
      tile_cols(matmul_t_constants(isa, dtype).tile_vectors * vector_width(isa, dtype)) {}

bool run_small(const GemmKernels& k, const Gemm& gemm, std::int64_t block_depth) {
  constexpr std::int64_t kStackBytes = 48 * 1024;
  if (gemm.depth > std::min(block_depth, kStackBytes)) return false;
  alignas(kCacheLine) std::byte buffers[2][kStackBytes];
  const auto prepare = [&](auto pack, const Gemm::Operand& operand, std::int64_t lanes, int tile, std::byte* buffer,
                           Panels& panels) {
    panels = in_place(operand, 0, 0, tile, k.item_size);
    if (readable_in_place(operand, lanes, k.item_size)) return true;
    if (lanes > kStackBytes || (lanes + tile) * gemm.depth * k.item_size > kStackBytes) return false;
    pack(pack_arguments(operand, 0, lanes, 0, gemm.depth, buffer));
    panels = packed(buffer, gemm.depth, tile, k.item_size);
    return true;
  };
  Panels left;
  Panels right;
  if (!prepare(k.kernels.pack_left, gemm.left, gemm.rows, k.tile_rows, buffers[0], left) ||
      !prepare(k.kernels.pack_right, gemm.right, gemm.cols, k.tile_cols, buffers[1], right))
    return false;
  k.kernels.block(make_block(gemm, left, right, 0, gemm.rows, 0, gemm.cols, gemm.depth));
  return true;
}

GemmPlan::GemmPlan(const GemmKernels& kernels, const Gemm& gemm, const MatmulTConstants& constants,
                   const MatmulTConfig& config, bool divide)
    : kernels_(kernels) {
  // config speaks of the caller's (A·B)ᵀ, whose rows are N and whose columns are M.
  panel_rows_ = round_up(gemm.rows, kernels.tile_rows);
  panel_cols_ = round_up(gemm.cols, kernels.tile_cols);
  block_depth_ = std::min(config.block_k, std::max<std::int64_t>(1, gemm.depth));
  block_rows_ = std::min(round_up(config.block_n, kernels.tile_rows), panel_rows_);
  block_cols_ = std::min(round_up(config.block_m, kernels.tile_cols), panel_cols_);
  if (divide) refine(kernels, gemm, block_depth_, block_rows_, block_cols_);

  // Packing an operand that could be read in place pays when it is read often enough.
  pack_left_ = !readable_in_place(gemm.left, gemm.rows, kernels.item_size) ||
               (gemm.depth > 1 && gemm.cols > constants.pack_left_beyond);
  pack_right_ = !readable_in_place(gemm.right, gemm.cols, kernels.item_size) ||
                (gemm.depth > 1 && gemm.rows > constants.pack_right_beyond);
  const std::int64_t lane_bytes = block_depth_ * kernels.item_size;
  if (pack_left_) {
    panel_rows_ = section_lanes(gemm.rows, kernels.tile_rows, lane_bytes);
    left_bytes_ = round_up(panel_rows_ * lane_bytes, kCacheLine);
  }
  if (pack_right_) {
    panel_cols_ = section_lanes(gemm.cols, kernels.tile_cols, lane_bytes);
    right_bytes_ = round_up(panel_cols_ * lane_bytes, kCacheLine);
  }
}

void GemmPlan::run(Team& team, const Gemm& gemm, std::byte* scratch) const {
  std::byte* const left = scratch;
  std::byte* const right = scratch + left_bytes_;
  const auto [kernels, size, tile_rows, tile_cols] = kernels_;
  Section s{};
  for (s.col = 0; s.col < gemm.cols; s.col += panel_cols_) {
    s.cols = std::min(panel_cols_, gemm.cols - s.col);
    s.k = 0;
    do {  // once even if there is nothing to sum: the bias and the activation remain
      s.depth = std::min(block_depth_, gemm.depth - s.k);
      for (s.row = 0; s.row < gemm.rows; s.row += panel_rows_) {
        s.rows = std::min(panel_rows_, gemm.rows - s.row);
        pack(team, gemm, s, left, right);
        compute(
            team, gemm, s,
            pack_left_ ? packed(left, s.depth, tile_rows, size) : in_place(gemm.left, s.row, s.k, tile_rows, size),
            pack_right_ ? packed(right, s.depth, tile_cols, size) : in_place(gemm.right, s.col, s.k, tile_cols, size));
      }
      s.k += block_depth_;
    } while (s.k < gemm.depth);
  }
}

void GemmPlan::pack(Team& team, const Gemm& gemm, const Section& section, std::byte* left, std::byte* right) const {
  const auto pack_panels = [&](auto kernel, const Gemm::Operand& operand, std::int64_t origin, std::int64_t lanes,
                               int tile, std::byte* packed) {
    // A chunk packs whole panels, several side by side.
    const std::int64_t step = tile * kPackPanels;
    team.for_each(ceil_divide(lanes, step), [&](std::int64_t chunk) {
      const std::int64_t lane = chunk * step;
      kernel(pack_arguments(operand, origin + lane, std::min(step, lanes - lane), section.k, section.depth,
                            packed + lane * section.depth * kernels_.item_size));
    });
  };
  const MatmulTKernels& kernels = kernels_.kernels;
  if (pack_left_) pack_panels(kernels.pack_left, gemm.left, section.row, section.rows, kernels_.tile_rows, left);
  // The right operand's panels serve all rows.
  if (pack_right_ && section.row == 0)
    pack_panels(kernels.pack_right, gemm.right, section.col, section.cols, kernels_.tile_cols, right);
}

// Chunks go down the rows first, so that a thread's share of consecutive chunks is a strip of columns.
void GemmPlan::compute(Team& team, const Gemm& gemm, const Section& section, const Panels& left,
                       const Panels& right) const {
  const std::int64_t row_chunks = ceil_divide(section.rows, block_rows_);
  const std::int64_t col_chunks = ceil_divide(section.cols, block_cols_);
  team.for_each(row_chunks * col_chunks, [&](std::int64_t chunk) {
    const std::int64_t row = chunk % row_chunks * block_rows_;
    const std::int64_t col = chunk / row_chunks * block_cols_;
    Panels block_left = left;
    Panels block_right = right;
    block_left.data += row / kernels_.tile_rows * left.panel_stride;
    block_right.data += col / kernels_.tile_cols * right.panel_stride;
    MatmulTBlock block =
        make_block(gemm, block_left, block_right, section.row + row, std::min(block_rows_, section.rows - row),
                   section.col + col, std::min(block_cols_, section.cols - col), section.depth);
    block.accumulate = section.k > 0;
    block.finish = section.k + section.depth == gemm.depth;
    kernels_.kernels.block(block);
  });
}

}  // namespace transfuse
