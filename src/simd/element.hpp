// Single elements at any address, and conversions between those that are stored and those that are computed with.
#pragma once

#include <cstdint>
#include <cstring>

#include "transfuse/tensor.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <class T>
constexpr T minus_infinity = -static_cast<T>(__builtin_huge_val());

template <class T>
T load_element(const void* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <class T>
void store_element(void* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

inline std::uint32_t bits_of(float value) { return load_element<std::uint32_t>(&value); }
inline float float_of(std::uint32_t bits) { return load_element<float>(&bits); }

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(std::int8_t value) { return value; }
inline float widen(BFloat16 value) { return float_of(std::uint32_t{value.bits} << 16); }

inline float widen(Float16 value) {
  const std::uint32_t sign = (value.bits & 0x8000U) << 16;
  const std::uint32_t rest = value.bits & 0x7fffU;
  if (rest >= 0x7c00U) return float_of(sign | 0x7f800000U | rest << 13);  // infinite or NaN
  if (rest < 0x0400U) return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24F));
  return float_of(sign | ((rest << 13) + (112U << 23)));
}

/// To a type that is stored; to the nearest, ties to even.
template <class S, class T>
S narrow(T value) {
  return value;
}

template <>
[[maybe_unused]] inline BFloat16 narrow<BFloat16>(float value) {
  const std::uint32_t bits = bits_of(value);
  if (value != value) return {static_cast<std::uint16_t>(bits >> 16 | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16)};
}

template <>
[[maybe_unused]] inline Float16 narrow<Float16>(float value) {
  const std::uint32_t sign = bits_of(value) >> 16 & 0x8000U;
  const std::uint32_t bits = bits_of(value) & 0x7fffffffU;
  std::uint32_t rest = 0;
  if (bits > 0x7f800000U)
    rest = 0x7e00U | (bits >> 13 & 0x3ffU);
  else if (bits >= 0x477ff000U)  // rounds beyond the largest
    rest = 0x7c00U;
  else if (bits < 0x38800000U)  // a multiple of 2^-24, the last bit of numbers from ½ on
    rest = bits_of(float_of(bits) + 0.5F) - bits_of(0.5F);
  else
    rest = (bits + 0xfffU + (bits >> 13 & 1U) - (112U << 23)) >> 13;
  return {static_cast<std::uint16_t>(sign | rest)};
}

/// visit(S{}) with the C++ type of a floating-point dtype.
template <class Visit>
decltype(auto) visit_float(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::float64: return visit(double{});
    case DType::float16: return visit(Float16{});
    case DType::bfloat16: return visit(BFloat16{});
    default: return visit(float{});
  }
}

}  // namespace
}  // namespace transfuse
