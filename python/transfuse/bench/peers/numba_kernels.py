"""Numba kernels: blocked, packed, parallel, with inner loops that LLVM vectorises. Stacks of matrices."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

import numba
import numpy as np

DEPTH = 256  # of a block: its columns of A and B
WIDTH = 256  # of a block: rows of A, side by side once packed, so that DEPTH × WIDTH elements stay in L2
HEIGHT = 16  # columns of B that a thread takes at a time
FEW = 4  # rows of A for which B is read once, as it lies
STRIP = 512  # columns of B that a thread takes at a time then
WORTH_THREADS = 100_000  # multiply-adds


def kernel(a, b):
    """The kernel for operands of these shapes: (batch, rows, depth) and (batch, depth, columns)."""
    if a.size * b.shape[2] < WORTH_THREADS:
        return matmul_t_serial
    return matmul_t_few_rows if a.shape[1] <= FEW else matmul_t


@numba.njit(parallel=True, fastmath=True, cache=True)
def matmul_t(a, b, out):
    """out[i] = (a[i] @ b[i]).T

    out[n, m] = Σ b[k, n] · a[m, k] runs along m, which is contiguous in `out` and, after packing, in `a`. Two rows of
    `out` and four k at a time: eight multiply-adds for six loads.
    """
    batch, rows, depth = a.shape
    row_blocks = (rows + WIDTH - 1) // WIDTH
    col_blocks = (b.shape[2] + HEIGHT - 1) // HEIGHT
    packed = np.empty((batch * row_blocks, depth, min(WIDTH, rows)), a.dtype)
    for block in numba.prange(batch * row_blocks):
        _pack(a[block // row_blocks], block % row_blocks * WIDTH, packed[block])
    for task in numba.prange(batch * row_blocks * col_blocks):
        block, first = task // col_blocks, task % col_blocks * HEIGHT
        i, row = block // row_blocks, block % row_blocks * WIDTH
        _block(packed[block], b[i], out[i], row, min(WIDTH, rows - row), first)
    return out


@numba.njit(fastmath=True, cache=True)
def matmul_t_serial(a, b, out):
    """The same for small matrices, on one thread."""
    batch, rows, depth = a.shape
    packed = np.empty((depth, min(WIDTH, rows)), a.dtype)
    for i in range(batch):
        for row in range(0, rows, WIDTH):
            _pack(a[i], row, packed)
            for first in range(0, b.shape[2], HEIGHT):
                _block(packed, b[i], out[i], row, min(WIDTH, rows - row), first)
    return out


@numba.njit(parallel=True, fastmath=True, cache=True)
def matmul_t_few_rows(a, b, out):
    """The same for few rows of A: strips of B's columns, four of its rows at a time."""
    batch, rows, depth = a.shape
    cols = b.shape[2]
    strips = (cols + STRIP - 1) // STRIP
    for task in numba.prange(batch * strips):
        i, first = task // strips, task % strips * STRIP
        last = min(first + STRIP, cols)
        width, whole = last - first, depth // 4 * 4
        sums = np.empty(STRIP, a.dtype)
        for m in range(rows):
            sums[:] = 0
            for k in range(0, whole, 4):
                x0, x1, x2, x3 = a[i, m, k], a[i, m, k + 1], a[i, m, k + 2], a[i, m, k + 3]
                b0, b1 = b[i, k, first:last], b[i, k + 1, first:last]
                b2, b3 = b[i, k + 2, first:last], b[i, k + 3, first:last]
                for n in range(width):
                    sums[n] += x0 * b0[n] + x1 * b1[n] + x2 * b2[n] + x3 * b3[n]
            for k in range(whole, depth):
                for n in range(width):
                    sums[n] += a[i, m, k] * b[i, k, first + n]
            for n in range(width):
                out[i, first + n, m] = sums[n]
    return out


@numba.njit(cache=True)
def _pack(a, row, packed):
    """Rows `row` ... of A side by side."""
    for k in range(a.shape[1]):
        for m in range(min(WIDTH, a.shape[0] - row)):
            packed[k, m] = a[row + m, k]


@numba.njit(fastmath=True, cache=True)
def _block(a, b, out, row, width, first):
    """Columns `first` ... of B against one packed block of A, whose rows start at `row`."""
    depth, cols = b.shape
    last = min(first + HEIGHT, cols)
    for n in range(first, last):
        out[n, row : row + width] = 0
    for start in range(0, depth, DEPTH):
        stop = min(start + DEPTH, depth)
        whole = start + (stop - start) // 4 * 4
        n = first
        while n + 2 <= last:
            o0, o1 = out[n, row : row + width], out[n + 1, row : row + width]
            for k in range(start, whole, 4):
                a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                x0, x1, x2, x3 = b[k, n], b[k + 1, n], b[k + 2, n], b[k + 3, n]
                y0, y1, y2, y3 = b[k, n + 1], b[k + 1, n + 1], b[k + 2, n + 1], b[k + 3, n + 1]
                for m in range(width):
                    o0[m] += x0 * a0[m] + x1 * a1[m] + x2 * a2[m] + x3 * a3[m]
                    o1[m] += y0 * a0[m] + y1 * a1[m] + y2 * a2[m] + y3 * a3[m]
            for k in range(whole, stop):
                for m in range(width):
                    o0[m] += b[k, n] * a[k, m]
                    o1[m] += b[k, n + 1] * a[k, m]
            n += 2
        if n < last:
            o0 = out[n, row : row + width]
            for k in range(start, stop):
                for m in range(width):
                    o0[m] += b[k, n] * a[k, m]
