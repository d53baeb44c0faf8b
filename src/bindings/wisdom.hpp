// Wisdom: the registry of tuned configurations for Python, and what the first call of an operation fills it with.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>

namespace transfuse::python {

inline std::atomic<bool> wisdom_is_loaded = false;

/// Asks transfuse._wisdom to read the files of wisdom. Whatever goes wrong is printed as an exception that was ignored,
/// for no call of an operation fails on that account. \throws ErrorSet for KeyboardInterrupt and the like
void load_wisdom();

/// Every function that uses the registry starts with it; after the first time it costs a load from memory.
inline void ensure_wisdom() {
  if (!wisdom_is_loaded.load(std::memory_order_relaxed)) [[unlikely]]
    load_wisdom();
}

void define_wisdom(pybind11::module_& m);

}  // namespace transfuse::python
