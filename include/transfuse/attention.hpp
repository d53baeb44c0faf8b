/// \file
/// Attention, softmax(scale·q·kᵀ)·v, with every option in one pass.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "transfuse/isa.hpp"
#include "transfuse/kv_cache.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// Query i stands at position i + offset among the keys, and sees keys up to its own position.
enum class Causal : std::uint8_t {
  no,
  yes,          ///< needs as many queries as keys, or a query_offset
  upper_left,   ///< the first query stands at the first key (PyTorch)
  lower_right,  ///< the last query stands at the last key (flash-attn)
};

/// Where heads and sequence stand among the dimensions: (..., heads, sequence, depth) or (..., sequence, heads, depth).
enum class HeadLayout : std::uint8_t { bhsd, bshd };

/// Blocking of attention. 0 means: the tuned value, else the default of the constants table. Only block_kv and
/// key_chunk affect rounding.
struct AttentionConfig {
  std::int64_t block_q = 0;   ///< queries that one piece of work computes, 1...2^20
  std::int64_t block_kv = 0;  ///< keys that are met at a time, 1...2^20; more than 1024 count as 1024
  /// Where few queries share keys, threads share the keys too: parts of so many, 1...2^20.
  std::int64_t key_chunk = 0;
};

/// Hq query heads, Hkv heads of keys and values, Lq queries, Lk keys; "..." are the leading dimensions of q, k and v,
/// broadcast against each other.
struct AttentionOptions {
  std::optional<ConstTensorView> mask = std::nullopt;  ///< boolean, broadcast to (..., Hq, Lq, Lk); true: attend
  std::optional<ConstTensorView> bias = std::nullopt;  ///< the dtype of q or float32, broadcast likewise; -inf masks
  Causal causal = Causal::no;
  std::span<const std::int64_t> query_offset = {};             ///< nothing, one for all, or one for each of "..."
  std::optional<double> scale = std::nullopt;                  ///< default: 1/√D
  std::optional<std::int64_t> window_left = std::nullopt;      ///< keys before a query's position that it sees
  std::optional<std::int64_t> window_right = std::nullopt;     ///< and after it; default: all
  std::optional<double> softcap = std::nullopt;                ///< c: scores become c·tanh(s/c)
  std::optional<ConstTensorView> alibi_slopes = std::nullopt;  ///< (Hq,), the dtype of q or float32
  std::optional<ConstTensorView> sinks = std::nullopt;         ///< (Hq,), likewise: one more logit per head
  std::span<const std::int64_t> kv_lengths = {};  ///< nothing, or one for each of "...": keys from there on are masked
  HeadLayout layout = HeadLayout::bhsd;
  int num_threads = 0;                    ///< 0 = default_threads(); cut to the larger of 64 and four times the CPUs
  std::optional<Isa> isa = std::nullopt;  ///< default: current_isa()
  AttentionConfig config = {};
};

/// The shape of the result, (..., Hq, Lq, Dv) in the given layout. \throws as attention()
Shape attention_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, HeadLayout layout);

/// The shape of lse, (..., Hq, Lq) in either layout. \throws as attention()
Shape attention_lse_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                          HeadLayout layout);

/// out[..., h, i, :] = sum_j p[j] · v[..., h / (Hq / Hkv), j, :], where p is the softmax over the keys j that query i
/// sees, of s[j] = cap(scale · q[i]·k[j]) + bias[i, j] - slope·|position(i) - j|. A query that sees no key gets zeros.
///
/// \param q  (..., Hq, Lq, D), float32, float64, or float16 or bfloat16, which are computed in float32; any strides;
///   (Lq, D) is one head
/// \param k  (..., Hkv, Lk, D), the dtype of q; Hq is a multiple of Hkv
/// \param v  (..., Hkv, Lk, Dv), the dtype of q
/// \param out  (..., Hq, Lq, Dv) exactly, the dtype of q, any strides; may overlap neither an input nor itself
/// \param lse  (..., Hq, Lq), float64 for float64, else float32, or nothing: natural logarithm of the denominator, -inf
///   for an empty row
/// \throws ValueError, TypeError (dtypes), std::bad_alloc; nothing has been written then.
///
/// Keys that are masked never influence the result, even if they or their values are NaN or infinite. The result is
/// bitwise the same for every number of threads and every block_q. Extra memory: per thread 0.4 MiB at depth 64, more
/// with the depth, that do not grow with Lq or Lk; where few queries share keys, what is known of each of them after
/// every key_chunk keys besides: (Dv + 17) numbers of what is computed with.
///
/// Algorithm: blocks of keys with an online softmax (Milakov & Gimelshein, arXiv:1805.02867; Dao et al.,
/// arXiv:2205.14135; Dao, arXiv:2307.08691).
void attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, const TensorView& out,
               const std::optional<TensorView>& lse, const AttentionOptions& options = {});

/// The same with the keys and values of a cache: the queries are its last Lq positions, unless a query_offset says
/// otherwise. `options` must leave kv_lengths alone.
///
/// \param q  (batch, Hq, Lq, D), of the cache's dtype; float32, float16 or bfloat16 with one of int8
void attention(const ConstTensorView& q, const KVCache& cache, const TensorView& out,
               const std::optional<TensorView>& lse, const AttentionOptions& options = {});

}  // namespace transfuse
