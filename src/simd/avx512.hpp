// Vectors of 512 bits.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd/element.hpp"
#include "transfuse/isa.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

constexpr Isa kIsa = Isa::avx512;

template <class Element>
struct Vec;

/// Half a vector, for the edges of a tile: on CPUs that execute 512 bits as two halves it costs half as much.
template <class Element>
struct HalfVec;

template <>
struct HalfVec<float> {
  using T = float;
  using Reg = __m256;
  static constexpr int width = 8;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg broadcast(const void* p) { return _mm256_set1_ps(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm256_loadu_ps(static_cast<const T*>(p)); }
  static void store(void* p, Reg v) { _mm256_storeu_ps(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) { return _mm256_maskz_loadu_ps(first(count), p); }
  static void store_partial(void* p, Reg v, int count) { _mm256_mask_storeu_ps(p, first(count), v); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }

 private:
  static __mmask8 first(int count) { return static_cast<__mmask8>((1U << count) - 1U); }
};

template <>
struct HalfVec<double> {
  using T = double;
  using Reg = __m256d;
  static constexpr int width = 4;

  static Reg zero() { return _mm256_setzero_pd(); }
  static Reg broadcast(const void* p) { return _mm256_set1_pd(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm256_loadu_pd(static_cast<const T*>(p)); }
  static void store(void* p, Reg v) { _mm256_storeu_pd(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) { return _mm256_maskz_loadu_pd(first(count), p); }
  static void store_partial(void* p, Reg v, int count) { _mm256_mask_storeu_pd(p, first(count), v); }
  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }

 private:
  static __mmask8 first(int count) { return static_cast<__mmask8>((1U << count) - 1U); }
};

template <>
struct Vec<float> {
  using T = float;
  using Reg = __m512;
  using Half = HalfVec<T>;
  static constexpr int width = 16;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg fill(T value) { return _mm512_set1_ps(value); }
  static Reg broadcast(const void* p) { return fill(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void stream(void* p, Reg v) { _mm512_stream_ps(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store_partial(void* p, Reg v, int count) { _mm512_mask_storeu_ps(p, first(count), v); }

  static Reg load_as(Float16 /*type*/, const void* p) { return _mm512_cvtph_ps(half_load(p)); }
  static Reg load_as(BFloat16 /*type*/, const void* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half_load(p)), 16));
  }
  static Reg load_as(std::int8_t /*type*/, const void* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static void store_as(Float16 /*type*/, void* p, Reg v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store_as(BFloat16 /*type*/, void* p, Reg v) {  // as narrow()
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, quiet);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
  }

  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  // max and min return b where either is NaN.
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  // Lanes of a where x has its sign set, of b elsewhere.
  static Reg select_negative(Reg x, Reg a, Reg b) {
    return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(x)), a);
  }
  // Lanes with their sign set where a = b; where the byte at p + lane is 0.
  static Reg equal(Reg a, Reg b) {
    return _mm512_castsi512_ps(_mm512_movm_epi32(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)));
  }
  static Reg zero_bytes(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_castsi512_ps(_mm512_cvtepi8_epi32(_mm_cmpeq_epi8(bytes, _mm_setzero_si128())));
  }
  static Reg iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // v · 2^n for whole n.
  static Reg scale(Reg v, Reg n) { return _mm512_scalef_ps(v, n); }
  // The same, and 0 for n = vanishing_exponent.
  static Reg scale_down(Reg v, Reg n) { return scale(v, n); }
  static constexpr T vanishing_exponent = -152;

 private:
  static __m256i half_load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static __mmask16 first(int count) { return static_cast<__mmask16>((1U << count) - 1U); }
};

template <>
struct Vec<double> {
  using T = double;
  using Reg = __m512d;
  using Half = HalfVec<T>;
  static constexpr int width = 8;

  static Reg zero() { return _mm512_setzero_pd(); }
  static Reg fill(T value) { return _mm512_set1_pd(value); }
  static Reg broadcast(const void* p) { return fill(load_element<T>(p)); }
  static Reg load(const void* p) { return _mm512_loadu_pd(p); }
  static void store(void* p, Reg v) { _mm512_storeu_pd(p, v); }
  static void stream(void* p, Reg v) { _mm512_stream_pd(static_cast<T*>(p), v); }
  static Reg load_partial(const void* p, int count) { return _mm512_maskz_loadu_pd(first(count), p); }
  static void store_partial(void* p, Reg v, int count) { _mm512_mask_storeu_pd(p, first(count), v); }

  static Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_pd(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm512_max_pd(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_pd(a, b); }
  static Reg select_negative(Reg x, Reg a, Reg b) {
    return _mm512_mask_mov_pd(b, _mm512_movepi64_mask(_mm512_castpd_si512(x)), a);
  }
  static Reg equal(Reg a, Reg b) {
    return _mm512_castsi512_pd(_mm512_movm_epi64(_mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ)));
  }
  static Reg zero_bytes(const std::byte* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm512_castsi512_pd(_mm512_cvtepi8_epi64(_mm_cmpeq_epi8(bytes, _mm_setzero_si128())));
  }
  static Reg iota() { return _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7); }
  static Reg round(Reg a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale(Reg v, Reg n) { return _mm512_scalef_pd(v, n); }
  static Reg scale_down(Reg v, Reg n) { return scale(v, n); }
  static constexpr T vanishing_exponent = -1076;

 private:
  static __mmask8 first(int count) { return static_cast<__mmask8>((1U << count) - 1U); }
};

}  // namespace
}  // namespace transfuse
