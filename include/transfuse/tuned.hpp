/// \file
/// The registry of tuned configurations. An entry replaces the defaults of the constants table for one operation,
/// tier, dtype, bucket of shapes and number of threads; every later call of that kind uses it.
///
/// Sizes count in buckets of powers of two. A call uses the entry of its own bucket; where there is none, that of the
/// nearest one, if the differences of all sizes sum up to at most 2 octaves (factors of two); else the default. Of the
/// entries of a bucket it uses the one for the nearest number of threads. What affects rounding (block_k; block_kv and
/// key_chunk) is the same for every number of threads, that of the bucket's last entry, so that results are too.
///
/// All functions are safe to call from any thread. A look-up takes no lock: below 10 ns where the bucket itself has an
/// entry, else some 20 ns among 100 entries of a tier and dtype, and where there are none one load from memory.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "transfuse/attention.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// The sizes that decide which entry a call of matmul_t uses.
struct MatmulTProblem {
  using Config = MatmulTConfig;
  std::int64_t batch, m, k, n;
};

/// Those of attention, whose dtype is that of k. `causal` is 0, or 1 for any causal alignment: an octave apart.
struct AttentionProblem {
  using Config = AttentionConfig;
  std::int64_t batch, q_heads, kv_heads, queries, keys, head_dim, causal;
};

/// Zeros in `config` keep the default of that parameter.
template <class Problem>
struct TunedEntry {
  Isa isa;
  DType dtype;
  Problem problem;
  typename Problem::Config config;
  int threads = 1;
};

/// Adds entries, in order: each replaces what is there for its bucket and number of threads.
/// \throws ValueError if a value of a configuration is out of its range; nothing is changed then.
void set_tuned(std::span<const TunedEntry<MatmulTProblem>> entries);
void set_tuned(std::span<const TunedEntry<AttentionProblem>> entries);

/// Adds one.
template <class Problem = MatmulTProblem>
void set_tuned(Isa isa, DType dtype, const Problem& problem, const typename Problem::Config& config, int threads = 1) {
  const TunedEntry<Problem> entry{isa, dtype, problem, config, threads};
  set_tuned(std::span(&entry, 1));
}

/// The configuration that a call of this kind would use, or nothing.
std::optional<MatmulTConfig> find_tuned(Isa isa, DType dtype, const MatmulTProblem& problem, int threads = 1);
std::optional<AttentionConfig> find_tuned(Isa isa, DType dtype, const AttentionProblem& problem, int threads = 1);

/// The configuration of a call of this kind without an entry, if its operands are adjacent in memory.
MatmulTConfig default_config(Isa isa, DType dtype, const MatmulTProblem& problem);
AttentionConfig default_config(Isa isa, DType dtype, const AttentionProblem& problem);

/// Forgets every entry of every operation.
void clear_tuned();

}  // namespace transfuse
