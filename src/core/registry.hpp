// Tuned configurations by (tier, dtype, bucket of sizes), for one operation.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>

#include "transfuse/isa.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// `Sizes` is how many sizes of the problem count; each falls into the bucket of its power of two. A look-up in an
/// empty registry costs one atomic load.
template <class Config, std::size_t Sizes>
class Registry {
 public:
  using Problem = std::array<std::int64_t, Sizes>;

  void set(Isa isa, DType dtype, const Problem& problem, const Config& config) {
    const std::unique_lock lock(mutex_);
    entries_.insert_or_assign(key(isa, dtype, problem), config);
    empty_.store(false, std::memory_order_release);
  }

  std::optional<Config> find(Isa isa, DType dtype, const Problem& problem) const {
    if (empty_.load(std::memory_order_acquire)) return std::nullopt;
    const std::shared_lock lock(mutex_);
    const auto entry = entries_.find(key(isa, dtype, problem));
    if (entry == entries_.end()) return std::nullopt;
    return entry->second;
  }

  void clear() {
    const std::unique_lock lock(mutex_);
    entries_.clear();
    empty_.store(true, std::memory_order_release);
  }

  /// Around fork(): held across it, so that no child inherits a registry in the middle of a change. The child makes the
  /// lock anew, because it has no thread that could release what the parent's thread holds.
  void before_fork() { mutex_.lock(); }
  void after_fork_in_parent() { mutex_.unlock(); }
  void after_fork_in_child() { std::construct_at(&mutex_); }

 private:
  using Key = std::array<std::uint8_t, Sizes + 2>;

  static Key key(Isa isa, DType dtype, const Problem& problem) {
    Key key{static_cast<std::uint8_t>(isa), static_cast<std::uint8_t>(dtype)};
    for (std::size_t i = 0; i < Sizes; ++i)
      key[i + 2] = static_cast<std::uint8_t>(std::bit_width(static_cast<std::uint64_t>(problem[i])));
    return key;
  }

  mutable std::shared_mutex mutex_;
  std::map<Key, Config> entries_;
  std::atomic<bool> empty_{true};
};

}  // namespace transfuse
