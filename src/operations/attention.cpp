// How attention is cut into pieces, and shared among threads.
#include "operations/attention.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>
#include <vector>

#include "core/arithmetic.hpp"
#include "core/constants.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "kernels/table.hpp"
#include "operations/checks.hpp"
#include "operations/configuration.hpp"
#include "simd/element.hpp"
#include "transfuse/threads.hpp"

namespace transfuse {
namespace {

/// One number per head, as double.
std::vector<double> per_head(const std::optional<ConstTensorView>& view) {
  std::vector<double> values;
  if (!view) return values;
  visit_float(view->dtype, [&](auto type) {
    for (std::int64_t i = 0; i < view->shape[0]; ++i)
      values.push_back(widen(load_element<decltype(type)>(view->data + i * view->strides[0])));
  });
  return values;
}

/// Strides over the leading dimensions, in the order of Batch.
enum Operand { kQ, kK, kV, kScales, kOut, kLse, kMask, kBias, kOperands };

/// The strides of a mask or a bias over heads, queries and keys; 0 where it is repeated.
AttentionPiece::Scores scores_of(const std::optional<ConstTensorView>& view) {
  if (!view) return {nullptr, DType::float32, 0, 0, 0};
  return {view->data, view->dtype, batch_stride(*view, 3), batch_stride(*view, 2), batch_stride(*view, 1)};
}

/// A call's work, cut into pieces: each for some rows of some heads that share keys and values, and where those are
/// few, for a part of the keys. What a piece computes does not depend on the number of threads.
class Plan {
 public:
  Plan(const AttentionCall& call, const TensorView& out, const std::optional<TensorView>& lse,
       const AttentionOptions& o)
      : call_(call),
        o_(o),
        isa_(o.isa ? *o.isa : current_isa()),
        dtype_(compute_dtype(call.q.dtype)),
        kernels_(kernels(isa_).attention[static_cast<int>(call.k.dtype)]),
        out_(out),
        lse_(lse),
        result_(heads_of("out", out, call.layout)),
        mask_(scores_of(o.mask)),
        bias_(scores_of(o.bias)),
        slopes_(per_head(o.alibi_slopes)),
        sinks_(per_head(o.sinks)),
        left_(std::min(o.window_left.value_or(kUnbounded), kUnbounded)),
        right_(std::min(o.window_right.value_or(kUnbounded), o.causal == Causal::no ? kUnbounded : 0)),
        group_(call.q_heads.heads / call.k_heads.heads) {
    for (int axis = call.leading.rank + 3; axis > 3; --axis)
      batch_.add(call.leading.dims[call.leading.rank + 3 - axis],
                 {batch_stride(call.q, axis), batch_stride(call.k, axis), batch_stride(call.v, axis),
                  axis == 4 && call.cache != nullptr && call.k.shape[0] > 1 ? call.cache->scale_strides[0] : 0,
                  out.stride_from_end(axis), lse ? lse->stride_from_end(axis - 1) : 0,
                  o.mask ? batch_stride(*o.mask, axis) : 0, o.bias ? batch_stride(*o.bias, axis) : 0});
    const std::int64_t queries = saturating_multiply(group_, call.q_heads.rows);
    const auto adjacent = [](const ConstTensorView& view, const Heads& heads) {
      return heads.cols <= 1 || heads.col == item_size(view.dtype);
    };
    in_place_ =
        read_in_place(queries, call.q_heads.cols) && adjacent(call.k, call.k_heads) && adjacent(call.v, call.v_heads);
    pack_v_ = call.k.dtype != dtype_ || !adjacent(call.v, call.v_heads);
    threads_ = 1;
    if (call.work() >= kAttentionParallelWork)
      threads_ = usable_threads(o.num_threads > 0 ? o.num_threads : default_threads().count);
    config_ = configuration();
    part_keys_ = queries <= kSplitQueries ? config_.key_chunk : kUnbounded;
    if (find_sequences() < kAttentionParallelWork) threads_ = 1;
    cut(most_parts_ > 1 ? 1 : threads_);
    first_piece_.push_back(0);
    for (const Sequence& s : sequences_) {
      const auto pieces = checked_multiply(s.parts, units_);
      const auto end = pieces ? checked_add(first_piece_.back(), *pieces) : std::nullopt;
      if (!end) throw std::bad_alloc();
      first_piece_.push_back(*end);
    }
    threads_ = static_cast<int>(std::min<std::int64_t>(threads_, pieces()));
    block_kv_ = std::min({config_.block_kv, kMostKeys, std::max<std::int64_t>(1, call.k_heads.rows)});
    place_memory();
  }

