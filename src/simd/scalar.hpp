// Vectors of one element: with them each kernel reads, and runs, as its formula.
#pragma once

#include <cstddef>

#include "simd/element.hpp"
#include "transfuse/isa.hpp"

namespace transfuse {
// Everything that an ISA unit includes lives in an unnamed namespace: each unit keeps its own copy, and the linker
// cannot pick code compiled for one instruction set to serve another.
namespace {

constexpr Isa kIsa = Isa::scalar;

template <class Element>
struct Vec {
  using T = Element;
  using Reg = T;
  static constexpr int width = 1;

  static Reg zero() { return 0; }
  static Reg fill(T value) { return value; }
  static Reg broadcast(const void* p) { return load(p); }
  static Reg load(const void* p) { return load_element<T>(p); }
  static void store(void* p, Reg v) { store_element(p, v); }
  // Past the caches, to an aligned address; this tier has no such store.
  static void stream(void* p, Reg v) { store(p, v); }
  // A partial vector of width 1 holds one element or none.
  static Reg load_partial(const void* p, int count) { return count > 0 ? load(p) : 0; }
  static void store_partial(void* p, Reg v, int count) {
    if (count > 0) store(p, v);
  }

  // One element of a type that is only stored.
  template <class S>
  static Reg load_as(S /*type*/, const void* p) {
    return widen(load_element<S>(p));
  }
  template <class S>
  static void store_as(S /*type*/, void* p, Reg v) {
    store_element(p, narrow<S>(v));
  }

  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg div(Reg a, Reg b) { return a / b; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg max(Reg a, Reg b) { return a > b ? a : b; }  // b where either is NaN
  static Reg select_negative(Reg x, Reg a, Reg b) { return __builtin_signbit(x) != 0 ? a : b; }
  // Lanes with their sign set where a = b; where the byte at p + lane is 0.
  static Reg equal(Reg a, Reg b) { return a == b ? T(-1) : T(1); }
  static Reg zero_bytes(const std::byte* p) { return *p == std::byte{0} ? T(-1) : T(1); }
  // The number of each lane.
  static Reg iota() { return 0; }
};

}  // namespace
}  // namespace transfuse
