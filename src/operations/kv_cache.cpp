#include "transfuse/kv_cache.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"
#include "core/memory.hpp"
#include "core/text.hpp"
#include "operations/checks.hpp"
#include "simd/element.hpp"
#include "transfuse/error.hpp"

namespace transfuse {
namespace {

/// Scales are read in whole vectors.
constexpr std::int64_t kScalePadding = 16;

class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// Zeroed memory that the system provides page by page as it is written; in huge pages where it has them, because those
/// are read faster, so that a head's first token takes 2 MiB.
std::shared_ptr<std::byte> allocate(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw NoMemory("capacity: no memory for " + std::to_string(bytes) + " bytes");
  if (bytes >= kHugePage) prefer_huge_pages(memory, bytes);
  return {static_cast<std::byte*>(memory), [size](std::byte* p) { munmap(p, size); }};
}

void require_at_least(const char* argument, std::int64_t got, std::int64_t least) {
  if (got < least)
    throw ValueError(std::string(argument) + ": expected at least " + std::to_string(least) + ", got " +
                     std::to_string(got));
}

/// Rows of elements: from `from`, at most strided, to `to`, where they are side by side.
struct Row {
  const std::byte* from;
  std::int64_t stride, count;
  std::byte* to;
};

void copy(const Row& row, std::int64_t item) {
  if (row.stride == item) {
    std::memcpy(row.to, row.from, static_cast<std::size_t>(row.count * item));
    return;
  }
  for (std::int64_t i = 0; i < row.count; ++i)
    std::memcpy(row.to + i * item, row.from + i * row.stride, static_cast<std::size_t>(item));
}

template <class S>
float largest_magnitude(const Row& row) {
  float largest = 0;
  for (std::int64_t i = 0; i < row.count; ++i) {
    const float magnitude = std::fabs(widen(load_element<S>(row.from + i * row.stride)));
    if (!(magnitude <= std::numeric_limits<float>::max())) return magnitude;
    largest = std::max(largest, magnitude);
  }
  return largest;
}

/// Returns the scale.
template <class S>
float quantise(const Row& row) {
  const float scale = largest_magnitude<S>(row) / 127;
  const bool zero = scale < std::numeric_limits<float>::min();  // or so small that it has no reciprocal
  const float inverse = zero ? 0 : 1 / scale;
  constexpr float round = 12582912;  // 1.5 · 2^23: what is added to it is rounded to a whole number
  for (std::int64_t i = 0; i < row.count; ++i) {
    const float x = widen(load_element<S>(row.from + i * row.stride)) * inverse;
    store_element(row.to + i, static_cast<std::int8_t>(bits_of(x + round) - bits_of(round)));
  }
  return zero ? 0 : scale;
}

}  // namespace

/// Where everything lies.
struct KVCache::Layout {
  std::int64_t k_head, v_head, scale_head;  // bytes of a head
  std::int64_t v, k_scales, v_scales;       // offsets
  std::int64_t bytes;
};

KVCache::Layout KVCache::layout(std::int64_t capacity) const {
  bool overflow = false;
  const auto multiply = [&](std::int64_t a, std::int64_t b) {
    std::int64_t product = 0;
    overflow = overflow || __builtin_mul_overflow(a, b, &product) || product > INT64_MAX / 8;
    return overflow ? 0 : product;
  };
  Layout l{};
  l.k_head = multiply(multiply(capacity, depth_), item_size(dtype_));
  l.v_head = multiply(multiply(capacity, value_depth_), item_size(dtype_));
  l.scale_head = dtype_ == DType::int8 ? multiply(capacity, sizeof(float)) : 0;
  const std::int64_t heads = multiply(batch_, heads_);
  l.v = round_up(multiply(heads, l.k_head), kCacheLine);
  l.k_scales = l.v + round_up(multiply(heads, l.v_head), kCacheLine);
  const std::int64_t scales =
      l.scale_head == 0 ? 0 : round_up(multiply(heads, l.scale_head) + kScalePadding * sizeof(float), kCacheLine);
  l.v_scales = l.k_scales + scales;
  l.bytes = l.v_scales + scales;
  if (overflow)
    throw NoMemory("capacity: no memory for " + std::to_string(capacity) + " tokens, whose bytes exceed 64 bits");
  return l;
}

KVCache::KVCache(std::int64_t batch, std::int64_t kv_heads, std::int64_t capacity, std::int64_t head_dim,
                 std::int64_t v_head_dim, DType dtype)
    : batch_(batch), heads_(kv_heads), depth_(head_dim), value_depth_(v_head_dim), dtype_(dtype) {
  if (dtype == DType::boolean) throw TypeError("dtype: expected one of numbers, got bool");
  require_at_least("batch", batch, 1);
  require_at_least("kv_heads", kv_heads, 1);
  require_at_least("capacity", capacity, 0);
  require_at_least("head_dim", head_dim, 1);
  require_at_least("v_head_dim", v_head_dim, 1);
  grow(capacity);
  try {
    lengths_.assign(static_cast<std::size_t>(batch), 0);
  } catch (const std::bad_alloc&) {
    throw NoMemory("batch: no memory for the lengths of " + std::to_string(batch) + " sequences");
  }
}

CachedTokens KVCache::tokens() const {
  const Layout l = layout(capacity_);
  const std::byte* const data = memory_.get();
  const std::int64_t longest = std::ranges::max(lengths_);
  const std::int64_t item = item_size(dtype_);
  const auto scales = [&](std::int64_t offset) {
    return dtype_ == DType::int8 ? reinterpret_cast<const float*>(data + offset) : nullptr;
  };
  return {.memory = memory_,
          .dtype = dtype_,
          .shape = {batch_, heads_, longest, depth_},
          .value_shape = {batch_, heads_, longest, value_depth_},
          .strides = {heads_ * l.k_head, l.k_head, depth_ * item, item},
          .value_strides = {heads_ * l.v_head, l.v_head, value_depth_ * item, item},
          .scale_strides = {heads_ * l.scale_head, l.scale_head, sizeof(float)},
          .k = data,
          .v = data + l.v,
          .k_scales = scales(l.k_scales),
          .v_scales = scales(l.v_scales),
          .lengths = lengths_};
}

void KVCache::append(const ConstTensorView& k, const ConstTensorView& v, std::span<const std::int64_t> lengths) {
  if (dtype_ == DType::int8) {
    if (k.dtype != DType::float32 && k.dtype != DType::float16 && k.dtype != DType::bfloat16)
      throw TypeError(std::string("k: expected dtype float32, float16 or bfloat16, got ") + name(k.dtype));
  } else {
    require_dtype("k", k.dtype, "the cache", dtype_);
  }
  require_dtype("v", v.dtype, "k", k.dtype);
  const std::int64_t tokens = k.rank() == 4 ? k.shape[2] : 0;
  const auto require_shape = [&](const char* argument, const ConstTensorView& view, std::int64_t depth) {
    const std::int64_t expected[] = {batch_, heads_, tokens, depth};
    if (!std::ranges::equal(view.shape, expected))
      throw ValueError(std::string(argument) + ": expected shape (" + std::to_string(batch_) + ", " +
                       std::to_string(heads_) + ", T, " + std::to_string(depth) + ")" +
                       (k.rank() == 4 ? " with T = " + std::to_string(tokens) : "") + ", got " + to_text(view.shape));
  };
  require_shape("k", k, depth_);
  require_shape("v", v, value_depth_);
  const std::int64_t own_shape[] = {bytes_};
  const std::int64_t own_stride[] = {1};
  const ConstTensorView own{memory_.get(), DType::int8, own_shape, own_stride};
  require_disjoint("k", own, k, "the cache; pass a copy");
  require_disjoint("v", own, v, "the cache; pass a copy");
  if (!lengths.empty() && static_cast<std::int64_t>(lengths.size()) != batch_)
    throw ValueError("lengths: expected shape (" + std::to_string(batch_) + ",), got " +
                     std::to_string(lengths.size()) + " elements");
  const auto count = [&](std::int64_t b) { return lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)]; };
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::int64_t length = lengths_[static_cast<std::size_t>(b)];
    if (count(b) < 0 || count(b) > tokens)
      throw ValueError("lengths: expected numbers in 0..." + std::to_string(tokens) + ", got " +
                       std::to_string(count(b)));
    if (count(b) > capacity_ - length)
      throw ValueError("k: expected at most " + std::to_string(capacity_ - length) + " tokens for sequence " +
                       std::to_string(b) + " (capacity " + std::to_string(capacity_) + ", which grow() raises), got " +
                       std::to_string(count(b)));
  }

  const Layout l = layout(capacity_);
  const std::int64_t item = item_size(dtype_);
  const auto each_row = [&](const ConstTensorView& view, std::int64_t depth, std::int64_t offset, auto&& visit) {
    const std::int64_t head_bytes = capacity_ * depth * item;
    for (std::int64_t b = 0; b < batch_; ++b)
      for (std::int64_t h = 0; h < (count(b) == 0 ? 0 : heads_); ++h)
        for (std::int64_t t = 0; t < count(b); ++t) {
          const std::int64_t head = b * heads_ + h;
          const std::int64_t token = lengths_[static_cast<std::size_t>(b)] + t;
          visit(Row{.from = view.data + b * view.strides[0] + h * view.strides[1] + t * view.strides[2],
                    .stride = view.strides[3],
                    .count = depth,
                    .to = memory_.get() + offset + head * head_bytes + token * depth * item},
                head * l.scale_head + token * static_cast<std::int64_t>(sizeof(float)));
        }
  };
  if (dtype_ != DType::int8) {
    each_row(k, depth_, 0, [&](const Row& row, std::int64_t) { copy(row, item); });
    each_row(v, value_depth_, l.v, [&](const Row& row, std::int64_t) { copy(row, item); });
  } else {
    visit_float(k.dtype, [&](auto type) {
      using S = decltype(type);
      if constexpr (!std::is_same_v<S, double>) {
        const auto require_finite = [&](const char* argument, const ConstTensorView& view, std::int64_t depth) {
          each_row(view, depth, 0, [&](const Row& row, std::int64_t) {
            if (!std::isfinite(largest_magnitude<S>(row)))
              throw ValueError(std::string(argument) + ": expected finite numbers with a cache of int8, got NaN or " +
                               "infinity");
          });
        };
        require_finite("k", k, depth_);
        require_finite("v", v, value_depth_);
        each_row(k, depth_, 0, [&](const Row& row, std::int64_t scale) {
          store_element(memory_.get() + l.k_scales + scale, quantise<S>(row));
        });
        each_row(v, value_depth_, l.v, [&](const Row& row, std::int64_t scale) {
          store_element(memory_.get() + l.v_scales + scale, quantise<S>(row));
        });
      }
    });
  }
  for (std::int64_t b = 0; b < batch_; ++b) lengths_[static_cast<std::size_t>(b)] += count(b);
}

