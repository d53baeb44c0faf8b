// matmul_t in two steps, so that Python can allocate the result in between and pay for the checks once.
#pragma once

#include "operations/batch.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse {

/// A checked pair of operands.
struct MatmulTCall {
  ConstTensorView a, b;
  std::int64_t m, k, n;
  std::int64_t batch;
  Shape out_shape;  // (..., N, M)

  /// Multiply-adds, plus what storing the result costs; saturates.
  std::int64_t work() const;
};

/// \throws as matmul_t_shape() does, and TypeError if the dtypes differ
MatmulTCall prepare_matmul_t(const ConstTensorView& a, const ConstTensorView& b);

/// Checks everything but `out`.
void check_matmul_t_options(const MatmulTCall& call, const MatmulTOptions& options);

/// Checks `out`: dtype, shape, overlap.
void check_matmul_t_out(const MatmulTCall& call, const TensorView& out, const MatmulTOptions& options);

/// Computes. Everything has been checked.
void run_matmul_t(const MatmulTCall& call, const TensorView& out, const MatmulTOptions& options);

}  // namespace transfuse
