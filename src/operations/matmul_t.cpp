#include "operations/matmul_t.hpp"

#include <algorithm>
#include <string>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"
#include "core/parallel.hpp"
#include "core/parameters.hpp"
#include "core/scratch.hpp"
#include "core/text.hpp"
#include "operations/checks.hpp"
#include "operations/configuration.hpp"
#include "operations/gemm.hpp"
#include "operations/thin.hpp"
#include "transfuse/error.hpp"
#include "transfuse/threads.hpp"

namespace transfuse {
namespace {

void require_matrix(const char* argument, const ConstTensorView& view) {
  if (view.rank() < 2)
    throw ValueError(std::string(argument) + ": expected at least 2 dimensions, got shape " + to_text(view.shape));
}

[[noreturn]] void refuse_broadcast(const ConstTensorView& a, const ConstTensorView& b) {
  throw ValueError("a and b: batch dimensions do not broadcast, got shapes " + to_text(a.shape) + " and " +
                   to_text(b.shape));
}

/// Dimensions of size 1 have no stride worth speaking of; giving them that of an adjacent element lets the fast paths
/// recognise them.
std::int64_t stride_of(std::int64_t size, std::int64_t stride, std::int64_t item_size) {
  return size == 1 ? item_size : stride;
}

/// The product as the block kernel wants it, and how the operands move from one matrix of the batch to the next.
/// A batch of products, each of which may be cut into pieces.
struct Task {
  Gemm gemm;                        // the first piece
  Batch<3> batch;                   // left, right, out
  std::int64_t rows = 0, cols = 0;  // of a whole product
  std::int64_t row_pieces = 1, col_pieces = 1;

  std::int64_t pieces() const { return row_pieces * col_pieces; }

  /// Cuts products into a piece of whole tiles for each thread, by the grid whose largest piece costs least: its
  /// multiply-adds, and packing its lanes of both operands.
  void cut(int threads, const GemmKernels& kernels) {
    const auto part = [](std::int64_t size, int parts, int tile) {
      return std::min(size, round_up(ceil_divide(size, parts), tile));
    };
    std::int64_t least = INT64_MAX;
    for (int down = 1; down <= threads; ++down) {
      const std::int64_t r = part(rows, down, kernels.tile_rows);
      const std::int64_t c = part(cols, threads / down, kernels.tile_cols);
      const std::int64_t cost = r * c + kPackWork * (r + c);
      if (cost >= least) continue;
      least = cost;
      gemm.rows = r;
      gemm.cols = c;
    }
    row_pieces = ceil_divide(rows, gemm.rows);
    col_pieces = ceil_divide(cols, gemm.cols);
  }

