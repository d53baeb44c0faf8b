# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Cython kernels: plain loops, and blocked loops in parallel. Stacks of matrices: (batch, rows, columns)."""

from cython.parallel cimport prange

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