void KVCache::truncate(std::span<const std::int64_t> lengths) {
  if (lengths.size() != lengths_.size())
    throw ValueError("lengths: expected shape (" + std::to_string(batch_) + ",), got " +
                     std::to_string(lengths.size()) + " elements");
  for (std::size_t b = 0; b < lengths.size(); ++b)
    if (lengths[b] < 0 || lengths[b] > lengths_[b])
      throw ValueError("lengths: expected a number in 0..." + std::to_string(lengths_[b]) + " for sequence " +
                       std::to_string(b) + ", got " + std::to_string(lengths[b]));
  forgot_ = forgot_ || !std::ranges::equal(lengths, lengths_);
  std::ranges::copy(lengths, lengths_.begin());
}

void KVCache::reset() {
  forgot_ = forgot_ || std::ranges::max(lengths_) > 0;
  std::ranges::fill(lengths_, 0);
}

void KVCache::grow(std::int64_t capacity) {
  require_at_least("capacity", capacity, capacity_);
  if (memory_ != nullptr && capacity == capacity_ && !forgot_) return;
  const Layout from = layout(capacity_);
  const Layout to = layout(capacity);
  const std::shared_ptr<std::byte> memory = allocate(to.bytes);
  const auto move = [&](std::int64_t from_offset, std::int64_t from_head, std::int64_t to_offset, std::int64_t to_head,
                        std::int64_t row) {
    for (std::size_t b = 0; b < lengths_.size(); ++b) {
      if (lengths_[b] == 0) continue;
      const std::int64_t first = static_cast<std::int64_t>(b) * heads_;
      for (std::int64_t head = first; head < first + heads_; ++head)
        std::memcpy(memory.get() + to_offset + head * to_head, memory_.get() + from_offset + head * from_head,
                    static_cast<std::size_t>(lengths_[b] * row));
    }
  };
  const std::int64_t item = item_size(dtype_);
  move(0, from.k_head, 0, to.k_head, depth_ * item);
  move(from.v, from.v_head, to.v, to.v_head, value_depth_ * item);
  if (dtype_ == DType::int8) {
    move(from.k_scales, from.scale_head, to.k_scales, to.scale_head, sizeof(float));
    move(from.v_scales, from.scale_head, to.v_scales, to.scale_head, sizeof(float));
  }
  memory_ = memory;
  capacity_ = capacity;
  bytes_ = to.bytes;
  forgot_ = false;
}

}  // namespace transfuse
