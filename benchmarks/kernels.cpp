// Micro-benchmarks of the kernels, on one thread and on data in the first caches: what a tile, packing and the epilogue
// cost by themselves. For whoever tunes next; comparisons with other libraries are `transfuse bench`.
//
//   cmake --preset release -DTRANSFUSE_BENCHMARKS=ON && cmake --build --preset release
//   build/release/benchmarks/transfuse_benchmarks --benchmark_filter=tile
//
// Names are <kernel>/<tier>/<dtype>/<arguments>. "FLOP" counts a multiply-add as two; compare with `fma_peak`.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/table.hpp"
#include "operations/gemm.hpp"
#include "transfuse/tuned.hpp"

namespace {

using namespace transfuse;
using benchmark::Counter;
using benchmark::State;

/// Zeroed memory, aligned as scratch memory is.
class Buffer {
 public:
  explicit Buffer(std::int64_t bytes) : data_(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)) {
    std::fill_n(static_cast<std::byte*>(data_.get()), bytes, std::byte{0});
  }
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
};

void count_flops(State& state, double flops) {
  state.counters["FLOP"] = Counter(flops, Counter::kIsIterationInvariantRate);
}

void fma_peak(State& state, Isa isa, DType dtype) {
  double flops = 0;
  for (auto _ : state) flops = static_cast<double>(kernels(isa).fma_probe[static_cast<int>(dtype)](1000));
  count_flops(state, flops);
}

/// A whole tile, its operands and bias missing.
MatmulTBlock tile_block(const GemmKernels& k, const Buffer& out, std::int64_t depth) {
  return {.left = {},
          .right = {},
          .rows = k.tile_rows,
          .cols = k.tile_cols,
          .depth = depth,
          .run_length = kRunLength,
          .out = out.data(),
          .out_row = k.tile_cols * k.item_size,
          .out_col = k.item_size,
          .accumulate = false,
          .finish = true,
          .bias = nullptr,
          .bias_row = 0,
          .bias_col = 0,
          .activation = Activation::none};
}

void run(State& state, const GemmKernels& k, const MatmulTBlock& block) {
  for (auto _ : state) {
    k.kernels.block(block);
    benchmark::ClobberMemory();
  }
}

/// One whole tile over packed panels; argument: depth.
void tile(State& state, Isa isa, DType dtype) {
  const GemmKernels k(isa, dtype);
  const std::int64_t depth = state.range(0);
  const Buffer left(depth * k.tile_rows * k.item_size);
  const Buffer right(depth * k.tile_cols * k.item_size);
  const Buffer out(k.tile_rows * k.tile_cols * k.item_size);
  MatmulTBlock block = tile_block(k, out, depth);
  block.left = {left.data(), 0, k.tile_rows * k.item_size};
  block.right = {right.data(), 0, k.tile_cols * k.item_size};
  run(state, k, block);
  count_flops(state, 2.0 * k.tile_rows * k.tile_cols * static_cast<double>(depth));
}

enum class Layout { lanes_adjacent, depth_adjacent };

/// Panels of the right operand; arguments: how many, depth.
void pack(State& state, Isa isa, DType dtype, Layout layout) {
  const GemmKernels k(isa, dtype);
  const std::int64_t lanes = state.range(0) * k.tile_cols;
  const std::int64_t depth = state.range(1);
  const std::int64_t bytes = lanes * depth * k.item_size;
  const Buffer source(bytes);
  const Buffer packed(bytes);
  const bool copies = layout == Layout::lanes_adjacent;
  const PackArguments arguments{.source = source.data(),
                                .lane_stride = (copies ? 1 : depth) * k.item_size,
                                .depth_stride = (copies ? lanes : 1) * k.item_size,
                                .lanes = lanes,
                                .depth = depth,
                                .packed = packed.data()};
  for (auto _ : state) {
    k.kernels.pack_right(arguments);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * bytes);
  state.SetItemsProcessed(state.iterations() * lanes * depth);
}

/// A tile of depth 0: what bias and activation cost by themselves.
void epilogue(State& state, Isa isa, DType dtype, Activation activation) {
  const GemmKernels k(isa, dtype);
  const Buffer out(k.tile_rows * k.tile_cols * k.item_size);
  const Buffer bias(k.tile_rows * k.item_size);
  MatmulTBlock block = tile_block(k, out, 0);
  block.bias = bias.data();
  block.bias_row = k.item_size;
  block.activation = activation;
  run(state, k, block);
  state.SetItemsProcessed(state.iterations() * k.tile_rows * k.tile_cols);
}

/// What wisdom costs a call: problems that are all different, half of them an octave beside an entry.
void look_up(State& state) {
  std::vector<AttentionProblem> problems;
  for (std::int64_t i = 0; i < state.range(0); ++i)
    problems.push_back({1 << i % 3, 1 << i % 6, 1 << i % 5, 1 << i % 11, 1 << i % 13, 32 << i % 3, i % 2});
  clear_tuned();
  for (const AttentionProblem& problem : problems) set_tuned(Isa::scalar, DType::float32, problem, {.block_q = 8});
  for (std::size_t i = 0; i < problems.size(); i += 2) problems[i].queries *= 2;
  if (problems.empty()) problems.push_back({1, 1, 1, 1, 1, 1, 0});
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(find_tuned(Isa::scalar, DType::float32, problems[i]));
    i = i + 1 < problems.size() ? i + 1 : 0;
  }
  clear_tuned();
}

void register_all(Isa isa, DType dtype) {
  const auto name = [&](const char* kernel) {
    return std::string(kernel) + "/" + transfuse::name(isa) + "/" + transfuse::name(dtype);
  };
  benchmark::RegisterBenchmark(name("fma_peak").c_str(), fma_peak, isa, dtype);
  benchmark::RegisterBenchmark(name("tile").c_str(), tile, isa, dtype)->Arg(16)->Arg(64)->Arg(256)->Arg(512);
  benchmark::RegisterBenchmark(name("pack_rows").c_str(), pack, isa, dtype, Layout::lanes_adjacent)
      ->Args({2, 64})
      ->Args({16, 256});
  benchmark::RegisterBenchmark(name("pack_transposed").c_str(), pack, isa, dtype, Layout::depth_adjacent)
      ->Args({2, 64})
      ->Args({16, 256});
  for (const auto& [text, activation] :
       {std::pair("epilogue_none", Activation::none), std::pair("epilogue_relu", Activation::relu),
        std::pair("epilogue_gelu", Activation::gelu), std::pair("epilogue_gelu_tanh", Activation::gelu_tanh),
        std::pair("epilogue_silu", Activation::silu)})
    benchmark::RegisterBenchmark(name(text).c_str(), epilogue, isa, dtype, activation);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::RegisterBenchmark("find_tuned", look_up)->Arg(0)->Arg(10)->Arg(100)->Arg(1000);
  for (Isa isa : available_isas())
    for (DType dtype : {DType::float32, DType::float64}) register_all(isa, dtype);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
