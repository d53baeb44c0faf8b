"""What matmul_t should compute, and how far off it may be."""

import math

import numpy as np

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def activate(x, activation):
    """The activation's formula as written, in the precision of `x`."""
    with np.errstate(all="ignore"):
        match activation:
            case None:
                return x
            case "relu":
                return np.maximum(x, 0)
            case "gelu":  # ½(1 + erf(z)) = ½erfc(-z), without the cancellation
                return x * 0.5 * _erfc(-x / math.sqrt(2)).astype(x.dtype)
            case "gelu_tanh":
                return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            case "silu":
                return x / (1 + np.exp(-x))
    raise ValueError(activation)


def product(a, b, bias=None, activation=None):
    """activation((A·B)ᵀ + bias) by NumPy, in the precision of the operands."""
    with np.errstate(all="ignore"):
        result = np.swapaxes(np.matmul(a, b), -1, -2)
        if bias is not None:
            result = result + bias[:, np.newaxis]
    return activate(result, activation)


def allowed_error(a, b, bias=None, activation=None):
    """The exact result, and the largest error that an implementation in the dtype of `a` may have.

    Twice the largest error of the straightforward computation in the same dtype, and 4·eps·max √Σ(ab)², in whose sum
    the bias counts as one more term. Exact means float64 for float32, and the longest float for float64.
    """
    dtype = a.dtype
    wide = np.float64 if dtype == np.float32 else np.longdouble
    wide_bias = None if bias is None else bias.astype(wide)
    exact = product(a.astype(wide), b.astype(wide), wide_bias, activation)
    straightforward = product(a, b, bias, activation)
    squares = np.swapaxes(np.matmul(a.astype(np.float64) ** 2, b.astype(np.float64) ** 2), -1, -2)
    if bias is not None:
        squares = squares + bias.astype(np.float64)[:, np.newaxis] ** 2
    slack = 4 * np.finfo(dtype).eps * math.sqrt(np.max(squares, initial=0))
    return exact, 2 * np.max(np.abs(straightforward - exact), initial=0) + slack


def assert_accurate(result, a, b, bias=None, activation=None, case=""):
    """`result` is matmul_t(a, b, bias=bias, activation=activation) within the rule of :func:`allowed_error`."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    exact, allowed = allowed_error(a, b, bias, activation)
    assert isinstance(result, np.ndarray), case
    assert result.dtype == a.dtype, case
    assert result.shape == exact.shape, case
    error = np.max(np.abs(result - exact), initial=0)
    assert error <= allowed, f"{case or (a.shape, b.shape)}: off by {error}, allowed {allowed}"


def integers(rng, shape, dtype):
    """Small whole numbers, whose products and sums are exact in any order."""
    return rng.integers(-4, 5, shape).astype(dtype)


def normal(rng, shape, dtype):
    """Normally distributed numbers."""
    return rng.standard_normal(shape).astype(dtype)