  void run() const {
    const auto all_work = checked_multiply(work_bytes_ + state_bytes_, threads_);
    const auto all_states = checked_multiply(most_parts_ > 1 ? state_bytes_ : 0, pieces());
    const auto all = all_work && all_states ? checked_add(*all_work, *all_states) : std::nullopt;
    if (!all) throw std::bad_alloc();
    const Scratch scratch(*all);
    std::byte* const states = scratch.data() + *all_work;
    parallel(threads_, [&](Team& team) {
      std::byte* const own = scratch.data() + team.rank() * (work_bytes_ + state_bytes_);
      const auto state = [&](std::int64_t number, const Place& at) {
        return sequence(at).parts > 1 ? states + number * state_bytes_ : own + work_bytes_;
      };
      team.for_each(pieces(), [&](std::int64_t number) {
        const Place at = place(number);
        kernels_.attend(piece(number, at, own, state(number, at)));
      });
      if (most_parts_ == 1) return;
      team.for_each(static_cast<std::int64_t>(sequences_.size()) * units_, [&](std::int64_t unit) {
        const auto index = static_cast<std::size_t>(unit / units_);
        const std::int64_t number = first_piece_[index] + unit % units_ * sequences_[index].parts;
        const Place at = place(number);
        if (sequence(at).parts > 1) kernels_.finish(whole(piece(number, at, own, state(number, at)), at));
      });
    });
  }

 private:
  /// What its queries see, in parts of part_keys_: `parts` of them from `first_part` on.
  struct Sequence {
    std::int64_t keys, position, first_part, parts;
  };

  struct Place {
    std::int64_t index, key_head, head_part, row, part;
  };

  /// Only block_q depends on the number of threads; it is that of several also where what is seen turns out to be too
  /// little work for them.
  AttentionConfig configuration() const {
    const AttentionProblem problem{.batch = call_.batch,
                                   .q_heads = call_.q_heads.heads,
                                   .kv_heads = call_.k_heads.heads,
                                   .queries = call_.q_heads.rows,
                                   .keys = call_.k_heads.rows,
                                   .head_dim = call_.q_heads.cols,
                                   .causal = o_.causal == Causal::no ? 0 : 1};
    const AttentionConfig defaults =
        in_place_ ? default_config(isa_, dtype_, problem) : attention_constants(isa_, dtype_).blocks;
    return choose_config(isa_, call_.k.dtype, problem, threads_, o_.config, defaults);
  }

  /// Returns the work in multiply-adds at most.
  std::int64_t find_sequences() {
    const std::int64_t rows = call_.q_heads.rows;
    std::int64_t seen = 0;
    for (std::int64_t index = 0; index < call_.batch; ++index) {
      const std::int64_t keys = length(index);
      const std::int64_t position = first_position(index, keys);
      const std::int64_t first = std::clamp<std::int64_t>(position - left_, 0, keys);
      const std::int64_t last = std::clamp(position + rows + right_, first, keys);
      const std::int64_t first_part = first / part_keys_;
      const std::int64_t parts = std::max<std::int64_t>(1, ceil_divide(last, part_keys_) - first_part);
      sequences_.push_back({keys, position, first_part, parts});
      most_parts_ = std::max(most_parts_, parts);
      seen = checked_add(seen, last - first).value_or(INT64_MAX);
    }
    const std::int64_t depths = checked_add(call_.q_heads.cols, call_.v_heads.cols).value_or(INT64_MAX);
    const std::int64_t elements = saturating_multiply(saturating_multiply(call_.k_heads.heads, seen), depths);
    far_ = saturating_multiply(elements, item_size(call_.k.dtype)) >= kStreamedFarBytes;
    return saturating_multiply(elements, saturating_multiply(group_, rows));
  }