  /// Piece number `index`, those of the first product first.
  Gemm piece(std::int64_t index) const {
    Gemm one = gemm;
    const auto [left, right, out] = batch.offsets(index / pieces());
    const std::int64_t row = index % row_pieces * gemm.rows;
    const std::int64_t col = index / row_pieces % col_pieces * gemm.cols;
    one.rows = std::min(gemm.rows, rows - row);
    one.cols = std::min(gemm.cols, cols - col);
    one.left.data += left + row * gemm.left.lane_stride;
    one.right.data += right + col * gemm.right.lane_stride;
    one.out += out + row * gemm.out_row + col * gemm.out_col;
    if (gemm.bias != nullptr) one.bias += row * gemm.bias_row + col * gemm.bias_col;
    return one;
  }
};

/// The same product seen as Cᵀ = rightᵀ · leftᵀ.
Gemm transposed(Gemm gemm) {
  std::swap(gemm.rows, gemm.cols);
  std::swap(gemm.left, gemm.right);
  std::swap(gemm.out_row, gemm.out_col);
  std::swap(gemm.bias_row, gemm.bias_col);
  return gemm;
}

/// (A·B)ᵀ = Bᵀ·Aᵀ: left is Bᵀ, right is Aᵀ, and columns of the output are adjacent in memory. An `out` whose *rows* are
/// adjacent, a single column among them, is computed as the transpose, A·B; so is a product that is thin only that way.
/// Returns whether it is.
bool orient(Gemm& gemm, std::int64_t size) {
  bool exchange = gemm.out_row == size && (gemm.out_col != size || gemm.cols == 1);
  if (exchange) gemm = transposed(gemm);
  if (!thin_kind(gemm, size) && thin_kind(transposed(gemm), size)) {
    gemm = transposed(gemm);
    exchange = !exchange;
  }
  if (std::min(gemm.rows, gemm.cols) < kThin) gemm.run_length = kThinRunLength;
  return exchange;
}

Task make_task(const MatmulTCall& call, const TensorView& out, const MatmulTOptions& options) {
  const std::int64_t size = item_size(call.a.dtype);
  const auto stride = [&](const ConstTensorView& view, int axis) {
    return stride_of(view.size_from_end(axis), view.stride_from_end(axis), size);
  };
  Task task;
  Gemm& gemm = task.gemm;
  gemm = {.rows = call.n,
          .cols = call.m,
          .depth = call.k,
          .left = {call.b.data, stride(call.b, 1), stride(call.b, 2)},
          .right = {call.a.data, stride(call.a, 2), stride(call.a, 1)},
          .out = out.data,
          .out_row = stride(out, 2),
          .out_col = stride(out, 1),
          .activation = options.activation};
  if (options.bias) {
    gemm.bias = options.bias->data;
    gemm.bias_row = options.bias->strides[0];
  }
  const bool exchange = orient(gemm, size);
  task.rows = gemm.rows;
  task.cols = gemm.cols;
  const ConstTensorView& left = exchange ? call.a : call.b;
  const ConstTensorView& right = exchange ? call.b : call.a;
  for (int axis = out.rank(); axis > 2; --axis)
    task.batch.add(out.size_from_end(axis),
                   {batch_stride(left, axis), batch_stride(right, axis), out.stride_from_end(axis)});
  // Nothing is read where there is nothing to sum, but addresses are reckoned from a pointer, which may be null then.
  if (call.k == 0) gemm.left.data = gemm.right.data = out.data;
  return task;
}

/// A product cut along its depth: the pieces' results stand one after another in working memory until they are added
/// up.
struct Split {
  const Gemm& whole;
  std::int64_t item_size;
  std::int64_t depth = whole.depth;  // of a piece

  /// By the problem alone, so that the result is the same for every number of threads.
  void divide(std::int64_t block_depth) {
    const std::int64_t elements = whole.rows * whole.cols;
    const std::int64_t least = std::max({kSplitDepth, kChunkWork / elements, ceil_divide(whole.depth, kChunks)});
    depth = round_up(least, block_depth);
  }

  std::int64_t pieces() const { return ceil_divide(whole.depth, depth); }
  std::int64_t piece_bytes() const { return whole.rows * whole.cols * item_size; }

  Gemm piece(std::int64_t index, std::byte* partial) const {
    Gemm one = whole;
    one.depth = std::min(depth, whole.depth - index * depth);
    one.left.data += index * depth * whole.left.depth_stride;
    one.right.data += index * depth * whole.right.depth_stride;
    one.out = partial + index * piece_bytes();
    one.out_row = whole.cols * item_size;
    one.out_col = item_size;
    one.bias = nullptr;
    one.activation = Activation::none;
    return one;
  }

