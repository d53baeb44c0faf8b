// Which configuration a call uses.
#pragma once

#include "core/parameters.hpp"
#include "transfuse/tuned.hpp"

namespace transfuse {

/// What the caller's `config` does not say is the tuned value, else the default.
template <class Problem>
typename Problem::Config choose_config(Isa isa, DType dtype, const Problem& problem, int threads,
                                       const typename Problem::Config& config,
                                       const typename Problem::Config& defaults) {
  const auto tuned = find_tuned(isa, dtype, problem, threads);
  return merge_configs(config, tuned ? merge_configs(*tuned, defaults) : defaults);
}

}  // namespace transfuse
