#include "operations/attention.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"
#include "core/parallel.hpp"
#include "core/parameters.hpp"
#include "core/scratch.hpp"
#include "core/text.hpp"
#include "kernels/table.hpp"
#include "operations/checks.hpp"
#include "simd/element.hpp"
#include "transfuse/error.hpp"
#include "transfuse/threads.hpp"

namespace transfuse {
namespace {

/// Positions beyond this are refused.
constexpr std::int64_t kFarthest = kUnbounded / 4;

// Shapes.

Heads heads_of(const char* argument, const ConstTensorView& view, HeadLayout layout) {
  if (view.rank() < 2)
    throw ValueError(std::string(argument) + ": expected at least 2 dimensions, got shape " + to_text(view.shape));
  Heads h{1, view.size_from_end(2), view.size_from_end(1), 0, view.stride_from_end(2), view.stride_from_end(1)};
  if (view.rank() == 2) return h;
  const int head_axis = layout == HeadLayout::bhsd ? 3 : 2;
  const int row_axis = layout == HeadLayout::bhsd ? 2 : 3;
  h.heads = view.size_from_end(head_axis);
  h.head = view.stride_from_end(head_axis);
  h.rows = view.size_from_end(row_axis);
  h.row = view.stride_from_end(row_axis);
  return h;
}

/// The leading dimensions of q, k and v against each other.
Shape broadcast_leading(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v) {
  Shape leading;
  leading.rank = std::max({q.rank(), k.rank(), v.rank(), 3}) - 3;
  for (int axis = leading.rank + 3; axis > 3; --axis) {
    std::int64_t size = 1;
    for (const ConstTensorView& view : {q, k, v}) {
      const std::int64_t own = axis <= view.rank() ? view.size_from_end(axis) : 1;
      if (own == 1) continue;
      if (size != 1 && own != size)
        throw ValueError("q, k and v: leading dimensions do not broadcast, got shapes " + to_text(q.shape) + ", " +
                         to_text(k.shape) + " and " + to_text(v.shape));
      size = own;
    }
    leading.dims[leading.rank + 3 - axis] = size;
  }
  return leading;
}

Shape with(const Shape& leading, std::initializer_list<std::int64_t> rest) {
  Shape shape = leading;
  for (const std::int64_t size : rest) shape.dims[shape.rank++] = size;
  return shape;
}

void require_addressable(const Shape& shape, std::int64_t item_size) {
  std::int64_t bytes = item_size;
  bool overflow = false;
  for (const std::int64_t size : shape.span()) {
    if (size == 0) return;
    overflow = overflow || __builtin_mul_overflow(bytes, size, &bytes);
  }
  if (overflow)
    throw ValueError("q, k and v: the result would have shape " + to_text(shape.span()) +
                     ", more bytes than fit 64 bits");
}

// Options.

/// The dimensions that a mask or a bias is broadcast to.
Shape score_shape(const AttentionCall& call) {
  if (call.q.rank() == 2) return with({}, {call.q_heads.rows, call.k_heads.rows});
  return with(call.leading, {call.q_heads.heads, call.q_heads.rows, call.k_heads.rows});
}

void require_broadcast(const char* argument, const ConstTensorView& view, const AttentionCall& call) {
  const Shape target = score_shape(call);
  bool fits = view.rank() <= target.rank;
  for (int axis = 1; fits && axis <= view.rank(); ++axis)
    fits = view.size_from_end(axis) == 1 || view.size_from_end(axis) == target.dims[target.rank - axis];
  if (!fits)
    throw ValueError(std::string(argument) + ": expected a shape that broadcasts to " + to_text(target.span()) +
                     ", got " + to_text(view.shape));
}

void require_like_q(const char* argument, const ConstTensorView& view, const AttentionCall& call) {
  if (view.dtype == call.q.dtype || view.dtype == DType::float32) return;
  throw TypeError(std::string(argument) + ": expected the dtype of q, " + name(call.q.dtype) +
                  (call.q.dtype == DType::float32 ? "" : ", or float32") + ", got " + name(view.dtype));
}

void require_per_head(const char* argument, const ConstTensorView& view, const AttentionCall& call) {
  require_like_q(argument, view, call);
  if (view.rank() != 1 || view.shape[0] != call.q_heads.heads)
    throw ValueError(std::string(argument) + ": expected shape (" + std::to_string(call.q_heads.heads) +
                     ",), one element per query head, got " + to_text(view.shape));
}

/// A number as the kernels take it.
double rounded(double number, DType dtype) {
  return dtype == DType::float32 ? static_cast<double>(static_cast<float>(number)) : number;
}

std::string number_text(double got, DType dtype) {
  return std::string("number in ") + name(dtype) + ", got " + to_text(got);
}

void check_window(const char* side, const std::optional<std::int64_t>& size) {
  if (size && *size < 0)
    throw ValueError(std::string("window: expected ") + side + " of at least 0 or None, got " + std::to_string(*size));
}

std::string count_text(std::size_t count) { return std::to_string(count) + (count == 1 ? " element" : " elements"); }

void check_lengths(const AttentionCall& call, std::span<const std::int64_t> lengths) {
  if (lengths.empty()) return;
  if (static_cast<std::int64_t>(lengths.size()) != call.batch)
    throw ValueError("kv_lengths: expected shape " + to_text(call.leading.span()) + ", one length for each of the " +
                     "leading dimensions, got " + count_text(lengths.size()));
  for (const std::int64_t length : lengths)
    if (length < 0 || length > call.k_heads.rows)
      throw ValueError("kv_lengths: expected lengths in 0..." + std::to_string(call.k_heads.rows) + ", got " +
                       std::to_string(length));
}

void check_offsets(const AttentionCall& call, std::span<const std::int64_t> offsets) {
  if (offsets.size() > 1 && static_cast<std::int64_t>(offsets.size()) != call.batch)
    throw ValueError("query_offset: expected an int or shape " + to_text(call.leading.span()) + ", got " +
                     count_text(offsets.size()));
  for (const std::int64_t offset : offsets)
    if (offset < -kFarthest || offset > kFarthest)
      throw ValueError("query_offset: expected a position in -2^38...2^38, got " + std::to_string(offset));
}

void check_output(const char* argument, const AttentionCall& call, const TensorView& out, const Shape& shape,
                  const AttentionOptions& o) {
  require_output(argument, out, call.q.dtype, shape);
  const std::pair<const char*, std::optional<ConstTensorView>> inputs[] = {
      {"q", call.q},     {"k", call.k},    {"v", call.v},
      {"mask", o.mask},  {"bias", o.bias}, {"alibi_slopes", o.alibi_slopes},
      {"sinks", o.sinks}};
  for (const auto& [name, input] : inputs)
    if (input) require_disjoint(argument, out, *input, name);
}

/// The position of the first query among `keys` keys; see the contract of query_offset.
std::int64_t first_position(const AttentionCall& call, const AttentionOptions& o, std::int64_t batch,
                            std::int64_t keys) {
  if (!o.query_offset.empty()) return o.query_offset[o.query_offset.size() == 1 ? 0 : static_cast<std::size_t>(batch)];
  const std::int64_t last = keys - call.q_heads.rows;
  switch (o.causal) {
    case Causal::upper_left: return 0;
    case Causal::lower_right: return last;
    default: return call.q_heads.rows == call.k_heads.rows ? 0 : last;
  }
}

/// One number per head, as double.
std::vector<double> per_head(const std::optional<ConstTensorView>& view) {
  std::vector<double> values;
  if (!view) return values;
  for (std::int64_t i = 0; i < view->shape[0]; ++i) {
    const std::byte* const at = view->data + i * view->strides[0];
    values.push_back(view->dtype == DType::float32 ? static_cast<double>(load_element<float>(at))
                                                   : load_element<double>(at));
  }
  return values;
}

// Work.

/// How a call is cut into pieces: each for some rows of some heads that share keys and values.
struct Cut {
  std::int64_t heads, rows;            // of a piece at most
  std::int64_t head_parts, row_parts;  // of a group of heads

