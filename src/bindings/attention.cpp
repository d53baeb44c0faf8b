#include "operations/attention.hpp"

#include <tuple>

#include "bindings/arguments.hpp"
#include "bindings/array.hpp"
#include "bindings/kv_cache.hpp"
#include "bindings/operations.hpp"
#include "bindings/options.hpp"
#include "bindings/wisdom.hpp"
#include "core/constants.hpp"
#include "transfuse/error.hpp"

namespace transfuse::python {
namespace {

constexpr const char* kDocumentation =
    R"(attention(q, k=None, v=None, *, cache=None, mask=None, bias=None, causal=False, query_offset=None, scale=None, window=None, softcap=None, alibi_slopes=None, sinks=None, kv_lengths=None, layout="bhsd", out=None, return_lse=False, num_threads=None, config=None)
--

Attention, softmax(scale·q·kᵀ)·v, with every option in one pass and without a matrix of scores.

Scores are, in this order: ``s = scale * q·k``; with `softcap`, ``s = softcap * tanh(s / softcap)``; plus `bias` and
``-slope * |position - j|``; then keys are masked. Query i stands at ``position = i + query_offset``.

Parameters
----------
q : array (..., Hq, Lq, D)
    float32, float64, float16 or bfloat16 (ml_dtypes), any strides: a numpy.ndarray, or any CPU array with ``__dlpack__``
    (PyTorch, JAX) or ``__array_interface__``, which are read in place. (Lq, D) is one head. With 16 bits everything is
    computed in float32, and the result rounded.
k : array (..., Hkv, Lk, D)
    Of the dtype of `q`. Hq is a multiple of Hkv: query head h reads head ``h // (Hq // Hkv)``, which is not repeated in
    memory. Leading dimensions of `q`, `k` and `v` broadcast.
v : array (..., Hkv, Lk, Dv)
    Of the dtype of `q`.
cache : KVCache, optional
    Instead of `k` and `v`: what it holds, Lk being the longest of its lengths. The queries are the last Lq positions of
    each sequence, unless a `query_offset` says otherwise. `q` has the cache's dtype, with one of int8 any but float64;
    `kv_lengths` are the cache's.
mask : bool array, optional
    Broadcasts to (..., Hq, Lq, Lk) in either layout, or (Lq, Lk) for matrices. True: the query attends to the key.
bias : array, optional
    Of the dtype of `q` or float32; broadcasts as `mask` does and is added to the scores. -inf masks, no finite number does.
causal : {False, True, "upper_left", "lower_right"}
    A query sees the keys up to its position. True needs Lq == Lk, a `cache` or a `query_offset`; otherwise say whether the first
    query stands at the first key (PyTorch) or the last at the last (flash-attn).
query_offset : int or array of ints (...), optional
    Default, without a cache: 0 if Lq == Lk or causal is "upper_left", unless it is "lower_right"; else the number of keys (Lk, or the
    sequence's `kv_lengths`) - Lq.
scale : float, optional
    Default: 1 / sqrt(D); needed where D is 0.
window : (left, right), optional
    A query sees the keys ``position - left <= j <= position + right``; None is unbounded.
softcap : float, optional
    Positive.
alibi_slopes : array (Hq,), optional
    Of the dtype of `q` or float32.
sinks : array (Hq,), optional
    Likewise: one more logit per head, in the denominator only.
kv_lengths : array of ints (...), optional
    Of 0 ... Lk; keys from there on are masked. A plain int where there are no leading dimensions.
layout : {"bhsd", "bshd"}
    "bshd" exchanges heads and sequence in `q`, `k`, `v` and the result: (..., L, H, D).
out : numpy.ndarray (..., Hq, Lq, Dv), optional
    Receives the result. Exactly this shape and the dtype of `q`, any strides; shares memory with no input.
return_lse : bool
    Return (result, lse).
num_threads : int, optional
    Default: the least of OpenMP's maximum, the CPU affinity and the cgroup quota.
config : mapping, optional
    ``block_q``, ``block_kv`` (queries and keys of a block; more than 1024 keys count as 1024), ``key_chunk`` (where few
    queries share keys: the part of them that is one piece of work), of which only block_kv and key_chunk affect rounding;
    ``isa`` ("scalar", "avx2", "avx512") and ``threads``. What it does not say is the tuned value, else the default. An
    explicit `num_threads` wins.

Returns
-------
numpy.ndarray (..., Hq, Lq, Dv)
    `out` if it was given, else a new C-contiguous array. A query that sees no key gets zeros. Bitwise the same for every
    number of threads.
lse : numpy.ndarray (..., Hq, Lq)
    If `return_lse`: the natural logarithm of each softmax's denominator, sinks included, in either layout; -inf for a query
    that sees nothing. float64 for float64, else float32.

Raises
------
ValueError
    Shapes that do not fit, a value out of range, causal=True with Lq != Lk, an unknown config key, layout or tier, or an
    `out` of another shape or dtype, read-only, or overlapping an input or itself.
TypeError
    A dtype that is not one of these, mixed dtypes, neither `k` and `v` nor a `cache` or both, a mask that is not bool, lengths that are not integers, an object
    that is no array, a tensor that requires grad.
MemoryError
    The results or the working memory (a thread's grows with the depth, 0.4 MiB at 64 and 0.6 for few queries, not with the sequences; few queries
    of long keys need some 20 numbers more than Dv for every `key_chunk` of them) cannot be allocated.

    Nothing has been written to `out` then.

Notes
-----
A masked key never influences the result, even if it or its value is NaN or infinite; one that a query sees makes NaN of
what it meets. (`kv_lengths` keep such keys out of the work; where another option hides them, each query that meets them
is computed again, some ten times slower.) Blocks of keys with an online
softmax: Dao et al., arXiv:2205.14135.

Sums over values are divided by those of their weights, each of which is up to 16, only at the end: they can become
infinite where 16 times the sum of ``|v|`` over the keys exceeds the largest float32 (float64 for float64). With a cache of
int8, q·k is computed before the key's scale is applied: ``127 * |q| * D`` must stay below the largest float32.

Examples
--------
>>> import numpy as np, transfuse
>>> q = np.zeros((1, 2, 3, 4), np.float32)
>>> v = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
>>> transfuse.attention(q, q[:, :1], v, causal=True)[0, 1]
array([[0., 1., 2., 3.],
       [2., 3., 4., 5.],
       [4., 5., 6., 7.]], dtype=float32)
)";

enum Parameter {
  kQ,
  kK,
  kV,
  kCache,
  kMask,
  kBias,
  kCausal,
  kQueryOffset,
  kScale,
  kWindow,
  kSoftcap,
  kAlibiSlopes,
  kSinks,
  kKvLengths,
  kLayout,
  kOut,
  kReturnLse,
  kNumThreads,
  kConfig,
  kCount
};

PyObject* attention(PyObject* /*module*/, PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names) {
  try {
    ensure_wisdom();
    static const Signature signature(
        "attention", 1, {"q", "k", "v"},
        {"cache", "mask", "bias", "causal", "query_offset", "scale", "window", "softcap", "alibi_slopes", "sinks",
         "kv_lengths", "layout", "out", "return_lse", "num_threads", "config"});
    PyObject* given[kCount];
    signature.parse(args, positional, keyword_names, given);

    AttentionOptions options;
    if (!is_none(given[kConfig])) {
      const auto config = read_config<AttentionConfig>(given[kConfig]);
      options.config = config.parameters;
      options.isa = config.isa;
      options.num_threads = config.threads;
    }
    if (!is_none(given[kNumThreads])) options.num_threads = read_threads(given[kNumThreads], "num_threads");
    if (given[kCausal] != nullptr) options.causal = read_causal(given[kCausal]);
    if (!is_none(given[kScale])) options.scale = read_number(given[kScale], "scale");
    if (!is_none(given[kSoftcap])) options.softcap = read_number(given[kSoftcap], "softcap");
    if (!is_none(given[kWindow])) std::tie(options.window_left, options.window_right) = read_window(given[kWindow]);
    if (given[kLayout] != nullptr) options.layout = read_layout(given[kLayout]);
    const bool return_lse = given[kReturnLse] != nullptr && read_bool(given[kReturnLse], "return_lse");

    const InputArray q(given[kQ], "q", Elements::floating);
    std::optional<InputArray> k, v, mask, bias, slopes, sinks;
    const auto read = [&](Parameter parameter, const char* name, std::optional<InputArray>& array,
                          std::optional<ConstTensorView>& view, Elements elements = Elements::floating) {
      if (!is_none(given[parameter])) view = array.emplace(given[parameter], name, elements).view();
    };
    read(kMask, "mask", mask, options.mask, Elements::boolean);
    read(kBias, "bias", bias, options.bias);
    read(kAlibiSlopes, "alibi_slopes", slopes, options.alibi_slopes);
    read(kSinks, "sinks", sinks, options.sinks);

    std::optional<CachedTokens> cached;
    const auto prepare = [&] {
      if (is_none(given[kCache])) {
        if (!is_none(given[kK]) && is_cache(given[kK]))
          throw TypeError("k: expected an array, got a KVCache; pass it as cache=");
        for (const Parameter needed : {kK, kV}) signature.require(needed, given);
        k.emplace(given[kK], "k", Elements::floating);
        v.emplace(given[kV], "v", Elements::floating);
        return prepare_attention(q.view(), k->view(), v->view(), options.layout);
      }
      if (!is_none(given[kK]) || !is_none(given[kV]))
        throw TypeError("cache: expected None beside k and v, got a KVCache");
      return prepare_attention(q.view(), cached.emplace(read_cache(given[kCache]).tokens()), options.layout);
    };
    const AttentionCall call = prepare();
    std::vector<std::int64_t> offsets, lengths;
    if (!is_none(given[kQueryOffset])) {
      offsets = read_integers(given[kQueryOffset], "query_offset", call.leading.span());
      if (offsets.empty()) offsets = {0};  // those of no sequences: given all the same
      options.query_offset = offsets;
    }
    if (!is_none(given[kKvLengths]))
      options.kv_lengths = lengths = read_integers(given[kKvLengths], "kv_lengths", call.leading.span());
    check_attention_options(call, options);

    Object result;
    TensorView out;
    if (is_none(given[kOut])) {
      result = new_array(call.out_shape, call.q.dtype);
      out = view_of(reinterpret_cast<PyArrayObject*>(result.get()), call.q.dtype);
    } else {
      out = output_view(given[kOut], "out", Elements::floating);
      check_attention_out(call, out, options);
      result = Object::borrowed(given[kOut]);
    }
    Object lse_array;
    std::optional<TensorView> lse;
    if (return_lse) {
      const DType dtype = compute_dtype(call.q.dtype);
      lse_array = new_array(call.lse_shape, dtype);
      lse = view_of(reinterpret_cast<PyArrayObject*>(lse_array.get()), dtype);
    }

    if (call.work() < kReleaseLockWork) {
      run_attention(call, out, lse, options);
    } else {
      const ReleasedLock released;
      run_attention(call, out, lse, options);
    }
    if (!return_lse) return result.release();
    return PyTuple_Pack(2, result.get(), lse_array.get());
  } catch (...) {
    set_python_error("attention");
    return nullptr;
  }
}

}  // namespace

PyMethodDef attention_method() {
  return {"attention", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(attention)),
          METH_FASTCALL | METH_KEYWORDS, kDocumentation};
}

}  // namespace transfuse::python
