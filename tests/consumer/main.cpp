#include <cstdint>
#include <cstdio>
#include <transfuse/isa.hpp>
#include <transfuse/matmul_t.hpp>
#include <transfuse/version.hpp>

// The node that the project started from: (128 x 1)·(1 x 1024), transposed.
int main() {
  static float a[128], b[1024], out[1024][128];
  for (int m = 0; m < 128; ++m) a[m] = static_cast<float>(m);
  for (int n = 0; n < 1024; ++n) b[n] = static_cast<float>(n);

  const std::int64_t a_shape[] = {128, 1}, a_strides[] = {4, 4};
  const std::int64_t b_shape[] = {1, 1024}, b_strides[] = {4096, 4};
  const std::int64_t out_shape[] = {1024, 128}, out_strides[] = {512, 4};
  const auto bytes = [](auto* p) { return reinterpret_cast<std::byte*>(p); };
  transfuse::matmul_t(transfuse::ConstTensorView{bytes(a), transfuse::DType::float32, a_shape, a_strides},
                      transfuse::ConstTensorView{bytes(b), transfuse::DType::float32, b_shape, b_strides},
                      transfuse::TensorView{bytes(out), transfuse::DType::float32, out_shape, out_strides});

  for (int n = 0; n < 1024; ++n)
    for (int m = 0; m < 128; ++m)
      if (out[n][m] != a[m] * b[n]) return 1;
  std::printf("transfuse %s works on %s\n", TRANSFUSE_VERSION, transfuse::name(transfuse::current_isa()));
}
