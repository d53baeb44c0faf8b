"""What the notebooks on tuning tune: attention of one head by blocks, in NumPy, Numba and transfuse.

A library's idle threads go on spinning after a call and would slow another one. So each library is timed in a process
of its own, which ends before the next one starts.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

DEPTH = 64
MOST_THREADS = 8


def numpy_attention(q, k, v, block_q, block_kv):
    """softmax(q @ k.T / √depth) @ v by blocks of queries and keys, with an online softmax."""
    out = np.empty_like(q)
    scale = q.dtype.type(1 / np.sqrt(q.shape[1]))
    for first in range(0, len(q), block_q):
        rows = q[first : first + block_q] * scale
        largest = np.full((len(rows), 1), -np.inf, q.dtype)
        total, result = np.zeros_like(largest), np.zeros_like(rows)
        for start in range(0, len(k), block_kv):
            scores = rows @ k[start : start + block_kv].T
            higher = np.maximum(largest, scores.max(axis=1, keepdims=True))
            shrink = np.exp(largest - higher)
            weights = np.exp(scores - higher)
            total = total * shrink + weights.sum(axis=1, keepdims=True)
            result = result * shrink + weights @ v[start : start + block_kv]
            largest = higher
        out[first : first + block_q] = result / total
    return out


def _numpy() -> Callable[..., Any]:
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()

    def attention(arrays, block_q, block_kv, threads):
        if threads is None:
            return numpy_attention(*arrays, block_q, block_kv)
        with controller.limit(limits=threads):  # of the BLAS that multiplies
            return numpy_attention(*arrays, block_q, block_kv)

    return attention


def _numba() -> Callable[..., Any]:
    import numba

    from transfuse.bench.peers import numba_attention

    def attention(arrays, block_q, block_kv, threads):
        numba.set_num_threads(threads or os.cpu_count())
        q, k, v = (array[None] for array in arrays)
        return numba_attention.attention(q, k, v, False, np.empty_like(q), block_q, block_kv)[0]

    return attention


def _transfuse() -> Callable[..., Any]:
    import transfuse

    def attention(arrays, block_q, block_kv, threads):
        config = {"block_q": block_q, "block_kv": block_kv}
        return transfuse.attention(*arrays, num_threads=threads, config=config)

    return attention


LIBRARIES = {"NumPy": _numpy, "Numba": _numba, "transfuse": _transfuse}


def target(library: str, length: int, seed: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Attention of random q, k, v (length, DEPTH): a function of one block size, and a function of two."""
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((length, DEPTH)) for _ in range(3)]
    arrays = {dtype: [array.astype(dtype) for array in drawn] for dtype in ("float32", "float64")}
    attention = LIBRARIES[library]()

    def by_block(block=64, threads=None, dtype="float32"):
        return attention(arrays[dtype], block, block, threads)

    def by_blocks(block_q=64, block_kv=64, threads=None, dtype="float32"):
        return attention(arrays[dtype], block_q, block_kv, threads)

    return by_block, by_blocks


def search(
    library: str, length: int, parameters: dict[str, list[Any]], strategy: Any, seed: int, **options: Any
) -> Any:
    """A search over these parameters, on matrices of this seed: a TuningResult."""
    from transfuse import tune

    by_block, by_blocks = target(library, length, seed)
    name = f"{library}, N = {length}"
    function = tune.Function(by_blocks if "block_q" in parameters else by_block, name=name)
    return tune.search(function, tune.Space(parameters), strategy=strategy, seed=seed, **options)


@contextlib.contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """A function that calls :func:`search` in a process of its own, which ends with the block."""
    os.environ["NUMBA_NUM_THREADS"] = str(MOST_THREADS)  # the most that can be asked for; read when Numba is imported
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda *arguments, **options: pool.submit(search, *arguments, **options).result()
