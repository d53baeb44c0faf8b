// Index arithmetic that is 64 bits wide and never overflows silently.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>

namespace transfuse {

constexpr std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

constexpr std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// The product, or the largest value if it does not fit: for estimates of work.
constexpr std::int64_t saturating_multiply(std::int64_t a, std::int64_t b) {
  return checked_multiply(a, b).value_or(INT64_MAX);
}

/// The largest power of two that is not above `value`, which is positive.
constexpr std::int64_t power_of_two_below(std::int64_t value) {
  return static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(value)));
}

/// Both non-negative, divisor positive.
constexpr std::int64_t ceil_divide(std::int64_t value, std::int64_t divisor) {
  return value / divisor + (value % divisor != 0);
}

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return ceil_divide(value, multiple) * multiple;
}

}  // namespace transfuse