  Cut(const AttentionCall& call, std::int64_t block_q, int threads) {
    const std::int64_t group = call.q_heads.heads / call.k_heads.heads;
    const std::int64_t queries = call.q_heads.rows;
    // Several pieces for each thread, so that none waits long for the last one; but a piece packs its keys anew, so few
    // queries are not worth one.
    const std::int64_t all = saturating_multiply(saturating_multiply(call.batch, call.q_heads.heads), queries);
    std::int64_t most = all;
    if (threads > 1)
      most = std::max(ceil_divide(all, kAttentionPieces * threads), std::min(ceil_divide(all, threads), kPieceRows));
    most = std::min(block_q, most);
    row_parts = ceil_divide(queries, most);
    rows = ceil_divide(queries, row_parts);
    heads = std::clamp<std::int64_t>(most / rows, 1, group);
    head_parts = ceil_divide(group, heads);
  }
};

/// The working memory of a thread: where its parts lie.
struct Memory {
  std::int64_t queries, packed_k, packed_v, scores, staged_bias, staged_mask, maxima, totals, sums;
  std::int64_t sum_row;
  std::int64_t bytes = 0;

  Memory(const AttentionCall& call, const Cut& cut, std::int64_t block_kv, Isa isa) {
    const DType dtype = call.q.dtype;
    const std::int64_t size = item_size(dtype);
    const std::int64_t tile_rows = matmul_t_constants(isa, dtype).tile_rows;
    const std::int64_t width = vector_width(isa, dtype);
    const std::int64_t tile_cols = matmul_t_constants(isa, dtype).tile_vectors * width;
    const std::int64_t rows = cut.heads * cut.rows;
    const std::int64_t depth = call.q_heads.cols;
    const std::int64_t value_depth = round_up(std::min(call.v_heads.cols, kUnbounded), tile_cols);
    sum_row = value_depth * size;
    queries = place(tile_rows * size, kScoreRow);
    packed_k = place(round_up(block_kv, tile_cols) * size, depth);
    packed_v = place(block_kv * size, value_depth);
    scores = place(tile_rows * size, kScoreRow);
    staged_bias = place(size, kScoreRow);
    staged_mask = place(1, kScoreRow);
    maxima = place(size, rows);
    totals = place(width * size, rows);
    sums = place(sum_row, rows);
  }