  /// Each row of the result is a row of ones times that row of every piece.
  void add_up(const GemmKernels& kernels, const std::byte* partial) const {
    static constexpr float one_float = 1;
    static constexpr double one_double = 1;
    const void* const one = item_size == sizeof one_float ? static_cast<const void*>(&one_float) : &one_double;
    for (std::int64_t row = 0; row < whole.rows; ++row)
      kernels.kernels.sweep({.left = static_cast<const std::byte*>(one),
                             .left_row = 0,
                             .left_depth = 0,
                             .right = partial + row * whole.cols * item_size,
                             .right_col = item_size,
                             .right_depth = piece_bytes(),
                             .rows = 1,
                             .cols = whole.cols,
                             .depth = pieces(),
                             .out = whole.out + row * whole.out_row,
                             .out_row = whole.out_row,
                             .out_col = whole.out_col,
                             .bias = whole.bias == nullptr ? nullptr : whole.bias + row * whole.bias_row,
                             .bias_row = whole.bias_row,
                             .bias_col = whole.bias_col,
                             .activation = whole.activation,
                             .stream = false,
                             .far = false});
  }
};

/// Asks for a small operand, the next one of a batch, while the one before it is in use.
void prefetch(const Gemm::Operand& operand, std::int64_t lanes, std::int64_t depth, std::int64_t size) {
  if (lanes * depth * size > kPrefetchBytes) return;
  const bool lanes_adjacent = operand.lane_stride == size;
  const std::int64_t rows = lanes_adjacent ? depth : lanes;
  const std::int64_t row = lanes_adjacent ? operand.depth_stride : operand.lane_stride;
  const std::int64_t bytes = (lanes_adjacent ? lanes : depth) * size;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(operand.data + r * row + at, 0, 2);
}

void run_split(const Split& split, const GemmKernels& kernels, const MatmulTConstants& constants,
               const MatmulTConfig& config, int threads) {
  const auto execute = [&](const auto& plan) {
    const std::int64_t partial_bytes = round_up(split.pieces() * split.piece_bytes(), 64);
    const Scratch scratch(partial_bytes + plan.scratch_bytes() * threads);
    std::byte* const own = scratch.data() + partial_bytes;
    parallel(threads, [&](Team& team) {
      team.for_each(split.pieces(), [&](std::int64_t i) {
        Team alone;
        plan.run(alone, split.piece(i, scratch.data()), own + team.rank() * plan.scratch_bytes());
      });
      team.wait();
      if (team.rank() == 0) split.add_up(kernels, scratch.data());
    });
  };
  const Gemm first = split.piece(0, nullptr);
  if (const auto thin = thin_kind(first, kernels.item_size))
    execute(ThinPlan(*thin, kernels, first, 1));
  else
    execute(GemmPlan(kernels, first, constants, config, false));
}

/// Computes a product on the calling thread and its stack if it is small enough for that.
bool run_at_once(const GemmKernels& kernels, const Gemm& gemm, std::int64_t block_k) {
  const auto thin = thin_kind(gemm, kernels.item_size);
  if (!thin) return run_small(kernels, gemm, block_k);
  const ThinPlan plan(*thin, kernels, gemm, 1);
  if (plan.scratch_bytes() > 0) return false;
  Team alone;
  plan.run(alone, gemm, nullptr);
  return true;
}

/// A bias per column is read by vectors, so its elements must be adjacent: `copy` receives them if they are not.
void gather_bias(Gemm& gemm, std::int64_t cols, std::int64_t size, std::byte* copy) {
  for (std::int64_t i = 0; i < cols; ++i) std::copy_n(gemm.bias + i * gemm.bias_col, size, copy + i * size);
  gemm.bias = copy;
  gemm.bias_col = size;
}

}  // namespace

std::int64_t MatmulTCall::work() const {
  const std::int64_t elements = saturating_multiply(saturating_multiply(m, n), batch);
  return saturating_multiply(elements, k + kStoreWork);
}

MatmulTCall prepare_matmul_t(const ConstTensorView& a, const ConstTensorView& b) {
  require_matrix("a", a);
  require_matrix("b", b);
  require_float("a", a.dtype);
  require_dtype("b", b.dtype, "a", a.dtype);
  if (a.size_from_end(1) != b.size_from_end(2))
    throw ValueError("a and b: expected a (..., M, K) and b (..., K, N) with the same K, got shapes " +
                     to_text(a.shape) + " and " + to_text(b.shape));
  MatmulTCall call{.a = a,
                   .b = b,
                   .m = a.size_from_end(2),
                   .k = a.size_from_end(1),
                   .n = b.size_from_end(1),
                   .batch = 1,
                   .out_shape = {}};
  Shape& shape = call.out_shape;
  shape.rank = std::max(a.rank(), b.rank());
  std::int64_t bytes = item_size(a.dtype);
  bool overflow = false;
  bool empty = false;
  const auto place = [&](int axis, std::int64_t size) {
    shape.dims[shape.rank - axis] = size;
    empty = empty || size == 0;
    overflow = overflow || __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes);
  };
  for (int axis = shape.rank; axis > 2; --axis) {
    const std::int64_t size_a = axis <= a.rank() ? a.size_from_end(axis) : 1;
    const std::int64_t size_b = axis <= b.rank() ? b.size_from_end(axis) : 1;
    if (size_a != size_b && size_a != 1 && size_b != 1) refuse_broadcast(a, b);
    const std::int64_t size = size_a == 1 ? size_b : size_a;
    place(axis, size);
    call.batch = saturating_multiply(call.batch, size);
  }
  place(2, call.n);
  place(1, call.m);
  if (overflow && !empty)
    throw ValueError("a and b: the result would have shape " + to_text(shape.span()) +
                     ", more bytes than fit 64 bits, got shapes " + to_text(a.shape) + " and " + to_text(b.shape));
  return call;
}

