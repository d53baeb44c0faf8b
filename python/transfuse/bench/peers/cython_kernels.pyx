# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Cython kernels: plain loops, and blocked loops in parallel. Stacks of matrices: (batch, rows, columns)."""

from cython.parallel cimport prange
from libc.math cimport exp, sqrt

ctypedef fused real:
    float
    double

cdef enum:
    BLOCK = 64


def matmul_t_loops(const real[:, :, :] a, const real[:, :, :] b, real[:, :, :] out):
    """out[i] = (a[i] @ b[i]).T, as the formula says."""
    cdef Py_ssize_t i, m, n, k
    cdef real total
    for i in range(a.shape[0]):
        for n in range(b.shape[2]):
            for m in range(a.shape[1]):
                total = 0
                for k in range(a.shape[2]):
                    total += a[i, m, k] * b[i, k, n]
                out[i, n, m] = total
    return out.base


def matmul_t_blocked(const real[:, :, ::1] a, const real[:, :, ::1] b, real[:, :, ::1] out):
    """out[i] = (a[i] @ b[i]).T in blocks of BLOCK, spread over the threads."""
    cdef Py_ssize_t task, i, place
    cdef Py_ssize_t row_blocks = (a.shape[1] + BLOCK - 1) // BLOCK
    cdef Py_ssize_t col_blocks = (b.shape[2] + BLOCK - 1) // BLOCK
    cdef Py_ssize_t blocks = row_blocks * col_blocks
    cdef bint worth_threads = a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2] > 100_000
    for task in prange(a.shape[0] * blocks, nogil=True, schedule="dynamic", use_threads_if=worth_threads):
        i = task // blocks
        place = task % blocks
        _block(a[i], b[i], out[i], place // col_blocks * BLOCK, place % col_blocks * BLOCK)
    return out.base


cdef void _block(const real[:, ::1] a, const real[:, ::1] b, real[:, ::1] out, Py_ssize_t row, Py_ssize_t col) noexcept nogil:
    """One block of the output: sums over blocks of k in a buffer that stays in L1."""
    cdef real sums[BLOCK][BLOCK]
    cdef Py_ssize_t rows = min(BLOCK, a.shape[0] - row), cols = min(BLOCK, b.shape[1] - col)
    cdef Py_ssize_t depth_blocks = (a.shape[1] + BLOCK - 1) // BLOCK
    cdef Py_ssize_t m, n, k, block, first
    cdef real x
    for m in range(rows):
        for n in range(cols):
            sums[m][n] = 0
    for block in range(depth_blocks):
        first = block * BLOCK
        for m in range(rows):
            for k in range(first, min(first + BLOCK, a.shape[1])):
                x = a[row + m, k]
                for n in range(cols):
                    sums[m][n] += x * b[k, col + n]
    for n in range(cols):
        for m in range(rows):
            out[col + n, row + m] = sums[m][n]


def attention_blocked(const real[:, :, ::1] q, const real[:, :, ::1] k, const real[:, :, ::1] v, bint causal, real[:, :, ::1] out):
    """out[n] = softmax(q[n] @ k[n // group].T / √depth) @ v[n // group], in blocks with an online softmax."""
    cdef Py_ssize_t task, head
    cdef Py_ssize_t blocks = (q.shape[1] + BLOCK - 1) // BLOCK
    cdef Py_ssize_t group = q.shape[0] // k.shape[0]
    cdef bint worth_threads = q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2] > 100_000
    for task in prange(q.shape[0] * blocks, nogil=True, schedule="dynamic", use_threads_if=worth_threads):
        head = task // blocks
        _attend(q[head], k[head // group], v[head // group], task % blocks * BLOCK, causal, out[head])
    return out.base


cdef void _attend(const real[:, ::1] q, const real[:, ::1] k, const real[:, ::1] v, Py_ssize_t row, bint causal, real[:, ::1] out) noexcept nogil:
    """Queries row ... row + BLOCK of one head."""
    cdef real scores[BLOCK][BLOCK]
    cdef real maxima[BLOCK]
    cdef real totals[BLOCK]
    cdef Py_ssize_t rows = min(BLOCK, q.shape[0] - row)
    cdef Py_ssize_t keys = min(k.shape[0], row + rows) if causal else k.shape[0]
    cdef Py_ssize_t block, first, count, seen, r, j, d
    cdef real scale = <real>(1 / sqrt(<double>q.shape[1]))
    cdef real largest, shrink, x
    for r in range(rows):
        maxima[r] = -1e30
        totals[r] = 0
        for d in range(v.shape[1]):
            out[row + r, d] = 0
    for block in range((keys + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        count = min(BLOCK, keys - first)
        for r in range(rows):
            seen = min(count, row + r + 1 - first) if causal else count
            if seen <= 0:
                continue
            largest = maxima[r]
            for j in range(seen):
                x = 0
                for d in range(q.shape[1]):
                    x += q[row + r, d] * k[first + j, d]
                scores[r][j] = x * scale
                largest = max(largest, scores[r][j])
            shrink = <real>exp(<double>(maxima[r] - largest))
            maxima[r] = largest
            totals[r] *= shrink
            for d in range(v.shape[1]):
                out[row + r, d] *= shrink
            for j in range(seen):
                scores[r][j] = <real>exp(<double>(scores[r][j] - largest))
                totals[r] += scores[r][j]
            for j in range(seen):
                x = scores[r][j]
                for d in range(v.shape[1]):
                    out[row + r, d] += x * v[first + j, d]
    for r in range(rows):
        for d in range(v.shape[1]):
            out[row + r, d] /= totals[r]
