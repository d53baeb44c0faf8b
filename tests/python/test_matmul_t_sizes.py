"""matmul_t is accurate for every size."""

import itertools

import numpy as np
import pytest
from oracle import assert_accurate, integers, normal, product

import transfuse

TILE_EDGES = (1, 2, 3, 5, 7, 13, 29, 31, 47, 61, 127, 131, 167, 173, 239, 241, 257)


def check(rng, dtype, m, k, n):
    a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
    assert_accurate(transfuse.matmul_t(a, b), a, b, case=f"M, K, N = {m}, {k}, {n}")


@pytest.mark.parametrize("third", ["K", "N", "M"])
def test_all_pairs_up_to_70(rng, dtype, third):
    # The third size runs through a cycle of its own, so that it meets many values beside each pair.
    step = 1 if dtype == np.float32 else 3
    cycle = itertools.cycle((3, 16, 1, 33, 8, 70, 5, 17, 2, 64, 0, 31))
    for first, second in itertools.islice(itertools.product(range(71), repeat=2), 0, None, step):
        other = next(cycle)
        m, k, n = {"K": (first, other, second), "N": (first, second, other), "M": (other, first, second)}[third]
        check(rng, dtype, m, k, n)


def test_primes_at_tile_edges(rng, dtype):
    sizes = list(itertools.product(TILE_EDGES, repeat=3))
    for m, k, n in sizes[:: 23 if dtype == np.float32 else 97]:
        check(rng, dtype, m, k, n)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 20000, 1), (20000, 1, 1), (1, 1, 20000), (3, 4099, 5), (1, 1000, 1000), (1000, 1000, 1), (521, 263, 257)],
)
def test_long_and_thin(rng, dtype, m, k, n):
    check(rng, dtype, m, k, n)


def test_long_sums_of_one_sign(rng):
    # Here a plain running sum loses digits that a blocked one keeps, as NumPy's does.
    a = rng.random((2, 300_000), np.float32)
    b = rng.random((300_000, 3), np.float32)
    assert_accurate(transfuse.matmul_t(a, b), a, b)


def test_whole_numbers_are_exact(rng, dtype):
    a, b = integers(rng, (67, 300), dtype), integers(rng, (300, 91), dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b))


@pytest.mark.parametrize("batch", [(), (2,), (0,)])
def test_nothing_to_sum(dtype, batch):
    a, b = np.ones((*batch, 3, 0), dtype), np.ones((*batch, 0, 5), dtype)
    result = transfuse.matmul_t(a, b)
    assert result.shape == (*batch, 5, 3)
    assert result.dtype == dtype
    assert not result.any()
    assert not np.signbit(result).any()


def test_nothing_to_sum_leaves_bias_and_activation(dtype):
    bias = np.array([-2, -1, 0, 1, 2], dtype)
    a, b = np.ones((3, 0), dtype), np.ones((0, 5), dtype)
    for out in (None, np.full((5, 3), np.nan, dtype), np.full((3, 5), np.nan, dtype).T):
        result = transfuse.matmul_t(a, b, bias=bias, activation="relu", out=out)
        np.testing.assert_array_equal(result, np.maximum(bias, 0)[:, np.newaxis].repeat(3, axis=1))


@pytest.mark.parametrize(("shape_a", "shape_b"), [((0, 4), (4, 3)), ((3, 4), (4, 0)), ((0, 0), (0, 0))])
def test_empty_results(dtype, shape_a, shape_b):
    result = transfuse.matmul_t(np.ones(shape_a, dtype), np.ones(shape_b, dtype))
    assert result.shape == (shape_b[-1], shape_a[-2])
    assert result.dtype == dtype


def test_llama_2_rotary_embedding_node(rng):
    a = np.arange(128, dtype=np.float32).reshape(1, 128, 1)
    b = normal(rng, (1, 1, 1024), np.float32)
    result = transfuse.matmul_t(a, b)
    assert result.shape == (1, 1024, 128)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, product(a, b))  # one product per element: no rounding to differ in


def test_the_result_is_new_and_c_contiguous(rng, dtype):
    a, b = normal(rng, (4, 3), dtype), normal(rng, (3, 5), dtype)
    first, second = transfuse.matmul_t(a, b), transfuse.matmul_t(a, b)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert first.flags.owndata
    assert not np.shares_memory(first, second)
    assert type(first) is np.ndarray
