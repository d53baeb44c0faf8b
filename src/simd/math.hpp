// Elementary functions over vectors. The scalar tier calls the C library; the others evaluate the polynomials below,
// whose coefficients tools/fit_math_coefficients.py reproduces.
#pragma once

#include "simd/unroll.hpp"

namespace transfuse {
namespace {  // see simd/scalar.hpp

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float lowest = -104.0F;  // e^x rounds to 0 below
  static constexpr float highest = 89.0F;   // and overflows above
  static constexpr float log2_e = 0x1.715476p+0F;
  static constexpr float ln2_high = 0x1.62e4p-1F;  // few bits, so that n · ln2_high is exact
  static constexpr float ln2_low = 0x1.7f7d1cp-20F;
  // (e^r - 1 - r) / r² on |r| <= ½ ln 2, relative error 2^-28 of e^r
  static constexpr float tail[] = {0x1.000000p-1F, 0x1.555556p-3F,  0x1.5554e4p-5F,
                                   0x1.1110e0p-7F, 0x1.6d4920p-10F, 0x1.a12a42p-13F};
};

template <>
struct ExpConstants<double> {
  static constexpr double lowest = -746.0;
  static constexpr double highest = 710.0;
  static constexpr double log2_e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42feep-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  // relative error 2^-58
  static constexpr double tail[] = {0x1.0000000000000p-1,  0x1.5555555555557p-3,  0x1.5555555555556p-5,
                                    0x1.111111110ff87p-7,  0x1.6c16c16c16212p-10, 0x1.a01a01aca0134p-13,
                                    0x1.a01a01a741b3cp-16, 0x1.71ddffef9e7b1p-19, 0x1.27e4da1a3bf04p-22,
                                    0x1.af52906239de4p-26, 0x1.1f75aba0b1e2ep-29};
};

template <class T>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
  // (2^r - 1) / r on |r| <= ½, relative error 2^-26
  static constexpr float tail[] = {0x1.62e430p-1F, 0x1.ebfbe0p-3F,  0x1.c6af62p-5F,
                                   0x1.3b2a4ep-7F, 0x1.5f104ep-10F, 0x1.4418e6p-13F};
};

template <>
struct Exp2Constants<double> {
  // relative error 2^-61
  static constexpr double tail[] = {0x1.62e42fefa39efp-1,  0x1.ebfbdff82c58fp-3,  0x1.c6b08d704a0c7p-5,
                                    0x1.3b2ab6fba4e79p-7,  0x1.5d87fe78a3c54p-10, 0x1.430912f86b68ep-13,
                                    0x1.ffcbfc6ef38e4p-17, 0x1.62c022433c30ap-20, 0x1.b524e8826a748p-24,
                                    0x1.e4cf0e401dce7p-28, 0x1.e9f1f24867f81p-32, 0x1.c4a72f8a76148p-36};
};

template <class T>
struct ErfcConstants;

// (1 + 2z) e^(z²) erfc(z) as a polynomial in t = (z - centre) / (z + centre), after Shepherd & Laframboise, "Chebyshev
// approximation of (1 + 2x)exp(x²)erfc x in 0 <= x < ∞", Math. Comp. 36 (1981).
template <>
struct ErfcConstants<float> {
  static constexpr float highest = 10.5F;  // erfc(z) rounds to 0 above
  static constexpr float centre = 2.0F;
  // relative error 2^-29
  static constexpr float scaled[] = {0x1.46e80ep+0F,   -0x1.7bf5e8p-4F,  -0x1.5407cap-3F, 0x1.4ff9e8p-3F,
                                     -0x1.bc284ep-5F,  -0x1.071eb6p-7F,  0x1.1d8024p-7F,  0x1.47d7c2p-10F,
                                     -0x1.76e7bcp-10F, -0x1.a55aa2p-12F, 0x1.74e3e0p-13F, 0x1.5fa490p-14F};
};

template <>
struct ErfcConstants<double> {
  static constexpr double highest = 28.0;
  static constexpr double centre = 4.0;
  // relative error 2^-58
  static constexpr double scaled[] = {
      0x1.3ba5916e9fd7fp+0,   -0x1.1df1ad154a28fp-3,  0x1.f7f5df66fd6a7p-7,   0x1.16ecefcfa540ep-4,
      -0x1.9ddb23c3e8874p-4,  0x1.7fee004e112c3p-4,   -0x1.0fb06dfe56142p-4,  0x1.3079edf6aa5a8p-5,
      -0x1.096238828c1cbp-6,  0x1.49c6727af5d87p-8,   -0x1.8d4a9c3d62797p-11, -0x1.a1df1e2a70512p-13,
      0x1.3be068698b9ccp-13,  -0x1.9959f4cc5a01cp-16, -0x1.788ca4d342b82p-17, 0x1.7f2d5af276b00p-18,
      0x1.3b713b970cad2p-22,  -0x1.bb2bbabb02ec5p-21, 0x1.40eafd5947706p-24,  0x1.d8b4353ca5555p-24,
      -0x1.353a87be1712dp-26, -0x1.e432644b5660ap-27, 0x1.00cd8e2f991c3p-29,  0x1.5b62d008c2d94p-30};
};