 private:
  /// \throws std::bad_alloc if it is more than can be counted
  std::int64_t place(std::int64_t count, std::int64_t each) {
    const std::int64_t offset = bytes;
    const auto amount = checked_multiply(count, each);
    const auto end = amount && *amount < INT64_MAX - 64 ? checked_add(bytes, round_up(*amount, 64)) : std::nullopt;
    if (!end) throw std::bad_alloc();
    bytes = *end;
    return offset;
  }
};

/// Strides over the leading dimensions, in the order of Batch.
enum Operand { kQ, kK, kV, kOut, kLse, kMask, kBias, kOperands };

/// The strides of a mask or a bias over heads, queries and keys; 0 where it is repeated.
AttentionPiece::Scores scores_of(const std::optional<ConstTensorView>& view) {
  if (!view) return {nullptr, DType::float32, 0, 0, 0};
  return {view->data, view->dtype, batch_stride(*view, 3), batch_stride(*view, 2), batch_stride(*view, 1)};
}

}  // namespace

std::int64_t AttentionCall::work() const {
  const std::int64_t pairs =
      saturating_multiply(saturating_multiply(batch, q_heads.heads), saturating_multiply(q_heads.rows, k_heads.rows));
  return saturating_multiply(pairs, checked_add(q_heads.cols, v_heads.cols).value_or(INT64_MAX));
}

AttentionCall prepare_attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                                HeadLayout layout) {
  require_float("q", q.dtype);
  require_dtype("k", k.dtype, "q", q.dtype);
  require_dtype("v", v.dtype, "q", q.dtype);
  AttentionCall call{.q = q,
                     .k = k,
                     .v = v,
                     .layout = layout,
                     .q_heads = heads_of("q", q, layout),
                     .k_heads = heads_of("k", k, layout),
                     .v_heads = heads_of("v", v, layout),
                     .leading = {},
                     .batch = 1,
                     .out_shape = {},
                     .lse_shape = {}};
  const auto [queries, keys, values] = std::tie(call.q_heads, call.k_heads, call.v_heads);
  const auto refuse = [&](const std::string& expected) {
    throw ValueError("q, k and v: expected " + expected + ", got shapes " + to_text(q.shape) + ", " + to_text(k.shape) +
                     " and " + to_text(v.shape));
  };
  if ((q.rank() == 2) != (k.rank() == 2) || (q.rank() == 2) != (v.rank() == 2))
    refuse("either three matrices or three arrays with heads");
  if (queries.cols != keys.cols) refuse("q and k of the same depth");
  if (keys.rows != values.rows) refuse("k and v of the same length");
  const auto refuse_heads = [&](const std::string& expected) {
    refuse(expected + (layout == HeadLayout::bhsd ? " (layout 'bhsd')" : " (layout 'bshd')"));
  };
  if (keys.heads != values.heads) refuse_heads("k and v with the same number of heads");
  if (keys.heads == 0 ? queries.heads != 0 : queries.heads % keys.heads != 0)
    refuse_heads("a number of query heads that is a multiple of the number of key heads");
  call.leading = broadcast_leading(q, k, v);
  for (const std::int64_t size : call.leading.span()) call.batch = saturating_multiply(call.batch, size);
  if (q.rank() == 2) {
    call.out_shape = with({}, {queries.rows, values.cols});
    call.lse_shape = with({}, {queries.rows});
  } else {
    call.out_shape = layout == HeadLayout::bhsd ? with(call.leading, {queries.heads, queries.rows, values.cols})
                                                : with(call.leading, {queries.rows, queries.heads, values.cols});
    call.lse_shape = with(call.leading, {queries.heads, queries.rows});
  }
  require_addressable(call.out_shape, item_size(q.dtype));
  require_addressable(call.lse_shape, item_size(q.dtype));
  return call;
}

