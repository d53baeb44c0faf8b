"""Batch dimensions broadcast as in numpy.matmul."""

import itertools

import numpy as np
import pytest
from oracle import assert_accurate, integers, normal, product

import transfuse

BATCHES = [
    (),
    (1,),
    (2,),
    (3,),
    (0,),
    (1, 1),
    (1, 2),
    (2, 1),
    (2, 3),
    (3, 2),
    (0, 2),
    (2, 0),
    (1, 3, 1),
    (2, 1, 3),
    (2, 3, 2),
    (1, 1, 1, 2),
    (2, 1, 3, 2),
]


def numpy_accepts(a, b):
    try:
        np.matmul(a, b)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("batch_a", BATCHES, ids=str)
def test_the_same_shapes_as_numpy(rng, dtype, batch_a):
    for batch_b in BATCHES:
        a, b = integers(rng, (*batch_a, 3, 4), dtype), integers(rng, (*batch_b, 4, 5), dtype)
        if numpy_accepts(a, b):
            np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b), f"{a.shape} {b.shape}")
        else:
            with pytest.raises(ValueError, match=r"^matmul_t: a and b: batch dimensions do not broadcast"):
                transfuse.matmul_t(a, b)


def test_the_same_matrix_sizes_as_numpy(rng, dtype):
    # An inner dimension of 1 does not broadcast.
    for m, k_a, k_b, n in itertools.product((0, 1, 2), repeat=4):
        a, b = integers(rng, (2, m, k_a), dtype), integers(rng, (k_b, n), dtype)
        if numpy_accepts(a, b):
            np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b), f"{a.shape} {b.shape}")
        else:
            with pytest.raises(ValueError, match=r"^matmul_t: a and b: .*the same K"):
                transfuse.matmul_t(a, b)


def test_the_table_has_both_kinds_of_cases():
    accepted = [numpy_accepts(np.ones((*a, 1, 1)), np.ones((*b, 1, 1))) for a in BATCHES for b in BATCHES]
    assert 100 < sum(accepted) < len(accepted) - 50


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((2, 3, 2, 1, 4, 5), (2, 1, 2, 3, 5, 6)),
        ((1, 1, 1, 1, 4, 5), (2, 3, 2, 3, 5, 6)),
        ((4, 5), (2, 3, 2, 3, 5, 6)),
        ((2, 3, 2, 3, 4, 5), (5, 6)),
    ],
    ids=str,
)
def test_rank_six(rng, dtype, shape_a, shape_b):
    a, b = integers(rng, shape_a, dtype), integers(rng, shape_b, dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b))


def test_the_highest_rank(rng, dtype):
    a = integers(rng, (1,) * 60 + (2, 1, 3, 4), dtype)
    b = integers(rng, (1,) * 61 + (2, 4, 5), dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b))


def test_batches_that_cannot_be_merged(rng, dtype):
    # Strides of a and b that no single stride per operand can describe.
    a = integers(rng, (4, 6, 5, 7), dtype)[::2, ::-3]
    b = integers(rng, (2, 2, 7, 8), dtype).transpose(1, 0, 2, 3)
    out = np.zeros((2, 2, 2, 8, 5), dtype)[:, 1].swapaxes(0, 1)
    transfuse.matmul_t(a, b, out=out)
    np.testing.assert_array_equal(out, product(a, b))


@pytest.mark.parametrize(("batch", "m", "k", "n"), [(3000, 4, 4, 4), (50, 64, 64, 64), (5, 200, 150, 170)])
def test_large_batches(rng, dtype, batch, m, k, n):
    a, b = normal(rng, (batch, m, k), dtype), normal(rng, (batch, k, n), dtype)
    bias = normal(rng, n, dtype)
    assert_accurate(transfuse.matmul_t(a, b, bias=bias), a, b, bias)


def test_bias_is_the_same_for_every_matrix(rng, dtype):
    a, b, bias = integers(rng, (2, 3, 4, 5), dtype), integers(rng, (3, 5, 6), dtype), integers(rng, 6, dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b, bias=bias), product(a, b, bias))
