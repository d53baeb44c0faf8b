// What attention() requires of its arguments.
#include "operations/attention.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include "core/arithmetic.hpp"
#include "core/parameters.hpp"
#include "core/text.hpp"
#include "kernels/table.hpp"
#include "operations/checks.hpp"
#include "transfuse/error.hpp"

namespace transfuse {
namespace {

/// Positions beyond this are refused.
constexpr std::int64_t kFarthest = kUnbounded / 4;

// Shapes.

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
  return compute_dtype(dtype) == DType::float32 ? static_cast<double>(static_cast<float>(number)) : number;
}

std::string number_text(double got, DType dtype) {
  return std::string("number in ") + name(compute_dtype(dtype)) + ", got " + to_text(got);
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
                  DType dtype, const AttentionOptions& o) {
  require_output(argument, out, dtype, shape);
  const std::pair<const char*, std::optional<ConstTensorView>> inputs[] = {
      {"q", call.q},     {"k", call.k},    {"v", call.v},
      {"mask", o.mask},  {"bias", o.bias}, {"alibi_slopes", o.alibi_slopes},
      {"sinks", o.sinks}};
  for (const auto& [name, input] : inputs)
    if (input) require_disjoint(argument, out, *input, name);
}

AttentionCall prepare(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, HeadLayout layout,
                      HeadLayout kv_layout) {
  AttentionCall call{.q = q,
                     .k = k,
                     .v = v,
                     .layout = layout,
                     .q_heads = heads_of("q", q, layout),
                     .k_heads = heads_of("k", k, kv_layout),
                     .v_heads = heads_of("v", v, kv_layout),
                     .leading = {},
                     .batch = 1,
                     .out_shape = {},
                     .lse_shape = {},
                     .cache = nullptr};
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
  require_addressable(call.lse_shape, item_size(compute_dtype(q.dtype)));
  return call;
}

}  // namespace

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

AttentionCall prepare_attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                                HeadLayout layout) {
  require_number("q", q.dtype);
  require_dtype("k", k.dtype, "q", q.dtype);
  require_dtype("v", v.dtype, "q", q.dtype);
  return prepare(q, k, v, layout, layout);
}

AttentionCall prepare_attention(const ConstTensorView& q, const CachedTokens& tokens, HeadLayout layout) {
  require_number("q", q.dtype);
  if (tokens.dtype == DType::int8 ? q.dtype == DType::float64 : q.dtype != tokens.dtype)
    throw TypeError(std::string("q: expected ") +
                    (tokens.dtype == DType::int8 ? "float32, float16 or bfloat16, with a cache of int8"
                                                 : std::string("the dtype of the cache, ") + name(tokens.dtype)) +
                    ", got " + name(q.dtype));
  if (q.rank() < 3) throw ValueError("q: expected at least 3 dimensions with a cache, got shape " + to_text(q.shape));
  AttentionCall call = prepare(q, tokens.keys(), tokens.values(), layout, HeadLayout::bhsd);
  call.cache = &tokens;
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
  if (o.causal == Causal::yes && call.cache == nullptr && call.q_heads.rows != call.k_heads.rows &&
      o.query_offset.empty())
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
  if (call.cache != nullptr && !o.kv_lengths.empty())
    throw ValueError("kv_lengths: expected None with a cache, which knows its own lengths");
  check_lengths(call, o.kv_lengths);
  check_offsets(call, o.query_offset);
  check_shared_options(o.num_threads, o.isa);
  check_config(o.config);
}

void check_attention_out(const AttentionCall& call, const TensorView& out, const AttentionOptions& o) {
  check_output("out", call, out, call.out_shape, call.q.dtype, o);
}

void check_attention_lse(const AttentionCall& call, const TensorView& lse, const AttentionOptions& o) {
  check_output("lse", call, lse, call.lse_shape, compute_dtype(call.q.dtype), o);
}

Shape attention_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, HeadLayout layout) {
  return prepare_attention(q, k, v, layout).out_shape;
}

Shape attention_lse_shape(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                          HeadLayout layout) {
  return prepare_attention(q, k, v, layout).lse_shape;
}

}  // namespace transfuse
