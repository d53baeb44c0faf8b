// Vectors of 256 bits.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd/element.hpp"
#include "transfuse/isa.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

constexpr Isa kIsa = Isa::avx2;

template <class Element>
struct Vec;

// Lanes [0, count) of a mask table are set when it is read at [lanes - count].
alignas(32) constexpr std::int32_t kMask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
alignas(32) constexpr std::int64_t kMask64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};

template <>
struct Vec<float> {
  using T = float;
  using Reg = __m256;
  static constexpr int width = 8;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg fill(T value) { return _mm256_set1_ps(value); }
  static Reg broadcast(const void* p) { return fill(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm256_loadu_ps(static_cast<const T*>(p)); }
  static void store(void* p, Reg v) { _mm256_storeu_ps(static_cast<T*>(p), v); }
  static void stream(void* p, Reg v) { _mm256_stream_ps(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) {
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask32 + width - count));
    return _mm256_maskload_ps(static_cast<const T*>(p), mask);
  }
  // Pieces of 4, 2 and 1: a masked store is microcode on AMD.
  static void store_partial(void* p, Reg v, int count) {
    auto* out = static_cast<std::byte*>(p);
    __m128 part = _mm256_castps256_ps128(v);
    if (count >= width) return store(p, v);
    if ((count & 4) != 0) {
      _mm_storeu_ps(reinterpret_cast<T*>(out), part);
      part = _mm256_extractf128_ps(v, 1);
      out += 16;
    }
    if ((count & 2) != 0) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_castps_si128(part));
      part = _mm_movehl_ps(part, part);
      out += 8;
    }
    if ((count & 1) != 0) _mm_storeu_si32(out, _mm_castps_si128(part));
  }

  static Reg load_as(Float16 /*type*/, const void* p) { return _mm256_cvtph_ps(half_load(p)); }
  static Reg load_as(BFloat16 /*type*/, const void* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_load(p)), 16));
  }
  static Reg load_as(std::int8_t /*type*/, const void* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  static void store_as(Float16 /*type*/, void* p, Reg v) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store_as(BFloat16 /*type*/, void* p, Reg v) {  // as narrow()
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
  }

  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  // max and min return b where either is NaN.
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  // Lanes of a where x has its sign set, of b elsewhere.
  static Reg select_negative(Reg x, Reg a, Reg b) { return _mm256_blendv_ps(b, a, x); }
  // Lanes with their sign set where a = b; where the byte at p + lane is 0.
  static Reg equal(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static Reg zero_bytes(const std::byte* p) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(bytes, _mm256_setzero_si256()));
  }
  static Reg iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
  static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  // v · 2^n for whole n in [-252, 254], in two factors so that neither leaves the exponent's range.
  static Reg scale(Reg v, Reg n) {
    const Reg half = round(mul(n, fill(0.5F)));
    return mul(mul(v, power(half)), power(sub(n, half)));
  }
  // v · 2^n for whole n in [-126, 127], and 0 for n = -127.
  static Reg scale_down(Reg v, Reg n) { return mul(v, power(n)); }
  static constexpr T vanishing_exponent = -127;

 private:
  static __m128i half_load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  // 2^n for whole n in [-126, 127], 0 for -127: adding 1.5 · 2^23 leaves n in the low bits of the mantissa.
  static Reg power(Reg n) {
    const __m256i bits = _mm256_castps_si256(add(n, fill(12582912.0F + 127.0F)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
  }
};

template <>
struct Vec<double> {
  using T = double;
  using Reg = __m256d;
  static constexpr int width = 4;

  static Reg zero() { return _mm256_setzero_pd(); }
  static Reg fill(T value) { return _mm256_set1_pd(value); }
  static Reg broadcast(const void* p) { return fill(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm256_loadu_pd(static_cast<const T*>(p)); }
  static void store(void* p, Reg v) { _mm256_storeu_pd(static_cast<T*>(p), v); }
  static void stream(void* p, Reg v) { _mm256_stream_pd(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) {
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask64 + width - count));
    return _mm256_maskload_pd(static_cast<const T*>(p), mask);
  }
  static void store_partial(void* p, Reg v, int count) {
    auto* out = static_cast<std::byte*>(p);
    __m128d part = _mm256_castpd256_pd128(v);
    if (count >= width) return store(p, v);
    if ((count & 2) != 0) {
      _mm_storeu_pd(reinterpret_cast<T*>(out), part);
      part = _mm256_extractf128_pd(v, 1);
      out += 16;
    }
    if ((count & 1) != 0) _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_castpd_si128(part));
  }

  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_pd(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_pd(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_pd(a, b); }
  static Reg select_negative(Reg x, Reg a, Reg b) { return _mm256_blendv_pd(b, a, x); }
  static Reg equal(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static Reg zero_bytes(const std::byte* p) {
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_loadu_si32(p));
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(bytes, _mm256_setzero_si256()));
  }
  static Reg iota() { return _mm256_setr_pd(0, 1, 2, 3); }
  static Reg round(Reg a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  // v · 2^n for whole n in [-2044, 2046].
  static Reg scale(Reg v, Reg n) {
    const Reg half = round(mul(n, fill(0.5)));
    return mul(mul(v, power(half)), power(sub(n, half)));
  }
  // v · 2^n for whole n in [-1022, 1023], and 0 for n = -1023.
  static Reg scale_down(Reg v, Reg n) { return mul(v, power(n)); }
  static constexpr T vanishing_exponent = -1023;

 private:
  // 2^n for whole n in [-1022, 1023], 0 for -1023: adding 1.5 · 2^52 leaves n in the low bits of the mantissa.
  static Reg power(Reg n) {
    const __m256i bits = _mm256_castpd_si256(add(n, fill(6755399441055744.0 + 1023.0)));
    return _mm256_castsi256_pd(_mm256_slli_epi64(bits, 52));
  }
};

}  // namespace
}  // namespace transfuse