/// c[0] + c[1]·x + c[2]·x² + ... by Horner's rule.
template <class V, int Count>
typename V::Reg polynomial(typename V::Reg x, const typename V::T (&c)[Count]) {
  typename V::Reg sum = V::fill(c[Count - 1]);
  unroll<Count - 1>([&](auto i) { sum = V::fma(sum, x, V::fill(c[Count - 2 - decltype(i)::value])); });
  return sum;
}

/// e^x = 2^n · (1 + fraction), with |fraction| < ½ and n whole.
template <class V>
struct ExpParts {
  typename V::Reg n, fraction;

  explicit ExpParts(typename V::Reg x) {
    using C = ExpConstants<typename V::T>;
    const auto clamped = V::min(V::fill(C::highest), V::max(V::fill(C::lowest), x));  // NaN stays
    n = V::round(V::mul(clamped, V::fill(C::log2_e)));
    auto r = V::fma(n, V::fill(-C::ln2_high), clamped);
    r = V::fma(n, V::fill(-C::ln2_low), r);
    const auto tail = V::mul(polynomial<V>(r, C::tail), r);
    fraction = V::fma(tail, r, r);
  }
};

/// e^x = 2^n · e^r with n = round(x / ln 2), within 2 ulp over the whole range, subnormal results included.
template <class V>
typename V::Reg exp(typename V::Reg x) {
  using T = typename V::T;
  if constexpr (V::width == 1) {
    if constexpr (sizeof(T) == 4) return __builtin_expf(x);
    return static_cast<T>(__builtin_exp(x));
  } else {
    const ExpParts<V> e(x);
    return V::scale(V::add(V::fill(1), e.fraction), e.n);
  }
}

/// 2^x for x <= 100: within 2 ulp, and 0 where that is no normal number. NaN stays.
template <class V>
typename V::Reg exp2_below(typename V::Reg x) {
  using T = typename V::T;
  if constexpr (V::width == 1) {
    if constexpr (sizeof(T) == 4) return __builtin_exp2f(x);
    return static_cast<T>(__builtin_exp2(x));
  } else {
    const auto clamped = V::max(V::fill(V::vanishing_exponent), x);
    const auto n = V::round(clamped);
    const auto r = V::sub(clamped, n);
    return V::scale_down(V::fma(polynomial<V>(r, Exp2Constants<T>::tail), r, V::fill(1)), n);
  }
}

/// tanh(x) = -u / (2 + u) with u = e^(-2|x|) - 1, signed as x. Nothing cancels: close to 0 it is as accurate as
/// elsewhere.
template <class V>
typename V::Reg tanh(typename V::Reg x) {
  using T = typename V::T;
  if constexpr (V::width == 1) {
    if constexpr (sizeof(T) == 4) return __builtin_tanhf(x);
    return static_cast<T>(__builtin_tanh(x));
  } else {
    const auto one = V::fill(1);
    const auto negative = V::sub(V::zero(), x);
    const ExpParts<V> e(V::mul(V::fill(-2), V::max(negative, x)));
    const auto u = V::add(V::scale(e.fraction, e.n), V::sub(V::scale(one, e.n), one));
    const auto minus = V::div(u, V::add(V::fill(2), u));  // tanh(-|x|)
    return V::select_negative(x, minus, V::sub(V::zero(), minus));
  }
}

/// Φ(-x) = ½erfc(x/√2) for x >= 0 (or NaN): the tail of the normal distribution, within a few ulp however far out. The
/// exponent is taken from x itself, because the rounding of x/√2 would count x² times.
template <class V>
typename V::Reg normal_tail(typename V::Reg x) {
  using T = typename V::T;
  if constexpr (V::width == 1) {  // in the next wider type
    if constexpr (sizeof(T) == 4) return static_cast<T>(0.5 * __builtin_erfc(x * 0.70710678118654752440));
    return static_cast<T>(0.5L * __builtin_erfcl(x * 0.70710678118654752440L));
  } else {
    using C = ErfcConstants<T>;
    const auto one = V::fill(1);
    const auto centre = V::fill(C::centre);
    const auto clamped = V::min(V::fill(C::highest * T(1.41421356237309504880)), x);
    const auto z = V::mul(clamped, V::fill(T(0.70710678118654752440)));
    const auto t = V::div(V::sub(z, centre), V::add(z, centre));
    const auto scaled = V::div(polynomial<V>(t, C::scaled), V::add(V::add(z, z), one));
    // e^(-x²/2) = e^square · e^rest, where square + rest is -x²/2 to twice the precision, and e^rest = 1 + rest.
    const auto half = V::mul(V::fill(T(-0.5)), clamped);
    const auto square = V::mul(half, clamped);
    const auto rest = V::fma(half, clamped, V::sub(V::zero(), square));
    return V::mul(V::mul(V::fill(T(0.5)), scaled), V::mul(exp<V>(square), V::add(one, rest)));
  }
}

/// 1 / (1 + e^(-x))
template <class V>
typename V::Reg sigmoid(typename V::Reg x) {
  const auto one = V::fill(1);
  return V::div(one, V::add(one, exp<V>(V::sub(V::zero(), x))));
}

}  // namespace
}  // namespace transfuse