  std::int64_t length(std::int64_t index) const {
    const auto of = [](std::span<const std::int64_t> lengths, std::int64_t i) {
      return lengths[static_cast<std::size_t>(i) % lengths.size()];
    };
    if (call_.cache != nullptr) return of(call_.cache->lengths, index);
    return o_.kv_lengths.empty() ? call_.k_heads.rows : of(o_.kv_lengths, index);
  }

  /// The position of the first query among `keys` keys; see the contract of query_offset.
  std::int64_t first_position(std::int64_t index, std::int64_t keys) const {
    const auto offsets = o_.query_offset;
    if (!offsets.empty()) return offsets[offsets.size() == 1 ? 0 : static_cast<std::size_t>(index)];
    const std::int64_t last = keys - call_.q_heads.rows;
    switch (o_.causal) {
      case Causal::upper_left: return 0;
      case Causal::lower_right: return last;
      default: return call_.cache == nullptr && call_.q_heads.rows == call_.k_heads.rows ? 0 : last;
    }
  }

  void cut(int threads) {
    const std::int64_t queries = call_.q_heads.rows;
    // Several pieces for each thread, so that none waits long for the last one; but a piece packs its keys anew, so few
    // queries are not worth one.
    const std::int64_t all = saturating_multiply(saturating_multiply(call_.batch, call_.q_heads.heads), queries);
    std::int64_t most = all;
    if (threads > 1)
      most = std::max(ceil_divide(all, kAttentionPieces * threads), std::min(ceil_divide(all, threads), kPieceRows));
    most = std::min(config_.block_q, most);
    row_parts_ = ceil_divide(queries, most);
    rows_ = ceil_divide(queries, row_parts_);
    heads_ = std::clamp<std::int64_t>(most / rows_, 1, group_);
    head_parts_ = ceil_divide(group_, heads_);
    units_ = saturating_multiply(call_.k_heads.heads, head_parts_ * row_parts_);
  }

  std::int64_t pieces() const { return first_piece_.back(); }

  Place place(std::int64_t number) const {
    const auto after = std::upper_bound(first_piece_.begin(), first_piece_.end(), number);
    const std::int64_t index = after - first_piece_.begin() - 1;
    const std::int64_t parts = sequences_[static_cast<std::size_t>(index)].parts;
    const std::int64_t within = number - *(after - 1);
    const std::int64_t unit = within / parts;
    return {.index = index,
            .key_head = unit / (row_parts_ * head_parts_),
            .head_part = unit / row_parts_ % head_parts_,
            .row = unit % row_parts_ * rows_,
            .part = within % parts};
  }

  const Sequence& sequence(const Place& at) const { return sequences_[static_cast<std::size_t>(at.index)]; }
  std::int64_t first_head(const Place& at) const { return at.key_head * group_ + at.head_part * heads_; }
  std::int64_t first_key(const Place& at) const { return (sequence(at).first_part + at.part) * part_keys_; }