void check_matmul_t_options(const MatmulTCall& call, const MatmulTOptions& options) {
  if (options.bias) {
    require_dtype("bias", options.bias->dtype, "a", call.a.dtype);
    if (options.bias->rank() != 1 || options.bias->shape[0] != call.n)
      throw ValueError("bias: expected shape (" + std::to_string(call.n) + ",), one element per column of b, got " +
                       to_text(options.bias->shape));
  }
  check_shared_options(options.num_threads, options.isa);
  check_config(options.config);
}

void check_matmul_t_out(const MatmulTCall& call, const TensorView& out, const MatmulTOptions& options) {
  require_output("out", out, call.a.dtype, call.out_shape);
  require_disjoint("out", out, call.a, "a");
  require_disjoint("out", out, call.b, "b");
  if (options.bias) require_disjoint("out", out, *options.bias, "bias");
}

void run_matmul_t(const MatmulTCall& call, const TensorView& out, const MatmulTOptions& options) {
  if (call.m == 0 || call.n == 0 || call.batch == 0) return;
  const std::int64_t size = item_size(call.a.dtype);
  const Isa isa = options.isa ? *options.isa : current_isa();
  Task task = make_task(call, out, options);
  Gemm& gemm = task.gemm;

  int threads = 1;
  if (call.work() >= kParallelWork)
    threads = usable_threads(options.num_threads > 0 ? options.num_threads : default_threads().count);
  const MatmulTConstants& constants = matmul_t_constants(isa, call.a.dtype);
  const MatmulTProblem problem{call.batch, call.m, call.k, call.n};
  const MatmulTConfig config = choose_config(isa, call.a.dtype, problem, threads, options.config, constants.blocks);
  const GemmKernels kernels(isa, call.a.dtype);
  const bool copy_bias = gemm.bias_col != 0 && gemm.bias_col != size;
  if (call.work() < kParallelWork && call.batch == 1 && !copy_bias && run_at_once(kernels, gemm, config.block_k))
    return;

  if (call.work() >= kParallelWork && call.batch == 1 && saturating_multiply(call.m, call.n) <= kSplitElements) {
    Split split{gemm, size};
    split.divide(config.block_k);
    if (split.pieces() > 1) {
      threads = static_cast<int>(std::min<std::int64_t>(threads, split.pieces()));
      return run_split(split, kernels, constants, config, threads);
    }
  }

  const auto thin = thin_kind(gemm, size);
  // A product is computed by all threads together, which share what is packed; in pieces, each by one thread, which
  // needs no barrier and takes nothing from another core's cache; or by one thread, several products at a time.
  const bool cut = threads > 1 && call.batch == 1 && !thin && call.work() <= kCutWork;
  if (cut) task.cut(threads, kernels);
  const std::int64_t pieces = call.batch * task.pieces();
  const std::int64_t piece_work = ceil_divide(call.work(), pieces);
  const bool together = !cut && (call.batch == 1 || piece_work >= kTeamWork);
  const std::int64_t group =  // pieces per chunk
      std::max(ceil_divide(kChunkWork, piece_work), pieces / std::max<std::int64_t>(kChunks, 4 * threads));
  const std::int64_t groups = ceil_divide(pieces, group);
  if (!together) threads = static_cast<int>(std::min<std::int64_t>(threads, groups));

  const auto execute = [&](const auto& plan) {
    const std::int64_t bias_bytes = copy_bias ? round_up(task.cols * size, 64) : 0;
    const std::int64_t plan_bytes = plan.scratch_bytes();
    const Scratch scratch(bias_bytes + plan_bytes * (together ? 1 : threads));
    if (copy_bias) gather_bias(gemm, task.cols, size, scratch.data());
    std::byte* const own = scratch.data() + bias_bytes;

    parallel(threads, [&](Team& team) {
      if (together) {
        for (std::int64_t i = 0; i < call.batch; ++i) plan.run(team, task.piece(i), own);
        return;
      }
      team.for_each(groups, [&](std::int64_t chunk) {
        Team alone;
        const std::int64_t end = std::min(pieces, (chunk + 1) * group);
        Gemm next = task.piece(chunk * group);
        for (std::int64_t i = chunk * group; i < end; ++i) {
          const Gemm piece = next;
          if (i + 1 < end) {
            next = task.piece(i + 1);
            if (next.left.data != piece.left.data) prefetch(next.left, next.rows, next.depth, size);
            if (next.right.data != piece.right.data) prefetch(next.right, next.cols, next.depth, size);
          }
          plan.run(alone, piece, own + team.rank() * plan_bytes);
        }
      });
    });
  };
  if (thin)
    execute(ThinPlan(*thin, kernels, gemm, together ? threads : 1));
  else
    execute(GemmPlan(kernels, gemm, constants, config, together && threads > 1));
}

