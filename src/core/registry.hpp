// Tuned configurations by (tier, dtype, bucket of sizes, threads), for one operation.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "core/parameters.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// One bit width of a size per byte: its bucket is that power of two.
using BucketKey = std::uint64_t;

/// The sum of the differences of two keys' bytes, so the octaves between two buckets.
inline int octaves_between(BucketKey a, BucketKey b) {
  const auto vector = [](BucketKey key) { return _mm_cvtsi64_si128(static_cast<std::int64_t>(key)); };
  return _mm_cvtsi128_si32(_mm_sad_epu8(vector(a), vector(b)));
}

/// The entries of one tier and dtype; never changed once made.
///
/// The nearest bucket is sought among few candidates: keys that are at most kRadius octaves apart differ by no more in
/// the sum of their bytes, and the rows stand in the order of that sum.
template <class Config>
class TunedTable {
 public:
  static constexpr int kRadius = 2;

  struct Row {
    BucketKey key;
    int threads;
    Config config;
  };

  /// `rows` in any order, each (key, threads) once. `previous` stays reachable, because a reader may still be in it.
  TunedTable(std::vector<Row> rows, const TunedTable* previous) : rows_(std::move(rows)), previous_(previous) {
    const auto place = [](const Row& row) { return std::tuple(slot(total(row.key)), row.key, row.threads); };
    std::ranges::sort(rows_, {}, place);
    for (const Row& row : rows_) {
      keys_.push_back(row.key);
      ++first_[slot(total(row.key)) + 1];
    }
    keys_.push_back(~BucketKey{0});
    for (std::size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
  }

  const std::vector<Row>& rows() const { return rows_; }

  /// The row of the nearest bucket, the first in order among several; of its rows the one for the nearest number of
  /// threads, the smaller one of two. Null if no bucket is near.
  const Row* find(BucketKey key, int threads) const {
    const int sum = total(key);
    std::size_t best = begin(sum);
    while (best < end(sum) && keys_[best] != key) ++best;
    if (best == end(sum)) {
      best = begin(sum - kRadius);
      const int least = least_distance(key, best, end(sum + kRadius));
      if (least > kRadius) return nullptr;
      while (octaves_between(keys_[best], key) != least) ++best;
    }
    const auto beyond = [&](std::size_t i) { return std::abs(std::int64_t{rows_[i].threads} - threads); };
    for (std::size_t i = best + 1; i < rows_.size() && keys_[i] == keys_[best] && beyond(i) < beyond(best); ++i)
      best = i;
    return &rows_[best];
  }

 private:
  static constexpr int kSlots = 128;  // larger sums share the last one

  static int total(BucketKey key) { return octaves_between(key, 0); }
  static std::size_t slot(int total) { return static_cast<std::size_t>(std::clamp(total, 0, kSlots - 1)); }

  /// The rows of this sum.
  std::size_t begin(int total) const { return first_[slot(total)]; }
  std::size_t end(int total) const { return first_[slot(total) + 1]; }

  /// That of the keys from `first` up to `last`, and perhaps the one after, which stands there because it is further.
  int least_distance(BucketKey key, std::size_t first, std::size_t last) const {
    const __m128i wanted = _mm_set1_epi64x(static_cast<std::int64_t>(key));
    __m128i least = _mm_set1_epi64x(INT16_MAX);
    for (std::size_t i = first; i < last; i += 2) {
      const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&keys_[i]));
      least = _mm_min_epi16(least, _mm_sad_epu8(two, wanted));
    }
    return std::min(_mm_extract_epi16(least, 0), _mm_extract_epi16(least, 4));
  }

  std::vector<Row> rows_;
  std::vector<BucketKey> keys_;                    // those of rows_, side by side, and one that is far from all
  std::array<std::uint32_t, kSlots + 1> first_{};  // rows of a smaller sum
  const TunedTable* previous_;
};

/// `Sizes` is how many sizes of the problem count. A look-up takes no lock: it reads a table that is never changed. A
/// change makes a new one; the old ones are kept, for nobody knows when the last reader has left them (some 50 bytes
/// for each entry that they have). In an empty registry a look-up is one atomic load.
template <class Config, std::size_t Sizes>
class Registry {
 public:
  static_assert(Sizes <= sizeof(BucketKey));
  using Problem = std::array<std::int64_t, Sizes>;

  struct Entry {
    Isa isa;
    DType dtype;
    Problem problem;
    int threads;
    Config config;
  };

  /// Later entries replace earlier ones of the same bucket and number of threads. What affects rounding is the same for
  /// every number of threads: that of the last entry of the bucket.
  void set(std::span<const Entry> entries) {
    const std::scoped_lock lock(mutex_);
    for (std::size_t g = 0; g < tables_.size(); ++g) {
      const auto* const current = tables_[g].load(std::memory_order_relaxed);
      std::vector<Row> rows = current == nullptr ? std::vector<Row>() : current->rows();
      bool changed = false;
      for (const Entry& entry : entries) {
        if (group(entry.isa, entry.dtype) != g) continue;
        changed |= insert(rows, {key(entry.problem), entry.threads, entry.config});
      }
      if (changed) publish(g, std::move(rows));
    }
  }

  std::optional<Config> find(Isa isa, DType dtype, const Problem& problem, int threads) const {
    const auto* const table = tables_[group(isa, dtype)].load(std::memory_order_acquire);
    if (table == nullptr) return std::nullopt;
    const Row* const row = table->find(key(problem), threads);
    if (row == nullptr) return std::nullopt;
    return row->config;
  }

  void clear() {
    const std::scoped_lock lock(mutex_);
    for (auto& table : tables_) table.store(nullptr, std::memory_order_release);
  }

  /// Around fork(): held across it, so that no child inherits a registry in the middle of a change. The child makes the
  /// lock anew, because it has no thread that could release what the parent's thread holds.
  void before_fork() { mutex_.lock(); }
  void after_fork_in_parent() { mutex_.unlock(); }
  void after_fork_in_child() { std::construct_at(&mutex_); }

 private:
  using Table = TunedTable<Config>;
  using Row = typename Table::Row;

  static std::size_t group(Isa isa, DType dtype) {
    return static_cast<std::size_t>(isa) * kStoredDTypes + static_cast<std::size_t>(dtype);
  }

  static BucketKey key(const Problem& problem) {
    BucketKey key = 0;
    for (std::int64_t size : problem)
      key = key << 8 | static_cast<BucketKey>(std::bit_width(static_cast<std::uint64_t>(size)));
    return key;
  }

  /// Whether that changes anything.
  static bool insert(std::vector<Row>& rows, const Row& added) {
    bool known = false;
    bool changed = false;
    for (Row& row : rows) {
      if (row.key != added.key) continue;
      for (const auto& parameter : parameters(added.config)) {
        if (!parameter.rounds && row.threads != added.threads) continue;
        const std::int64_t value = added.config.*parameter.member;
        changed |= std::exchange(row.config.*parameter.member, value) != value;
      }
      known |= row.threads == added.threads;
    }
    if (!known) rows.push_back(added);
    return changed || !known;
  }

  void publish(std::size_t group, std::vector<Row> rows) {
    newest_[group] = new Table(std::move(rows), newest_[group]);
    tables_[group].store(newest_[group], std::memory_order_release);
  }

  std::mutex mutex_;
  std::array<std::atomic<const Table*>, kIsaCount * kStoredDTypes> tables_{};  // null where there are no entries
  std::array<const Table*, kIsaCount * kStoredDTypes> newest_{};               // of all that were made
};

}  // namespace transfuse
