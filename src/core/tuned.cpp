#include "transfuse/tuned.hpp"

#include <pthread.h>

#include "core/parameters.hpp"
#include "core/registry.hpp"

namespace transfuse {
namespace {

Registry<MatmulTConfig, 4>& matmul_t_registry() {
  static auto* const registry = [] {
    auto* created = new Registry<MatmulTConfig, 4>;  // never destroyed: a thread may still call at exit
    pthread_atfork([] { matmul_t_registry().before_fork(); }, [] { matmul_t_registry().after_fork_in_parent(); },
                   [] { matmul_t_registry().after_fork_in_child(); });
    return created;
  }();
  return *registry;
}

}  // namespace

void set_tuned(Isa isa, DType dtype, const MatmulTProblem& problem, const MatmulTConfig& config) {
  check_config(config);
  matmul_t_registry().set(isa, dtype, {problem.batch, problem.m, problem.k, problem.n}, config);
}

std::optional<MatmulTConfig> find_tuned(Isa isa, DType dtype, const MatmulTProblem& problem) {
  return matmul_t_registry().find(isa, dtype, {problem.batch, problem.m, problem.k, problem.n});
}

void clear_tuned() { matmul_t_registry().clear(); }

}  // namespace transfuse
