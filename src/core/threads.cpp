#include "core/threads.hpp"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

namespace transfuse {
namespace {

std::atomic<bool> forked_child{false};

// Registered when the library is loaded, because another library may have started OpenMP's threads before us.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child.store(true, std::memory_order_relaxed); });

std::optional<double> read_v2_quota(const std::filesystem::path& folder) {
  std::string quota;
  double period = 0;
  if (!(std::ifstream(folder / "cpu.max") >> quota >> period) || period <= 0) return std::nullopt;
  const double limit = std::strtod(quota.c_str(), nullptr);  // 0 for "max"
  if (limit <= 0) return std::nullopt;
  return limit / period;
}

std::optional<double> read_v1_quota(const std::filesystem::path& folder) {
  double quota = 0;
  double period = 0;
  std::ifstream(folder / "cpu.cfs_quota_us") >> quota;
  std::ifstream(folder / "cpu.cfs_period_us") >> period;
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// The least quota from `folder` up to and including `top`.
template <class Read>
std::optional<double> least_quota(const std::filesystem::path& top, const std::filesystem::path& below, Read read) {
  std::optional<double> least = read(top);
  std::filesystem::path folder = top;
  for (const auto& part : below.relative_path()) {
    folder /= part;
    const std::optional<double> quota = read(folder);
    if (quota && (!least || *quota < *least)) least = quota;
  }
  return least;
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');)
    if (name == "cpu") return true;
  return false;
}

}  // namespace

// Each line of /proc/self/cgroup is "id:controllers:path"; the controllers are empty for cgroup v2.
std::optional<int> cgroup_cpus(const std::filesystem::path& root) {
  const std::filesystem::path mount = root / "sys/fs/cgroup";
  std::optional<double> least;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    std::optional<double> quota;
    if (controllers.empty()) {
      quota = least_quota(mount, path, read_v2_quota);
    } else if (lists_cpu(controllers)) {
      quota = least_quota(mount / "cpu", path, read_v1_quota);
    }
    if (quota && (!least || *quota < *least)) least = quota;
  }
  if (!least) return std::nullopt;
  return std::max(1, static_cast<int>(std::min(*least, 1e6)));  // a thread beyond the quota would only be throttled
}

int affinity_cpus() {
  // The kernel refuses a mask shorter than its own, whose size is unknown: ask with ever larger ones.
  for (std::size_t cpus = CPU_SETSIZE; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(cpus), [](cpu_set_t* s) { CPU_FREE(s); });
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    if (sched_getaffinity(0, bytes, set.get()) == 0) return std::max(1, CPU_COUNT_S(bytes, set.get()));
  }
  return omp_get_num_procs();
}

bool is_forked_child() { return forked_child.load(std::memory_order_relaxed); }

ThreadDefault default_threads() {
  if (is_forked_child()) return {1, "forked process"};
  ThreadDefault result{omp_get_max_threads(), "OpenMP"};
  const int affinity = affinity_cpus();
  if (affinity < result.count) result = {affinity, "CPU affinity"};
  static const std::optional<int> quota = cgroup_cpus();
  if (quota && *quota < result.count) result = {*quota, "cgroup quota"};
  return result;
}

}  // namespace transfuse
