/// \file
/// The registry of tuned configurations. An entry replaces the defaults of the constants table for one operation,
/// tier, dtype and bucket of shapes; every later call of that kind uses it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// The sizes that decide which entry a call of matmul_t uses; each counts in buckets of powers of two.
struct MatmulTProblem {
  std::int64_t batch, m, k, n;
};

/// Safe to call from any thread. Zeros in `config` keep the default of that parameter.
/// \throws ValueError if a value of `config` is out of its range.
void set_tuned(Isa isa, DType dtype, const MatmulTProblem& problem, const MatmulTConfig& config);

/// The entry that a call of this kind would use, or nothing.
std::optional<MatmulTConfig> find_tuned(Isa isa, DType dtype, const MatmulTProblem& problem);

/// Forgets every entry of every operation.
void clear_tuned();

}  // namespace transfuse
