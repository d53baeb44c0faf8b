"""What attention should compute, by the formula, and how far off it may be."""

import math

import ml_dtypes
import numpy as np

HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
"""Elements of 16 bits: stored so, while everything is computed in float32."""


def positions(queries, keys, causal, query_offset, length):
    """The position of each query among `length` valid keys."""
    if query_offset is not None:
        offset = query_offset
    elif causal == "upper_left" or (queries == keys and causal != "lower_right"):
        offset = 0
    else:
        offset = length - queries
    return np.arange(queries) + offset


def visible(queries, keys, causal=False, query_offset=None, window=None, length=None):
    """Which keys the causal order, the window and the length leave, (queries, keys)."""
    length = keys if length is None else length
    position = positions(queries, keys, causal, query_offset, length)[:, None]
    key = np.arange(keys)
    seen = np.broadcast_to(key < length, (queries, keys)).copy()
    if causal:
        seen &= key <= position
    left, right = window or (None, None)
    if left is not None:
        seen &= key >= position - left
    if right is not None:
        seen &= key <= position + right
    return seen


def attention(
    q,
    k,
    v,
    *,
    mask=None,
    bias=None,
    causal=False,
    query_offset=None,
    scale=None,
    window=None,
    softcap=None,
    alibi_slopes=None,
    sinks=None,
    kv_lengths=None,
    layout="bhsd",
):
    """The result, the logarithm of the denominators and the largest logit, in the precision of the operands."""
    matrices = q.ndim == 2
    if matrices:
        q, k, v = q[None], k[None], v[None]
    elif layout == "bshd":
        q, k, v = (x.swapaxes(-2, -3) for x in (q, k, v))
    leading = np.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    heads, queries, depth = q.shape[-3:]
    keys = k.shape[-2]
    group = heads // k.shape[-3] if heads else 1
    q = np.broadcast_to(q, (*leading, *q.shape[-3:]))
    k, v = (np.repeat(np.broadcast_to(x, (*leading, *x.shape[-3:])), group, axis=-3) for x in (k, v))
    seen = np.ones((*leading, heads, queries, keys), bool)
    position = np.zeros((*leading, 1, queries, 1))
    for index in np.ndindex(*leading):
        length = keys if kv_lengths is None else int(np.asarray(kv_lengths)[index])
        offset = query_offset if query_offset is None or np.ndim(query_offset) == 0 else int(query_offset[index])
        seen[index] &= visible(queries, keys, causal, offset, window, length)
        position[index] = positions(queries, keys, causal, offset, length)[:, None]
    dtype = q.dtype
    with np.errstate(all="ignore"):
        scores = np.matmul(q, k.swapaxes(-1, -2)) * dtype.type(1 / math.sqrt(depth) if scale is None else scale)
        if softcap is not None:
            scores = dtype.type(softcap) * np.tanh(scores / dtype.type(softcap))
        logit = largest(scores[seen])
        if bias is not None:
            bias = bias[None] if matrices and bias.ndim > 2 else bias
            seen = seen & ~np.isneginf(bias)
            scores = scores + np.where(np.isneginf(bias), 0, bias).astype(dtype)
        if alibi_slopes is not None:
            distance = np.abs(position - np.arange(keys)).astype(dtype)
            scores = scores - alibi_slopes.astype(dtype)[:, None, None] * distance
        if mask is not None:
            seen = seen & mask
        scores = np.where(seen, scores, -np.inf).astype(dtype)
        logit = max(logit, largest(scores))
        top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
        if sinks is not None:
            top = np.maximum(top, sinks.astype(dtype)[:, None, None])
        top = np.where(np.isneginf(top), 0, top).astype(dtype)
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sinks.astype(dtype)[:, None, None] - top)
        # A masked key has no part in the product, whatever its value.
        clean = np.where(np.isfinite(v), v, 0)
        result = np.matmul(np.where(seen, weights, 0), clean)
        for at in zip(*np.nonzero(~np.isfinite(v)), strict=True):
            *where, key, column = at
            rows = seen[(*where, slice(None), key)]
            result[(*where, rows, column)] += weights[(*where, rows, key)] * v[at]
        result = np.where(total > 0, result / np.where(total == 0, 1, total), np.where(np.isnan(total), np.nan, 0))
        lse = (top + np.log(total))[..., 0]
    result = result.astype(dtype)
    if matrices:
        return result[0], lse[0], float(logit)
    return (result.swapaxes(-2, -3) if layout == "bshd" else result), lse, float(logit)


def computed(value):
    """An array of 16-bit elements in float32, exactly; anything else as it is."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype in HALVES else value


def widened(value):
    """An array in the next wider type."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    return value.astype(np.float64 if value.dtype == np.float32 else np.longdouble)


def largest(values):
    """The largest magnitude among those that are finite."""
    return np.max(np.abs(values), where=np.isfinite(values), initial=0)


def difference(x, y):
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return x - y


class Expected:
    """The exact results of a call, and how far off an implementation in the dtype of `q` may be.

    At most twice the error of the straightforward computation in the same dtype, and
    (8 + √Lk/4 + max|logit|)·eps·max|result|. For lse the last factor is 1 + max|lse|.

    For 16-bit operands all of this is float32's, eps too, and each element of the result may be off by its rounding
    besides, half a unit in its last place: far stricter than the rule with the eps of 16 bits.
    """

    def __init__(self, q, k, v, **options):
        self.dtype = q.dtype
        q, k, v = computed(q), computed(k), computed(v)
        options = {name: computed(value) for name, value in options.items()}
        wide = {name: widened(value) for name, value in options.items()}
        self.result, self.lse, logit = attention(widened(q), widened(k), widened(v), **wide)
        plain, plain_lse, _ = attention(q, k, v, **options)
        keys = k.shape[-3] if options.get("layout") == "bshd" else k.shape[-2]
        slack = (8 + math.sqrt(keys) / 4 + logit) * float(np.finfo(q.dtype).eps)
        self.lse_dtype = q.dtype
        self.allowed = 2 * largest(difference(plain, self.result)) + slack * largest(self.result)
        self.allowed_lse = 2 * largest(difference(plain_lse, self.lse)) + slack * (1 + largest(self.lse))

    def check(self, result, lse=None, case=""):
        """Assert that the rule holds, and that the same elements are finite."""
        assert result.dtype == self.dtype, case
        self._compare(result, self.result, self.allowed, case)
        if lse is not None:
            assert lse.dtype == self.lse_dtype, case
            self._compare(lse, self.lse, self.allowed_lse, (case, "lse"))
            np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(self.lse), err_msg=str(case))

    def _compare(self, values, exact, allowed, case):
        assert values.shape == exact.shape, case
        rounding = 0
        if values.dtype in HALVES:
            limits = ml_dtypes.finfo(values.dtype)
            values = computed(values)
            units = np.maximum(np.abs(exact) + allowed, float(limits.smallest_normal)) * float(limits.eps)
            rounding = np.where(np.isfinite(exact), units / 2, 0)
        np.testing.assert_array_equal(np.isfinite(values), np.isfinite(exact), err_msg=str(case))
        error = largest(difference(values, exact) - np.clip(difference(values, exact), -rounding, rounding))
        assert error <= allowed, f"{case}: off by {error}, rounding aside, allowed {allowed}"


def assert_accurate(result, q, k, v, case="", **options):
    """`result` is attention(q, k, v, **options) within the rule of :class:`Expected`."""
    Expected(q, k, v, **options).check(result, case=case)
