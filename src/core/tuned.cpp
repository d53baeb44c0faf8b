#include "transfuse/tuned.hpp"

#include <pthread.h>

#include <algorithm>
#include <vector>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"
#include "core/parameters.hpp"
#include "core/registry.hpp"
#include "transfuse/error.hpp"

namespace transfuse {
namespace {

// Never destroyed (their destructors do nothing): a thread may still call at exit.
constinit Registry<MatmulTConfig, 4> matmul_t_registry;
constinit Registry<AttentionConfig, 7> attention_registry;

[[maybe_unused]] const int fork_handlers = pthread_atfork(
    [] {
      matmul_t_registry.before_fork();
      attention_registry.before_fork();
    },
    [] {
      attention_registry.after_fork_in_parent();
      matmul_t_registry.after_fork_in_parent();
    },
    [] {
      attention_registry.after_fork_in_child();
      matmul_t_registry.after_fork_in_child();
    });

std::array<std::int64_t, 4> sizes(const MatmulTProblem& p) { return {p.batch, p.m, p.k, p.n}; }
std::array<std::int64_t, 7> sizes(const AttentionProblem& p) {
  return {p.batch, p.q_heads, p.kv_heads, p.queries, p.keys, p.head_dim, p.causal};
}

template <class Registry, class Problem>
void set_in(Registry& registry, std::span<const TunedEntry<Problem>> entries) {
  std::vector<typename Registry::Entry> checked;
  for (const TunedEntry<Problem>& entry : entries) {
    check_config(entry.config);
    checked.push_back({entry.isa, entry.dtype, sizes(entry.problem), entry.threads, entry.config});
  }
  registry.set(checked);
}

}  // namespace

void set_tuned(std::span<const TunedEntry<MatmulTProblem>> entries) { set_in(matmul_t_registry, entries); }
void set_tuned(std::span<const TunedEntry<AttentionProblem>> entries) { set_in(attention_registry, entries); }

std::optional<MatmulTConfig> find_tuned(Isa isa, DType dtype, const MatmulTProblem& problem, int threads) {
  return matmul_t_registry.find(isa, dtype, sizes(problem), threads);
}

std::optional<AttentionConfig> find_tuned(Isa isa, DType dtype, const AttentionProblem& problem, int threads) {
  return attention_registry.find(isa, dtype, sizes(problem), threads);
}

MatmulTConfig default_config(Isa isa, DType dtype, const MatmulTProblem&) {
  return matmul_t_constants(isa, dtype).blocks;
}

AttentionConfig default_config(Isa isa, DType dtype, const AttentionProblem& p) {
  AttentionConfig config = attention_constants(isa, compute_dtype(dtype)).blocks;
  const std::int64_t sharing =
      saturating_multiply(p.q_heads / std::max<std::int64_t>(1, p.kv_heads), std::max<std::int64_t>(1, p.queries));
  if (read_in_place(sharing, p.head_dim) &&
      isa != Isa::scalar)  // which sums up the probabilities of a block one after another
    config.block_kv = std::min(kMostKeys, power_of_two_below(kInPlaceScores / std::max<std::int64_t>(1, sharing)));
  return config;
}

void clear_tuned() {
  matmul_t_registry.clear();
  attention_registry.clear();
}

}  // namespace transfuse
