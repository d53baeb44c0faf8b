// matmul_t in two steps, so that Python can allocate the result in between and pay for the checks once.
#pragma once

#include "core/constants.hpp"
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

/// Contiguous matrices: a (m, k), b (k, n), out (n, m), which shares memory with neither.
struct QuickMatmulT {
  DType dtype;
  const std::byte* a;
  const std::byte* b;
  std::byte* out;
  std::int64_t m, k, n;
};

/// There is something to compute, and so little that it is done before other Python threads would wait for it.
constexpr bool is_quick(const QuickMatmulT& q) {
  constexpr std::int64_t most = kReleaseLockWork;  // of each size, so that their product does not overflow
  return q.m > 0 && q.k > 0 && q.n > 0 && q.m < most && q.k < most && q.n < most && q.m * q.n < most &&
         q.m * q.n * (q.k + kStoreWork) < most;
}

/// `out` shares memory with an operand.
inline bool overlaps(const QuickMatmulT& q) {
  const std::int64_t size = item_size(q.dtype);
  const auto touches = [&](const std::byte* operand, std::int64_t elements) {
    return operand < q.out + q.n * q.m * size && q.out < operand + elements * size;
  };
  return touches(q.a, q.m * q.k) || touches(q.b, q.k * q.n);
}

/// Computes a quick product without the general way's checks and plans, which would cost more than it does. Returns
/// false, having done nothing, if its layout needs more memory than the stack's.
bool run_matmul_t_quick(const QuickMatmulT& product);

}  // namespace transfuse
