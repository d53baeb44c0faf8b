// attention in two steps, so that Python can allocate the results in between and pay for the checks once.
#pragma once

#include <array>
#include <optional>

#include "operations/batch.hpp"
#include "transfuse/attention.hpp"
#include "transfuse/kv_cache.hpp"

namespace transfuse {

/// An operand's matrices: their number of heads, rows and columns, and strides in bytes.
struct Heads {
  std::int64_t heads, rows, cols;
  std::int64_t head, row, col;
};

/// \throws ValueError if it has less than two dimensions
Heads heads_of(const char* argument, const ConstTensorView& view, HeadLayout layout);

/// A checked triple of operands.
struct AttentionCall {
  ConstTensorView q, k, v;
  HeadLayout layout;
  Heads q_heads, k_heads, v_heads;
  Shape leading;       // the leading dimensions, broadcast
  std::int64_t batch;  // their product
  Shape out_shape, lse_shape;
  const CachedTokens* cache;  // null: k and v are arrays

  /// Multiply-adds at most; saturates.
  std::int64_t work() const;
};

/// \throws as attention_shape() does
AttentionCall prepare_attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                                HeadLayout layout);

/// With the keys and values of a cache, which must outlive the call.
AttentionCall prepare_attention(const ConstTensorView& q, const CachedTokens& tokens, HeadLayout layout);

/// Checks everything but the outputs.
void check_attention_options(const AttentionCall& call, const AttentionOptions& options);

/// Checks `out`: dtype, shape, overlap.
void check_attention_out(const AttentionCall& call, const TensorView& out, const AttentionOptions& options);

/// Checks `lse`, likewise.
void check_attention_lse(const AttentionCall& call, const TensorView& lse, const AttentionOptions& options);

/// Computes. Everything has been checked.
void run_attention(const AttentionCall& call, const TensorView& out, const std::optional<TensorView>& lse,
                   const AttentionOptions& options);

}  // namespace transfuse
