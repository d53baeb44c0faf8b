/// \file
/// The keys and values of a generation so far, kept so that attention reads them fast and nothing of the past is
/// copied.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transfuse/tensor.hpp"

namespace transfuse {

/// What a cache holds at one moment. It stays as it is while the cache grows or takes more tokens.
struct CachedTokens {
  std::shared_ptr<const std::byte> memory;  ///< in which everything lies
  DType dtype;
  std::int64_t shape[4];                      ///< of the keys: (batch, heads, longest length, D)
  std::int64_t value_shape[4];                ///< of the values: (batch, heads, longest length, Dv)
  std::int64_t strides[4], value_strides[4];  ///< in bytes
  std::int64_t scale_strides[3];              ///< of both scales, likewise
  const std::byte *k, *v;
  const float *k_scales, *v_scales;   ///< of each token of each head, what its elements are multiplied by; null: none
  std::vector<std::int64_t> lengths;  ///< (batch,), tokens of each sequence

  ConstTensorView keys() const { return {k, dtype, shape, strides}; }
  ConstTensorView values() const { return {v, dtype, value_shape, value_strides}; }
};

/// Keys and values of `batch` sequences, each with its own length.
///
/// Layout: (batch, heads, capacity, depth), so that the tokens of a head stream from memory in the order in which
/// attention meets them, and appending one writes one row of each head. Rows of keys are not transposed into panels:
/// for few queries memory is the limit, not the sums over a row (docs/performance.md).
///
/// int8: each token of each head is divided by a scale of its own, the largest magnitude / 127, and rounded, so that no
/// element is off by more than half a scale (1/254 of the token's largest). A token whose largest is below 1.5e-36 is
/// stored as zeros, because its scale has no reciprocal.
///
/// Any number of threads may read while none changes it; what attention() and tokens() have begun to read stays valid
/// through append() and grow().
class KVCache {
 public:
  /// \param dtype  float32, float64, float16, bfloat16 or int8
  /// \throws ValueError, TypeError (dtype), std::bad_alloc
  KVCache(std::int64_t batch, std::int64_t kv_heads, std::int64_t capacity, std::int64_t head_dim,
          std::int64_t v_head_dim, DType dtype);

  std::int64_t batch() const { return batch_; }
  std::int64_t kv_heads() const { return heads_; }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t head_dim() const { return depth_; }
  std::int64_t v_head_dim() const { return value_depth_; }
  DType dtype() const { return dtype_; }
  std::int64_t bytes() const { return bytes_; }
  std::span<const std::int64_t> lengths() const { return lengths_; }
  CachedTokens tokens() const;

  /// Adds tokens to the end of each sequence.
  ///
  /// \param k  (batch, heads, T, D), of the cache's dtype; for int8 float32, float16 or bfloat16, all finite
  /// \param v  (batch, heads, T, Dv), of the dtype of k
  /// \param lengths  nothing, or how many of the T tokens count, for each sequence
  /// \throws ValueError (shapes; a sequence would exceed the capacity), TypeError; the cache is as before then.
  void append(const ConstTensorView& k, const ConstTensorView& v, std::span<const std::int64_t> lengths = {});

  /// Forgets the tokens from lengths[b] on, whose memory stays. \throws ValueError if a sequence is shorter
  void truncate(std::span<const std::int64_t> lengths);

  /// Forgets all tokens, whose memory stays.
  void reset();

  /// Makes room for `capacity` tokens of each sequence: copies what is there to new memory, also if that is no more but
  /// tokens were forgotten, whose memory goes back to the system then.
  /// \throws ValueError if that is less than the capacity, std::bad_alloc
  void grow(std::int64_t capacity);

 private:
  struct Layout;
  Layout layout(std::int64_t capacity) const;

  std::int64_t batch_, heads_, capacity_ = 0, depth_, value_depth_;
  DType dtype_;
  std::int64_t bytes_ = 0;
  bool forgot_ = false;  // since the memory was taken
  std::vector<std::int64_t> lengths_;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace transfuse