  AttentionPiece piece(std::int64_t number, const Place& at, std::byte* own, std::byte* state) const {
    const auto& [q, k, v] = std::tie(call_.q_heads, call_.k_heads, call_.v_heads);
    const Sequence& here = sequence(at);
    const std::int64_t head = first_head(at);
    const auto offsets = batch_.offsets(at.index);
    const auto scores = [&](AttentionPiece::Scores s, std::int64_t offset) {
      if (s.data != nullptr) s.data += offset + head * s.head + at.row * s.row;
      return s;
    };
    const auto scales = [&](const float* all) {
      const std::int64_t offset = all == nullptr ? 0 : offsets[kScales] + at.key_head * call_.cache->scale_strides[1];
      return all == nullptr ? nullptr : all + offset / static_cast<std::int64_t>(sizeof(float));
    };
    const std::int64_t lse_row = lse_ ? lse_->stride_from_end(1) : 0;
    const std::int64_t lse_head = lse_ && lse_->rank() > 1 ? lse_->stride_from_end(2) : 0;
    AttentionPiece p{
        .heads = std::min(heads_, group_ - at.head_part * heads_),
        .rows = std::min(rows_, q.rows - at.row),
        .depth = q.cols,
        .value_depth = v.cols,
        .q_dtype = call_.q.dtype,
        .q = call_.q.data + offsets[kQ] + head * q.head + at.row * q.row,
        .q_head = q.head,
        .q_row = q.row,
        .q_col = q.col,
        .k = call_.k.data + offsets[kK] + at.key_head * k.head,
        .k_row = k.row,
        .k_col = k.col,
        .v = call_.v.data + offsets[kV] + at.key_head * v.head,
        .v_row = v.row,
        .v_col = v.col,
        .k_scales = scales(call_.cache != nullptr ? call_.cache->k_scales : nullptr),
        .v_scales = scales(call_.cache != nullptr ? call_.cache->v_scales : nullptr),
        .out = out_.data + offsets[kOut] + head * result_.head + at.row * result_.row,
        .out_head = result_.head,
        .out_row = result_.row,
        .out_col = result_.col,
        .lse = lse_ ? lse_->data + offsets[kLse] + head * lse_head + at.row * lse_row : nullptr,
        .lse_head = lse_head,
        .lse_row = lse_row,
        .first_key = first_key(at),
        .keys = std::min(here.keys, first_key(at) + part_keys_),
        .position = here.position + at.row,
        .left = left_,
        .right = right_,
        .scale = o_.scale.value_or(1 / std::sqrt(static_cast<double>(q.cols))),
        .softcap = o_.softcap.value_or(0),
        .mask = scores(mask_, offsets[kMask]),
        .bias = scores(bias_, offsets[kBias]),
        .slopes = slopes_.empty() ? nullptr : slopes_.data() + head,
        .sinks = sinks_.empty() ? nullptr : sinks_.data() + head,
        .next_q = nullptr,
        .next_k = nullptr,
        .next_v = nullptr,
        .next_keys = 0,
        .parts = here.parts,
        .first_part = here.first_part,
        .part_keys = part_keys_,
        .in_place = in_place_,
        .far = far_,
        .block_kv = block_kv_,
        .queries = own + queries_,
        .packed_k = own + packed_k_,
        .packed_v = own + packed_v_,
        .pack_v = pack_v_,
        .scores = own + scores_,
        .staged_bias = own + staged_bias_,
        .staged_mask = own + staged_mask_,
        .state_bytes = state_bytes_,
        .maxima = state,
        .totals = state + totals_,
        .sums = state + sums_,
        .sum_row = sum_row_,
    };
    if (number + 1 < pieces()) look_ahead(p, at, place(number + 1));
    return p;
  }

  /// The next piece is most likely this thread's too.
  void look_ahead(AttentionPiece& p, const Place& at, const Place& next) const {
    const auto& [q, k, v] = std::tie(call_.q_heads, call_.k_heads, call_.v_heads);
    const auto offsets = batch_.offsets(next.index);
    const bool same_heads = next.key_head == at.key_head && next.index == at.index;
    p.next_q = call_.q.data + offsets[kQ] + first_head(next) * q.head + next.row * q.row;
    if (same_heads && next.part == at.part) return;
    const std::int64_t first = first_key(next);
    p.next_k = call_.k.data + offsets[kK] + next.key_head * k.head + first * k.row;
    p.next_v = call_.v.data + offsets[kV] + next.key_head * v.head + first * v.row;
    p.next_keys = std::max<std::int64_t>(0, std::min(part_keys_, sequence(next).keys - first));
  }

  /// The piece of a unit's first part, for all of them.
  AttentionPiece whole(AttentionPiece p, const Place& at) const {
    p.keys = sequence(at).keys;
    return p;
  }

