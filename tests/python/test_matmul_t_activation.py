"""Bias, activations, and what NaN and infinity become."""

import itertools
import math

import numpy as np
import pytest
from layouts import place
from oracle import ACTIVATIONS, activate, assert_accurate, normal

import transfuse

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def apply(values, activation):
    """The activation of each value, through matmul_t with a product of zero terms."""
    a, b = np.empty((1, 0), values.dtype), np.empty((0, values.size), values.dtype)
    return transfuse.matmul_t(a, b, bias=values, activation=activation)[:, 0]


@pytest.mark.parametrize("activation", FORMULAS)
def test_formulas(dtype, activation):
    values = np.concatenate([np.linspace(-9, 9, 4001), np.logspace(-30, 0, 200), -np.logspace(-30, 0, 200)])
    values = values.astype(dtype)
    exact = np.array([FORMULAS[activation](float(x)) for x in values])
    error = np.abs(apply(values, activation) - exact)
    # An error of the argument of exp is one of the result, and that argument grows as x² and faster.
    tolerance = (4 + 2 * values.astype(np.float64) ** 2) * np.finfo(dtype).eps * np.abs(exact)
    assert (error <= tolerance).all()


@pytest.mark.parametrize("activation", FORMULAS)
def test_large_values_stay_finite(dtype, activation):
    values = np.array([-1e30, -1e10, -1e4, -700, -100, 100, 700, 1e4, 1e10, 1e30], dtype)
    result = apply(values, activation)
    assert (np.abs(result[:5]) < 1e-30).all()
    np.testing.assert_allclose(result[5:], values[5:], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("transposed_out", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_after_the_product(rng, dtype, activation, with_bias, transposed_out):
    for m, k, n in [(1, 3, 1), (5, 2, 9), (65, 33, 47), (200, 300, 150)]:
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        bias = normal(rng, n, dtype) if with_bias else None
        out = np.empty((m, n), dtype).T if transposed_out else None
        result = transfuse.matmul_t(a, b, bias=bias, activation=activation, out=out)
        assert_accurate(result, a, b, bias, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_once_however_the_sum_is_blocked(rng, dtype, activation):
    a, b, bias = normal(rng, (20, 50), dtype), normal(rng, (50, 30), dtype), normal(rng, 30, dtype)
    for block_k in (1, 7, 49, 50, 51):
        result = transfuse.matmul_t(a, b, bias=bias, activation=activation, config={"block_k": block_k})
        assert_accurate(result, a, b, bias, activation)


def classes(values):
    """nan, +inf, -inf or finite, for each value."""
    return np.select([np.isnan(values), np.isposinf(values), np.isneginf(values)], ["nan", "+inf", "-inf"], "finite")


def explicit_product(a, b, bias, activation):
    """As NumPy's arithmetic has it, without the shortcuts that a BLAS may take."""
    a, b, bias = (x.astype(np.float64) for x in (a, b, bias))
    with np.errstate(invalid="ignore"):
        terms = np.swapaxes(a, -1, -2)[..., :, np.newaxis, :] * b[..., :, :, np.newaxis]
        return activate(terms.sum(axis=-3) + bias[:, np.newaxis], activation)


@pytest.mark.parametrize("layout", ["c", "swapped", "record"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity(rng, dtype, activation, layout):
    special = np.array([np.nan, np.inf, -np.inf, 0.0], dtype)
    for (m, k, n), count in itertools.product([(1, 1, 1), (3, 5, 4), (17, 9, 35), (40, 70, 33)], [1, 3]):
        a, b, bias = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype), normal(rng, n, dtype)
        for array in (a, b, bias):
            array.flat[rng.integers(0, array.size, count)] = rng.choice(special, count)
        result = transfuse.matmul_t(place(a, layout), place(b, layout), bias=bias, activation=activation)
        np.testing.assert_array_equal(classes(result), classes(explicit_product(a, b, bias, activation)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_special_value_stays_in_its_row(rng, dtype, value):
    # Padding and tails must not carry it elsewhere: 0·NaN is NaN.
    for m, n in [(1, 1), (6, 14), (7, 33), (23, 18)]:
        for row in {0, m // 2, m - 1}:
            a, b = normal(rng, (m, 5), dtype), normal(rng, (5, n), dtype)
            a[row, 2] = value
            finite = np.isfinite(transfuse.matmul_t(a, b))
            assert not finite[:, row].any()
            assert np.delete(finite, row, axis=1).all()


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (None, ["nan", "+inf", "-inf"]),
        ("relu", ["nan", "+inf", "finite"]),
        ("gelu", ["nan", "+inf", "nan"]),
        ("gelu_tanh", ["nan", "+inf", "nan"]),
        ("silu", ["nan", "+inf", "nan"]),
    ],
)
def test_activations_of_special_values(dtype, activation, expected):
    values = np.array([np.nan, np.inf, -np.inf], dtype)
    assert classes(apply(values, activation)).tolist() == expected


def test_overflow_is_infinity(dtype):
    large = np.full((1, 1), np.finfo(dtype).max, dtype)
    assert transfuse.matmul_t(large, large)[0, 0] == np.inf
    assert transfuse.matmul_t(large, -large)[0, 0] == -np.inf


def test_subnormal_numbers_survive(dtype):
    tiny = np.full((3, 1), np.finfo(dtype).smallest_subnormal, dtype)
    np.testing.assert_array_equal(transfuse.matmul_t(tiny, np.full((1, 2), 3, dtype)), 3 * tiny[0, 0])


def test_no_floating_point_warning(dtype):
    with np.errstate(all="raise"):
        transfuse.matmul_t(np.full((3, 3), np.inf, dtype), np.zeros((3, 3), dtype))
