"""Numba kernels: blocked, packed, parallel, with inner loops that LLVM vectorises."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

import numba
import numpy as np

DEPTH = 256  # of a block: its columns of A and B
WIDTH = 256  # of a block: rows of A, side by side once packed, so that DEPTH × WIDTH elements stay in L2
HEIGHT = 16  # columns of B that a thread takes at a time


@numba.njit(parallel=True, fastmath=True, cache=True)
def matmul_t(a, b, out):
    """out[i] = (a[i] @ b[i]).T for stacks of matrices.

    out[n, m] = Σ b[k, n] · a[m, k] runs along m, which is contiguous in `out` and, after packing, in `a`. Two rows of
    `out` and four k at a time: eight multiply-adds for six loads.
    """
    batch, rows, depth = a.shape
    cols = b.shape[2]
    row_blocks = (rows + WIDTH - 1) // WIDTH
    col_blocks = (cols + HEIGHT - 1) // HEIGHT
    packed = np.empty((row_blocks, depth, WIDTH), a.dtype)
    for i in range(batch):
        for block in numba.prange(row_blocks):
            for k in range(depth):
                for m in range(min(WIDTH, rows - block * WIDTH)):
                    packed[block, k, m] = a[i, block * WIDTH + m, k]
        for task in numba.prange(row_blocks * col_blocks):
            block, first = task // col_blocks, task % col_blocks * HEIGHT
            _block(packed[block], b[i], out[i], block * WIDTH, min(WIDTH, rows - block * WIDTH), first)
    return out


@numba.njit(fastmath=True, cache=True, inline="never")
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