  void place_memory() {
    const std::int64_t size = item_size(dtype_);
    const MatmulTConstants& tile = matmul_t_constants(isa_, dtype_);
    const std::int64_t width = vector_width(isa_, dtype_);
    const std::int64_t tile_cols = tile.tile_vectors * width;
    const std::int64_t value_depth = round_up(std::min(call_.v_heads.cols, kUnbounded), tile_cols);
    sum_row_ = value_depth * size;
    queries_ = add(work_bytes_, tile.tile_rows * size, kScoreRow);
    packed_k_ = add(work_bytes_, round_up(block_kv_, tile_cols) * size, call_.q_heads.cols);
    packed_v_ = add(work_bytes_, block_kv_ * size, value_depth);
    scores_ = add(work_bytes_, tile.tile_rows * size, kScoreRow);
    staged_bias_ = add(work_bytes_, size, kScoreRow);
    staged_mask_ = add(work_bytes_, 1, kScoreRow);
    const std::int64_t rows = heads_ * rows_;
    add(state_bytes_, size, rows);  // maxima
    totals_ = add(state_bytes_, width * size, rows);
    sums_ = add(state_bytes_, sum_row_, rows);
  }

  /// Room for count · each bytes at the end of `bytes`. \throws std::bad_alloc if that is more than can be counted
  static std::int64_t add(std::int64_t& bytes, std::int64_t count, std::int64_t each) {
    const std::int64_t offset = bytes;
    const auto amount = checked_multiply(count, each);
    const auto end =
        amount && *amount < INT64_MAX - kCacheLine ? checked_add(bytes, round_up(*amount, kCacheLine)) : std::nullopt;
    if (!end) throw std::bad_alloc();
    bytes = *end;
    return offset;
  }

  const AttentionCall& call_;
  const AttentionOptions& o_;
  const Isa isa_;
  const DType dtype_;
  AttentionConfig config_;
  const AttentionKernels& kernels_;
  const TensorView& out_;
  const std::optional<TensorView>& lse_;
  const Heads result_;
  const AttentionPiece::Scores mask_, bias_;
  const std::vector<double> slopes_, sinks_;
  const std::int64_t left_, right_;
  const std::int64_t group_;  // query heads that share keys and values
  Batch<kOperands> batch_;

  bool in_place_, far_, pack_v_;
  int threads_;
  std::int64_t part_keys_, block_kv_;
  std::int64_t heads_, rows_;            // of a piece at most
  std::int64_t head_parts_, row_parts_;  // of a group of heads
  std::int64_t units_;                   // pieces of a sequence, parts of the keys aside
  std::vector<Sequence> sequences_;
  std::vector<std::int64_t> first_piece_;  // of each sequence, and how many there are
  std::int64_t most_parts_ = 1;

  // The working memory of a thread, and what is known of the queries of a piece: where their parts lie.
  std::int64_t work_bytes_ = 0, queries_, packed_k_, packed_v_, scores_, staged_bias_, staged_mask_;
  std::int64_t state_bytes_ = 0, totals_, sums_, sum_row_;
};

}  // namespace

std::int64_t AttentionCall::work() const {
  const std::int64_t pairs =
      saturating_multiply(saturating_multiply(batch, q_heads.heads), saturating_multiply(q_heads.rows, k_heads.rows));
  return saturating_multiply(pairs, checked_add(q_heads.cols, v_heads.cols).value_or(INT64_MAX));
}

void run_attention(const AttentionCall& call, const TensorView& out, const std::optional<TensorView>& lse,
                   const AttentionOptions& o) {
  if (call.batch == 0 || call.q_heads.heads == 0 || call.q_heads.rows == 0 || (call.v_heads.cols == 0 && !lse)) return;
  Plan(call, out, lse, o).run();
}

namespace {

void run_checked(const AttentionCall& call, const TensorView& out, const std::optional<TensorView>& lse,
                 const AttentionOptions& options) {
  check_attention_options(call, options);
  check_attention_out(call, out, options);
  if (lse) {
    check_attention_lse(call, *lse, options);
    require_disjoint("lse", *lse, out, "out");
  }
  run_attention(call, out, lse, options);
}

}  // namespace

void attention(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, const TensorView& out,
               const std::optional<TensorView>& lse, const AttentionOptions& options) {
  run_checked(prepare_attention(q, k, v, options.layout), out, lse, options);
}

void attention(const ConstTensorView& q, const KVCache& cache, const TensorView& out,
               const std::optional<TensorView>& lse, const AttentionOptions& options) {
  const CachedTokens tokens = cache.tokens();
  run_checked(prepare_attention(q, tokens, options.layout), out, lse, options);
}

}  // namespace transfuse
