// Every number that somebody might tune, per (operation, tier, dtype), in one place. The kernels take their tile shapes
// from here at compile time; the operations take the rest at run time. A tuned configuration (transfuse/tuned.hpp)
// replaces the blocks of a row.
//
// How the numbers were found: docs/constants.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transfuse/attention.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// Bytes.
inline constexpr std::int64_t kCacheLine = 64;

struct MatmulTConstants {
  Isa isa;
  DType dtype;
  // The micro-kernel's tile of the output: rows x (vectors · width) elements, held in registers. It leaves one register
  // for the broadcast operand and `vectors` for the other one: 6·2 + 3 <= 16 for AVX2, 14·2 + 3 <= 32 for AVX-512.
  int tile_rows;
  int tile_vectors;
  MatmulTConfig blocks;
  // An operand whose lanes are adjacent is read in place while the other one has at most so many lanes (tiles of it
  // that read the same data again); beyond, packing pays.
  std::int64_t pack_left_beyond;
  std::int64_t pack_right_beyond;
};

constexpr MatmulTConstants kMatmulTConstants[] = {
    {Isa::scalar, DType::float32, 4, 4, {.block_m = 128, .block_n = 128, .block_k = 256}, 64, 64},
    {Isa::scalar, DType::float64, 4, 4, {.block_m = 128, .block_n = 128, .block_k = 256}, 64, 64},
    {Isa::avx2, DType::float32, 6, 2, {.block_m = 240, .block_n = 72, .block_k = 512}, 128, 64},
    {Isa::avx2, DType::float64, 6, 2, {.block_m = 240, .block_n = 72, .block_k = 384}, 128, 64},
    {Isa::avx512, DType::float32, 14, 2, {.block_m = 256, .block_n = 84, .block_k = 512}, 512, 64},
    {Isa::avx512, DType::float64, 14, 2, {.block_m = 256, .block_n = 84, .block_k = 512}, 512, 64},
};

/// Terms of an inner product that are summed one after another, before their sum is added to that of the terms before.
/// A thin result, with fewer than kThin rows or columns, has few elements among which the largest error is sought, and
/// the libraries that we are measured against sum it in many short pieces.
constexpr std::int64_t kRunLength = 256;
constexpr std::int64_t kThinRunLength = 8;
constexpr std::int64_t kThin = 16;

/// Work is counted in multiply-adds; storing an element of the result counts as so many.
constexpr std::int64_t kStoreWork = 16;

/// Below this much work a call stays on its own thread: waking the others costs about as much.
constexpr std::int64_t kParallelWork = 600'000;

/// The least work that is worth a chunk of its own in a parallel loop, and how many chunks a loop should have.
constexpr std::int64_t kChunkWork = 50'000;
constexpr std::int64_t kChunks = 32;

/// Products of so few rows read the other operand once, in place: `sweep` if its columns are adjacent and there are
/// enough of them to fill vectors, `dots` if its depth is, and long enough to pay for adding up a vector's lanes.
constexpr std::int64_t kSweepRows = 16;
constexpr std::int64_t kSweepCols = 64;
constexpr std::int64_t kDotRows = 4;
constexpr std::int64_t kDotDepth = 512;

/// Columns from which on `dots` is worth a copy of its left operand.
constexpr std::int64_t kCopyCols = 256;

/// The least work (multiply-adds, or stores of an outer product) that is a chunk of such a product.
constexpr std::int64_t kThinChunk = 65'536;

/// From so many bytes on, `sweep` asks for its right operand ahead.
constexpr std::int64_t kFarBytes = std::int64_t{8} << 20;

/// An outer product of so many bytes is written past the caches.
constexpr std::int64_t kStreamBytes = std::int64_t{128} << 20;

/// Panels of adjacent lanes that are packed side by side; a chunk of parallel packing.
constexpr int kPackPanels = 4;

/// Steps of depth that a chunk copies of a left operand of few rows.
constexpr std::int64_t kCopyChunk = 4096;

/// Up to this much work, each thread computes a piece of a product by itself, and packs what it needs for that; beyond,
/// threads share what they pack. Packing an element costs about as much as so many multiply-adds.
constexpr std::int64_t kCutWork = 250'000'000;
constexpr std::int64_t kPackWork = 10;

/// A product of few elements and long sums is computed in pieces of its depth, which are added up afterwards, so that
/// there is work for many threads and no sum is long. A piece is at least so deep, and there are at most kChunks.
constexpr std::int64_t kSplitElements = 1024;
constexpr std::int64_t kSplitDepth = 2048;

/// From this much work on, each matrix of a batch is computed by all threads together; below, by one thread each.
constexpr std::int64_t kTeamWork = 4'000'000;

