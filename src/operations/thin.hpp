// Products that memory limits: those with few rows, and those with a depth of 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/parallel.hpp"
#include "operations/gemm.hpp"

namespace transfuse {

/// Which kernel computes a product; see ThinProduct.
enum class ThinKind { outer, sweep, dots };

/// The kernel for `gemm` if it is such a product and its operands lie as that kernel wants them.
std::optional<ThinKind> thin_kind(const Gemm& gemm, std::int64_t item_size);

/// How products of one shape and layout are computed, which thin_kind() says are thin. Each element of the result is
/// summed by one thread, in an order that depends on the depth alone.
class ThinPlan {
 public:
  ThinPlan(ThinKind kind, const GemmKernels& kernels, const Gemm& gemm, int threads);

  /// Bytes of working memory that run() needs.
  std::int64_t scratch_bytes() const { return scratch_bytes_; }

  /// Computes `gemm`, which has the shape and strides that the plan was made for. All threads of the team call it.
  void run(Team& team, const Gemm& gemm, std::byte* scratch) const;

 private:
  void copy_left(Team& team, const Gemm& gemm, std::byte* copy) const;

  void (*kernel_)(const ThinProduct&);
  std::int64_t item_size_;
  std::int64_t chunk_rows_, chunk_cols_;
  std::int64_t scratch_bytes_ = 0;
  bool stream_ = false, far_ = false;
};

}  // namespace transfuse