void check_attention_options(const AttentionCall& call, const AttentionOptions& o) {
  if (o.mask) {
    if (o.mask->dtype != DType::boolean)
      throw TypeError(std::string("mask: expected dtype bool, got ") + name(o.mask->dtype));
    require_broadcast("mask", *o.mask, call);
  }
  if (o.bias) {
    require_like_q("bias", *o.bias, call);
    require_broadcast("bias", *o.bias, call);
  }
  if (o.alibi_slopes) require_per_head("alibi_slopes", *o.alibi_slopes, call);
  if (o.sinks) require_per_head("sinks", *o.sinks, call);
  if (o.causal == Causal::yes && call.q_heads.rows != call.k_heads.rows && o.query_offset.empty())
    throw ValueError(
        "causal: True needs as many queries as keys, or a query_offset; expected 'upper_left' (the first " +
        std::string("query stands at the first key) or 'lower_right' (the last at the last), got ") +
        std::to_string(call.q_heads.rows) + " queries and " + std::to_string(call.k_heads.rows) + " keys");
  if (o.scale && !std::isfinite(rounded(*o.scale, call.q.dtype)))
    throw ValueError("scale: expected a finite " + number_text(*o.scale, call.q.dtype));
  if (!o.scale && call.q_heads.cols == 0)
    throw ValueError("scale: expected a number where q has a depth of 0, got None");
  if (const double cap = rounded(o.softcap.value_or(1), call.q.dtype); !(cap > 0 && std::isfinite(cap)))
    throw ValueError("softcap: expected a positive finite " + number_text(*o.softcap, call.q.dtype));
  check_window("left", o.window_left);
  check_window("right", o.window_right);
  check_lengths(call, o.kv_lengths);
  check_offsets(call, o.query_offset);
  check_shared_options(o.num_threads, o.isa);
  check_config(o.config);
}