/// Operands of a batch that are no larger are asked for while the product before theirs is computed.
constexpr std::int64_t kPrefetchBytes = std::int64_t{128} << 10;

/// Below this much work (some microseconds) a call from Python keeps the interpreter lock.
constexpr std::int64_t kReleaseLockWork = 400'000;

/// What one packed operand occupies at most.
constexpr std::int64_t kPackedBytes = std::int64_t{4} << 20;

struct AttentionConstants {
  Isa isa;
  DType dtype;
  AttentionConfig blocks;
};

/// The tiles are those of matmul_t.
constexpr AttentionConstants kAttentionConstants[] = {
    {Isa::scalar, DType::float32, {.block_q = 64, .block_kv = 256, .key_chunk = 1024}},
    {Isa::scalar, DType::float64, {.block_q = 64, .block_kv = 256, .key_chunk = 1024}},
    {Isa::avx2, DType::float32, {.block_q = 512, .block_kv = 256, .key_chunk = 1024}},
    {Isa::avx2, DType::float64, {.block_q = 512, .block_kv = 256, .key_chunk = 1024}},
    {Isa::avx512, DType::float32, {.block_q = 512, .block_kv = 256, .key_chunk = 1024}},
    {Isa::avx512, DType::float64, {.block_q = 512, .block_kv = 256, .key_chunk = 1024}},
};

/// Keys in a block at most, and elements from one row of its scores to the next: known at compile time, so that the
/// rows of a tile need no address each, and no power of two, so that they do not share a set of L1.
constexpr std::int64_t kMostKeys = 1024;
constexpr std::int64_t kScoreRow = kMostKeys + 16;

/// Multiply-adds from which on attention is worth several threads: less than kParallelWork, for there are exponentials
/// too.
constexpr std::int64_t kAttentionParallelWork = 200'000;

/// Up to so many queries that share keys, those of all heads of a group together, threads share the keys in parts of
/// key_chunk (more queries are enough for several threads); and up to so many, keys and values are read in place (for
/// more, packing pays).
constexpr std::int64_t kSplitQueries = 64;
constexpr std::int64_t kInPlaceQueries = 16;

constexpr bool read_in_place(std::int64_t queries, std::int64_t depth) {
  return queries <= kInPlaceQueries && depth <= kRunLength;
}

/// In place, blocks of keys are as large as that all queries have so many scores at most: longer streams from memory.
/// Powers of two, so that parts of key_chunk are whole blocks.
constexpr std::int64_t kInPlaceScores = 8192;

/// In place, all queries meet so many keys before the next ones: some 8 KiB, which the first-level cache holds. Their
/// values are summed up before their sum is added to that of the keys before.
constexpr std::int64_t kInPlaceKeys = 16;

/// Up to so many queries are streamed (so few, where elements are converted; see kernels/in_place.hpp). With more, what
/// lies kTiledAhead bytes further on is asked for; with few, kStreamedAhead if keys and values have so many bytes that
/// they come from beyond the last cache (measured with one of 32 MiB).
constexpr std::int64_t kStreamedQueries = 4;
constexpr std::int64_t kStreamedConverted = 1;
constexpr std::int64_t kTiledAhead = 32768;
constexpr std::int64_t kStreamedAhead = 2048;
constexpr std::int64_t kStreamedFarBytes = std::int64_t{20} << 20;

/// Pieces of attention that each thread should have at least, unless they would have fewer queries than kPieceRows.
constexpr std::int64_t kAttentionPieces = 4;
constexpr std::int64_t kPieceRows = 64;

constexpr const MatmulTConstants& matmul_t_constants(Isa isa, DType dtype) {
  return kMatmulTConstants[static_cast<int>(isa) * kDTypeCount + static_cast<int>(dtype)];
}

constexpr const AttentionConstants& attention_constants(Isa isa, DType dtype) {
  return kAttentionConstants[static_cast<int>(isa) * kDTypeCount + static_cast<int>(dtype)];
}

/// Elements of a vector register.
constexpr int vector_width(Isa isa, DType dtype) {
  const int bytes = isa == Isa::avx512 ? 64 : isa == Isa::avx2 ? 32 : static_cast<int>(item_size(dtype));
  return bytes / static_cast<int>(item_size(dtype));
}

/// One row for each tier and dtype, in order.
template <class Row, std::size_t Count>
constexpr bool is_complete(const Row (&rows)[Count]) {
  for (std::size_t i = 0; i < Count; ++i)
    if (i != static_cast<std::size_t>(rows[i].isa) * kDTypeCount + static_cast<std::size_t>(rows[i].dtype))
      return false;
  return Count == kIsaCount * kDTypeCount;
}
static_assert(is_complete(kMatmulTConstants) && is_complete(kAttentionConstants));

}  // namespace transfuse
