"""Attention by Numba: blocks of keys, an online softmax, parallel over blocks of queries. Stacks of heads."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

import numba
import numpy as np

QUERIES = 32  # of a task, where nothing else is said
KEYS = 128  # of a block: KEYS × depth elements of k and of v stay in L2, a row of scores in L1
FLAGS = {"reassoc", "contract", "arcp", "nsz"}  # infinities keep their meaning


@numba.njit(parallel=True, fastmath=FLAGS, cache=True)
def attention(q, k, v, causal, out, block_q=QUERIES, block_kv=KEYS):
    """out[n] = softmax(q[n] @ k[n // group].T / √depth) @ v[n // group], for n in heads of all sequences."""
    heads, length = q.shape[:2]
    group = heads // k.shape[0]
    blocks = (length + block_q - 1) // block_q
    for task in numba.prange(heads * blocks):
        # Blocks with many keys before those with few.
        head, block = task % heads, blocks - 1 - task // heads
        rows = slice(block * block_q, min(length, (block + 1) * block_q))
        _attend(q[head, rows], k[head // group], v[head // group], block * block_q, causal, block_kv, out[head, rows])
    return out


@numba.njit(fastmath=FLAGS, cache=True)
def _attend(q, k, v, first, causal, block_kv, out):
    """Queries `first` ... of one head, by blocks of keys."""
    rows, depth = q.shape
    value_depth = v.shape[1]
    scale = q.dtype.type(1.0 / np.sqrt(depth))
    transposed = np.empty((depth, block_kv), q.dtype)
    scores = np.empty(block_kv, q.dtype)
    maxima = np.full(rows, -np.inf, q.dtype)
    sums = np.zeros(rows, q.dtype)
    out[:] = 0
    end = min(k.shape[0], first + rows) if causal else k.shape[0]
    for start in range(0, end, block_kv):
        stop = min(start + block_kv, end)
        for j in range(stop - start):
            for d in range(depth):
                transposed[d, j] = k[start + j, d]
        for r in range(rows):
            seen = min(stop, first + r + 1) - start if causal else stop - start
            if seen <= 0:
                continue
            _scores(q[r], transposed, seen, scale, scores)
            largest = maxima[r]
            for j in range(seen):
                largest = max(largest, scores[j])
            if largest > maxima[r]:
                shrink = np.exp(maxima[r] - largest)
                sums[r] *= shrink
                for d in range(value_depth):
                    out[r, d] *= shrink
                maxima[r] = largest
            total = q.dtype.type(0)
            for j in range(seen):
                scores[j] = np.exp(scores[j] - largest)
                total += scores[j]
            sums[r] += total
            _add_values(scores, v, start, seen, out[r])
    for r in range(rows):
        inverse = 1 / sums[r]
        for d in range(value_depth):
            out[r, d] *= inverse


@numba.njit(fastmath=FLAGS, cache=True)
def _scores(q, transposed, count, scale, scores):
    """scores = scale · q @ transposed, four steps of depth at a time."""
    depth = q.size
    whole = depth // 4 * 4
    scores[:count] = 0
    for d in range(0, whole, 4):
        x0, x1, x2, x3 = q[d] * scale, q[d + 1] * scale, q[d + 2] * scale, q[d + 3] * scale
        k0, k1, k2, k3 = transposed[d], transposed[d + 1], transposed[d + 2], transposed[d + 3]
        for j in range(count):
            scores[j] += x0 * k0[j] + x1 * k1[j] + x2 * k2[j] + x3 * k3[j]
    for d in range(whole, depth):
        for j in range(count):
            scores[j] += q[d] * scale * transposed[d, j]


@numba.njit(fastmath=FLAGS, cache=True)
def _add_values(weights, v, start, count, out):
    """out += weights @ v[start:], four keys at a time."""
    width = out.size
    whole = count // 4 * 4
    for j in range(0, whole, 4):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        v0, v1, v2, v3 = v[start + j], v[start + j + 1], v[start + j + 2], v[start + j + 3]
        for d in range(width):
            out[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
    for j in range(whole, count):
        for d in range(width):
            out[d] += weights[j] * v[start + j, d]