bool run_matmul_t_quick(const QuickMatmulT& q) {
  const Isa isa = current_isa();
  const GemmKernels kernels(isa, q.dtype);
  const std::int64_t size = kernels.item_size;
  Gemm gemm{.rows = q.n,
            .cols = q.m,
            .depth = q.k,
            .left = {q.b, size, q.n * size},
            .right = {q.a, q.k == 1 ? size : q.k * size, size},
            .out = q.out,
            .out_row = q.m * size,
            .out_col = size};
  orient(gemm, size);
  const MatmulTProblem problem{1, q.m, q.k, q.n};
  const MatmulTConfig config = choose_config(isa, q.dtype, problem, 1, {}, matmul_t_constants(isa, q.dtype).blocks);
  return run_at_once(kernels, gemm, config.block_k);
}

Shape matmul_t_shape(const ConstTensorView& a, const ConstTensorView& b) { return prepare_matmul_t(a, b).out_shape; }

void matmul_t(const ConstTensorView& a, const ConstTensorView& b, const TensorView& out,
              const MatmulTOptions& options) {
  const MatmulTCall call = prepare_matmul_t(a, b);
  check_matmul_t_options(call, options);
  check_matmul_t_out(call, out, options);
  run_matmul_t(call, out, options);
}

}  // namespace transfuse
