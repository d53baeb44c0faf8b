// What a tier offers: one table of kernels per tier, filled by src/isa/<tier>.cpp. Kernels know nothing of threads,
// Python or errors; their arguments are checked by the operations. Addresses and strides are in bytes, and nothing need
// be aligned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// Packs `lanes` lanes (rows of the left or columns of the right operand) of `depth` elements into panels of the tile's
/// width: panel p holds, for each k, the elements of lanes p·width ... side by side. What stands for
/// lanes that the last panel lacks is never read. `packed` needs ceil(lanes / width) · width · depth elements.
struct PackArguments {
  const std::byte* source;
  std::int64_t lane_stride;
  std::int64_t depth_stride;
  std::int64_t lanes;
  std::int64_t depth;
  std::byte* packed;
};

/// An operand as the block kernel reads it, packed or in place: element k of a lane stands at
/// data + (lane / tile)·panel_stride + (lane % tile)·item size + k·depth_stride.
struct Panels {
  const std::byte* data;
  std::int64_t panel_stride;
  std::int64_t depth_stride;
};

/// out[r, c] = finish(start[r, c] + sum_k left[r, k] · right[k, c]) for one block of the output.
struct MatmulTBlock {
  Panels left, right;
  std::int64_t rows, cols, depth;
  std::int64_t run_length;  // so many terms are summed one after another
  std::byte* out;
  std::int64_t out_row, out_col;    // any strides; vector stores where out_col is the element size
  bool accumulate;                  // start is out[r, c], else 0
  bool finish = false;              // finish(x) is activation(x + bias), else x
  const std::byte* bias = nullptr;  // null: none. bias_col is 0 (a bias per row) or the element size (per column)
  std::int64_t bias_row = 0, bias_col = 0;
  Activation activation = Activation::none;
};

/// out[r, c] = activation(sum_k left[r, k] · right[k, c] + bias[r, c]), read in place. Strides in bytes; those of the
/// bias are 0 where it repeats.
struct ThinProduct {
  const std::byte* left;
  std::int64_t left_row, left_depth;
  const std::byte* right;
  std::int64_t right_col, right_depth;
  std::int64_t rows, cols, depth;
  std::byte* out;
  std::int64_t out_row, out_col;
  const std::byte* bias;  // null: none
  std::int64_t bias_row, bias_col;
  Activation activation;
  bool stream;  // outer: the result is written past the caches; neither bias nor activation then
  bool far;     // sweep: right comes from beyond the second-level cache
};

struct MatmulTKernels {
  void (*pack_left)(const PackArguments&);
  void (*pack_right)(const PackArguments&);
  void (*block)(const MatmulTBlock&);
  void (*outer)(const ThinProduct&);  // depth 1; columns of right, out and a bias along them are adjacent
  void (*sweep)(const ThinProduct&);  // at most kSweepRows rows; columns of right are adjacent
  void (*dots)(const ThinProduct&);   // at most kDotRows rows; depth is adjacent in both operands
};

/// Positions and distances that no key is beyond.
constexpr std::int64_t kUnbounded = std::int64_t{1} << 40;

/// Queries of one or more heads that share keys and values, and what they attend to: all keys that they see, or one
/// part of them. Strides in bytes.
struct AttentionPiece {
  std::int64_t heads, rows;  // `rows` consecutive queries of each of `heads` heads
  std::int64_t depth, value_depth;
  DType q_dtype;  // of queries and results, of lse what is computed with
  const std::byte* q;
  std::int64_t q_head, q_row, q_col;
  const std::byte* k;
  std::int64_t k_row, k_col;
  const std::byte* v;
  std::int64_t v_row, v_col;
  const float* k_scales;  // null: none; else one for each key, by which it is multiplied; readable for whole vectors
  const float* v_scales;
  std::byte* out;
  std::int64_t out_head, out_row, out_col;
  std::byte* lse;  // null: not wanted
  std::int64_t lse_head, lse_row;

  std::int64_t first_key;    // those before are masked
  std::int64_t keys;         // and those from here on
  std::int64_t position;     // of the first query; it sees the keys position - left ... position + right
  std::int64_t left, right;  // at most kUnbounded
  double scale;
  double softcap;  // 0: none

  /// Something that has a value for every score of this piece.
  struct Scores {
    const std::byte* data;  // null: none
    DType dtype;
    std::int64_t head, row, col;
  };
  Scores mask, bias;
  const double* slopes;  // null: none; else one for each head
  const double* sinks;   // likewise

  // The operands of the piece that probably follows; null: none does.
  const std::byte* next_q;
  const std::byte* next_k;
  const std::byte* next_v;
  std::int64_t next_keys;

  // Keys from part · part_keys on are a part of their own, for each of `parts` parts from first_part on. For attend(),
  // 1: the piece is all there is and its results are written; more: it is one of these.
  std::int64_t parts, first_part, part_keys;
  bool in_place;  // few queries: keys and values, whose elements are adjacent, are not packed
  bool far;       // those of the whole call are kStreamedFarBytes or more: the caches do not hold them

  // Working memory, aligned to 64 bytes; its sizes are those of Plan::place_memory().
  std::int64_t block_kv;  // keys that are packed and met at a time, at most kMostKeys
  std::byte* queries;     // those of a tile, kScoreRow elements each
  std::byte* packed_k;
  std::byte* packed_v;
  bool pack_v;               // v is not as the product reads it; else it is read in place
  std::byte* scores;         // kScoreRow elements for each row of a tile
  std::byte* staged_bias;    // a row of it
  std::byte* staged_mask;    // likewise
  std::int64_t state_bytes;  // from what is known after one part to that after the next:
  std::byte* maxima;         // per query
  std::byte* totals;         // a vector per query
  std::byte* sums;           // sum_row bytes per query
  std::int64_t sum_row;
};

struct AttentionKernels {
  void (*attend)(const AttentionPiece&);
  void (*finish)(const AttentionPiece&);  // where there are several parts, after attend() of each
};

/// The arithmetic limit of one core: runs `rounds` rounds of independent fused multiply-adds in registers (multiply and
/// add in the scalar tier) and returns how many floating-point operations that were.
using FmaProbe = std::int64_t (*)(std::int64_t rounds);

/// The limit of a softmax on one core: runs the pass of attention over `rows` rows of scores in L1 (largest score,
/// powers of two of the scaled differences, their sum) and returns how many scores that were.
using SoftmaxProbe = std::int64_t (*)(std::int64_t rows);

/// The memory limit: reads one piece of memory and then writes another, whole cache lines only. `stream` writes past
/// the caches, which is faster where the memory does not fit them.
struct MemoryProbe {
  const std::byte* read;
  std::int64_t read_bytes;
  std::byte* write;
  std::int64_t write_bytes;
  bool stream;
};

struct KernelTable {
  MatmulTKernels matmul_t[kDTypeCount];
  AttentionKernels attention[kStoredDTypes];  // by the dtype of keys and values
  FmaProbe fma_probe[kDTypeCount];
  SoftmaxProbe softmax_probe[kDTypeCount];
  void (*memory_probe)(const MemoryProbe&);
};

namespace scalar {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}

/// The kernels of a tier. The caller has made sure that this machine can run it.
const KernelTable& kernels(Isa isa);

}  // namespace transfuse
