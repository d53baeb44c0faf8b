/// \file
/// The fused transposed matrix product (A·B)ᵀ.
#pragma once

#include <cstdint>
#include <optional>

#include "transfuse/isa.hpp"
#include "transfuse/tensor.hpp"

namespace transfuse {

/// What is applied to each element last. The formulas are evaluated as written, so silu and both gelus of -inf are NaN.
enum class Activation : std::uint8_t {
  none,
  relu,       ///< max(x, 0); NaN stays NaN
  gelu,       ///< x · ½(1 + erf(x/√2))                       (Hendrycks & Gimpel, arXiv:1606.08415)
  gelu_tanh,  ///< x · ½(1 + tanh(√(2/π)(x + 0.044715 x³)))   (the same paper's approximation)
  silu,       ///< x / (1 + e^(-x))
};

/// Cache blocking of matmul_t. 0 means: the tuned value, else the default of the constants table. Only block_k affects
/// rounding: sums are accumulated over block_k terms at a time. (For an `out` whose rows are adjacent, block_m and
/// block_n change places.)
struct MatmulTConfig {
  std::int64_t block_m = 0;  ///< columns of the output that one piece of work computes, 1...2^20
  std::int64_t block_n = 0;  ///< rows of the output that one piece of work computes, 1...2^20
  std::int64_t block_k = 0;  ///< terms of the inner product per pass over the output, 1...2^14
};

struct MatmulTOptions {
  std::optional<ConstTensorView> bias = std::nullopt;  ///< (N,), same dtype
  Activation activation = Activation::none;
  int num_threads = 0;                    ///< 0 = default_threads(); cut to the larger of 64 and four times the CPUs
  std::optional<Isa> isa = std::nullopt;  ///< default: current_isa()
  MatmulTConfig config = {};
};

/// The shape of the result: (..., N, M), batch dimensions broadcast as in numpy.matmul.
/// \throws ValueError if a rank is below 2, the inner dimensions differ, the batch dimensions do not broadcast, or
///         the result would have more than 2^63 - 1 bytes.
Shape matmul_t_shape(const ConstTensorView& a, const ConstTensorView& b);

/// out[..., n, m] = activation(sum_k a[..., m, k] · b[..., k, n] + bias[n])
///
/// \param a  (..., M, K), float32 or float64, any strides
/// \param b  (..., K, N), the dtype of `a`, any strides
/// \param out  (..., N, M) exactly, the dtype of `a`, any strides; may overlap neither an input nor itself
/// \throws ValueError, TypeError (dtypes differ), std::bad_alloc; `out` is untouched then.
///
/// The result is bitwise the same for every number of threads. Extra memory: at most 8 MiB, or 8 MiB
/// a thread for a batch of small matrices and for products up to about 600³ (and a copy of the bias where it and `out`
/// are not contiguous). The calling thread keeps up to 32 MiB of it for its next call.
///
/// \code
///   const std::int64_t shape_a[] = {2, 3}, strides_a[] = {12, 4};   // bytes
///   ...
///   transfuse::matmul_t({bytes_a, DType::float32, shape_a, strides_a}, b, out);
/// \endcode
///
/// Algorithm: packed, blocked GEMM (Goto & van de Geijn, ACM TOMS 34(3), 2008; BLIS, ACM TOMS 41(3), 2015) with the
/// roles of the operands exchanged, since (A·B)ᵀ = Bᵀ·Aᵀ: the transposition costs nothing beyond the packing.
void matmul_t(const ConstTensorView& a, const ConstTensorView& b, const TensorView& out,
              const MatmulTOptions& options = {});

}  // namespace transfuse
