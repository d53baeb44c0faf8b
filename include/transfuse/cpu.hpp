/// \file
/// What the machine is: instruction sets, caches, name. Detected once, at the first question.
#pragma once

#include <cstdint>
#include <string>

namespace transfuse {

/// Instruction sets that this CPU has *and* the operating system has enabled. The ones after avx512_vl belong to no
/// tier; they may replace single kernels.
struct CpuFeatures {
  bool avx2, fma, f16c;
  bool avx512_f, avx512_bw, avx512_dq, avx512_vl;
  bool avx_vnni, avx512_vnni, avx512_bf16, avx512_fp16;
  bool amx_tile, amx_int8, amx_bf16;
};

const CpuFeatures& cpu_features();

/// Sizes in bytes of the caches that core 0 sees; 0 where unknown.
struct CacheSizes {
  std::int64_t l1d, l2, l3;
};

const CacheSizes& cache_sizes();

/// The CPU's own name for itself; empty where it has none.
const std::string& cpu_model();

}  // namespace transfuse
