// The parts of default_threads() that can be tested on their own.
#pragma once

#include <filesystem>
#include <optional>

#include "transfuse/threads.hpp"

namespace transfuse {

/// Whole CPUs that the control group of this process may use (at least 1), or nothing where there is no quota.
/// Understands cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us); a quota may stand at any ancestor, the least one counts.
/// `root` replaces "/" in tests.
std::optional<int> cgroup_cpus(const std::filesystem::path& root = "/");

/// The CPUs that this process may run on.
int affinity_cpus();

/// True in a child of fork(): OpenMP's threads did not survive, and waiting for them would hang.
bool is_forked_child();

}  // namespace transfuse
