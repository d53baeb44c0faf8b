// The avx2 tier: every kernel, instantiated for its vectors.
#include "simd/avx2.hpp"
// Vectors first: the kernels are written over them.
#include "kernels/attention.hpp"
#include "kernels/matmul_t.hpp"
#include "kernels/probe.hpp"

namespace transfuse::avx2 {

constinit const KernelTable table{
    .matmul_t = {matmul_t_kernels<Vec<float>>, matmul_t_kernels<Vec<double>>},
    .attention = {attention_kernels<Vec<float>, float>, attention_kernels<Vec<double>, double>,
                  attention_kernels<Vec<float>, Float16>, attention_kernels<Vec<float>, BFloat16>,
                  attention_kernels<Vec<float>, std::int8_t>},
    .fma_probe = {fma_probe<Vec<float>>, fma_probe<Vec<double>>},
    .softmax_probe = {softmax_probe<Vec<float>>, softmax_probe<Vec<double>>},
    .memory_probe = memory_probe<Vec<float>>,
};

}  // namespace transfuse::avx2