void check_attention_out(const AttentionCall& call, const TensorView& out, const AttentionOptions& o) {
  check_output("out", call, out, call.out_shape, o);
}

void check_attention_lse(const AttentionCall& call, const TensorView& lse, const AttentionOptions& o) {
  check_output("lse", call, lse, call.lse_shape, o);
}

void run_attention(const AttentionCall& call, const TensorView& out, const std::optional<TensorView>& lse,
                   const AttentionOptions& o) {
  const auto& [q, k, v] = std::tie(call.q_heads, call.k_heads, call.v_heads);
  if (call.batch == 0 || q.heads == 0 || q.rows == 0 || (v.cols == 0 && !lse)) return;
  const Isa isa = o.isa ? *o.isa : current_isa();
  const DType dtype = call.q.dtype;
  const AttentionConfig config = merge_configs(o.config, attention_constants(isa, dtype).blocks);

  Batch<kOperands> batch;
  for (int axis = call.leading.rank + 3; axis > 3; --axis)
    batch.add(call.leading.dims[call.leading.rank + 3 - axis],
              {batch_stride(call.q, axis), batch_stride(call.k, axis), batch_stride(call.v, axis),
               out.stride_from_end(axis), lse ? lse->stride_from_end(axis - 1) : 0,
               o.mask ? batch_stride(*o.mask, axis) : 0, o.bias ? batch_stride(*o.bias, axis) : 0});

  int threads = 1;
  if (call.work() >= kAttentionParallelWork)
    threads = usable_threads(o.num_threads > 0 ? o.num_threads : default_threads().count);
  const Cut cut(call, config.block_q, threads);
  const std::int64_t pieces =
      saturating_multiply(saturating_multiply(call.batch, k.heads), cut.head_parts * cut.row_parts);
  threads = static_cast<int>(std::min<std::int64_t>(threads, pieces));
  const bool pack_v = v.cols > 1 && v.col != item_size(dtype);
  const std::int64_t block_kv = std::min({config.block_kv, kMostKeys, std::max<std::int64_t>(1, k.rows)});
  const Memory memory(call, cut, block_kv, isa);
  const auto all_memory = checked_multiply(memory.bytes, threads);
  if (!all_memory) throw std::bad_alloc();

  const Heads result = heads_of("out", out, call.layout);
  const std::int64_t lse_row = lse ? lse->stride_from_end(1) : 0;
  const std::int64_t lse_head = lse && lse->rank() > 1 ? lse->stride_from_end(2) : 0;
  const std::vector<double> slopes = per_head(o.alibi_slopes);
  const std::vector<double> sinks = per_head(o.sinks);
  const AttentionPiece::Scores mask = scores_of(o.mask);
  const AttentionPiece::Scores bias = scores_of(o.bias);
  const std::int64_t left = std::min(o.window_left.value_or(kUnbounded), kUnbounded);
  const std::int64_t right = std::min(o.window_right.value_or(kUnbounded), o.causal == Causal::no ? kUnbounded : 0);
  const std::int64_t group = q.heads / k.heads;

  struct Place {
    std::int64_t row, head_part, key_head, index;
  };
  const auto place = [&](std::int64_t number) {
    return Place{.row = number % cut.row_parts * cut.rows,
                 .head_part = number / cut.row_parts % cut.head_parts,
                 .key_head = number / (cut.row_parts * cut.head_parts) % k.heads,
                 .index = number / (cut.row_parts * cut.head_parts * k.heads)};
  };
  const auto first_head = [&](const Place& at) { return at.key_head * group + at.head_part * cut.heads; };
  const auto make_piece = [&](std::int64_t number, std::byte* own) {
    const Place here = place(number);
    const auto [row, head_part, key_head, index] = here;
    const std::int64_t head = first_head(here);
    const std::int64_t keys = o.kv_lengths.empty() ? k.rows : o.kv_lengths[static_cast<std::size_t>(index)];
    const auto at = batch.offsets(index);
    const auto scores = [&](AttentionPiece::Scores s, std::int64_t offset) {
      if (s.data != nullptr) s.data += offset + head * s.head + row * s.row;
      return s;
    };
    // The next piece is most likely this thread's too.
    const bool follows = number + 1 < pieces;
    const Place next = follows ? place(number + 1) : Place{};
    const auto next_at = batch.offsets(next.index);
    const bool same_keys = next.key_head == key_head && next.index == index;
    return AttentionPiece{
        .heads = std::min(cut.heads, group - head_part * cut.heads),
        .rows = std::min(cut.rows, q.rows - row),
        .depth = q.cols,
        .value_depth = v.cols,
        .q = call.q.data + at[kQ] + head * q.head + row * q.row,
        .q_head = q.head,
        .q_row = q.row,
        .q_col = q.col,
        .k = call.k.data + at[kK] + key_head * k.head,
        .k_row = k.row,
        .k_col = k.col,
        .v = call.v.data + at[kV] + key_head * v.head,
        .v_row = v.row,
        .v_col = v.col,
        .out = out.data + at[kOut] + head * result.head + row * result.row,
        .out_head = result.head,
        .out_row = result.row,
        .out_col = result.col,
        .lse = lse ? lse->data + at[kLse] + head * lse_head + row * lse_row : nullptr,
        .lse_head = lse_head,
        .lse_row = lse_row,
        .keys = keys,
        .position = first_position(call, o, index, keys) + row,
        .left = left,
        .right = right,
        .scale = o.scale.value_or(1 / std::sqrt(static_cast<double>(q.cols))),
        .softcap = o.softcap.value_or(0),
        .mask = scores(mask, at[kMask]),
        .bias = scores(bias, at[kBias]),
        .slopes = slopes.empty() ? nullptr : slopes.data() + head,
        .sinks = sinks.empty() ? nullptr : sinks.data() + head,
        .next_q = follows ? call.q.data + next_at[kQ] + first_head(next) * q.head + next.row * q.row : nullptr,
        .next_k = follows && !same_keys ? call.k.data + next_at[kK] + next.key_head * k.head : nullptr,
        .next_v = follows && !same_keys ? call.v.data + next_at[kV] + next.key_head * v.head : nullptr,
        .block_kv = block_kv,
        .queries = own + memory.queries,
        .packed_k = own + memory.packed_k,
        .packed_v = own + memory.packed_v,
        .pack_v = pack_v,
        .scores = own + memory.scores,
        .staged_bias = own + memory.staged_bias,
        .staged_mask = own + memory.staged_mask,
        .maxima = own + memory.maxima,
        .totals = own + memory.totals,
        .sums = own + memory.sums,
        .sum_row = memory.sum_row,
    };
  };
  const auto attend = kernels(isa).attention[static_cast<int>(dtype)];
  const Scratch scratch(*all_memory);
  parallel(threads, [&](Team& team) {
    std::byte* const own = scratch.data() + team.rank() * memory.bytes;
    team.for_each(pieces, [&](std::int64_t number) { attend(make_piece(number, own)); });
  });
}

Shape attention_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, HeadLayout layout) {
  return prepare_attention(q, k, v, layout).out_shape;
}

Shape attention_lse_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                          HeadLayout layout) {
  return prepare_attention(q, k, v, layout).lse_shape;
}

void attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, const TensorView& out,
               const std::optional<TensorView>& lse, const AttentionOptions& options) {
  const AttentionCall call = prepare_attention(q, k, v, options.layout);
  check_attention_options(call, options);
  check_attention_out(call, out, options);
  if (lse) {
    check_attention_lse(call, *lse, options);
    require_disjoint("lse", *lse, out, "out");
  }
  run_attention(call, out, lse, options);
}

}  // namespace transfuse
