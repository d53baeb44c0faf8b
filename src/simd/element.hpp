// Single elements at any address.
#pragma once

#include <cstring>

namespace transfuse {
namespace {  // see simd/scalar.hpp

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

}  // namespace
}  // namespace transfuse
