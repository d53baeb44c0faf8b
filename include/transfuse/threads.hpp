/// \file
/// How many threads a call uses when it is not told.
#pragma once

namespace transfuse {

struct ThreadDefault {
  int count;
  const char* source;  ///< what set the limit: "OpenMP", "CPU affinity", "cgroup quota" or "forked process"
};

/// min(omp_get_max_threads(), CPU affinity, cgroup quota), at least 1; always 1 in a forked child.
ThreadDefault default_threads();

}  // namespace transfuse
