"""The out argument: what is accepted, what is refused, and what overlap means."""

import numpy as np
import pytest
from layouts import Placed, Unchanged
from oracle import assert_accurate, integers, normal, product

import transfuse


@pytest.fixture
def operands(rng, dtype):
    return {"a": integers(rng, (4, 6), dtype), "b": integers(rng, (6, 5), dtype), "bias": integers(rng, 5, dtype)}


def refuse(out, error, message, operands):
    """matmul_t refuses `out`, and neither it nor the operands change."""
    with Unchanged(out, *operands.values()), pytest.raises(error, match=rf"^matmul_t: out: {message}"):
        transfuse.matmul_t(**operands, out=out)
    if "bias" not in message:  # the call that takes the quick way, if nothing is wrong
        with Unchanged(out, *operands.values()), pytest.raises(error, match=rf"^matmul_t: out: {message}"):
            transfuse.matmul_t(operands["a"], operands["b"], out=out)


def test_out_is_returned(operands, dtype):
    out = np.full((5, 4), np.nan, dtype)
    assert transfuse.matmul_t(**operands, out=out) is out
    np.testing.assert_array_equal(out, product(**operands))


def test_the_plain_call(operands, dtype):
    a, b = operands["a"], operands["b"]
    out = np.full((5, 4), np.nan, dtype)
    assert transfuse.matmul_t(a, b, out=out) is out
    np.testing.assert_array_equal(out, product(a, b))
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b))


def test_none_allocates(operands):
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, out=None), product(**operands))


@pytest.mark.parametrize("shape", [(4, 5), (5,), (1, 5, 4), (5, 1), (5, 8), (0, 4), (), (20,)], ids=str)
def test_another_shape(operands, dtype, shape):
    refuse(np.ones(shape, dtype), ValueError, r"expected shape \(5, 4\), got \(", operands)


def test_batch_dimensions_do_not_broadcast_into_out(rng, dtype):
    operands = {"a": normal(rng, (1, 4, 6), dtype), "b": normal(rng, (6, 5), dtype)}
    for shape in [(5, 4), (3, 5, 4), (1, 1, 5, 4)]:
        refuse(np.ones(shape, dtype), ValueError, "expected shape", operands)


@pytest.mark.parametrize("other", ["f2", "other", "g", "i4", "i8", "c8", "?", "O", ">f4", ">f8", "V4", "U2"])
def test_another_dtype(operands, dtype, other):
    if other == "other":
        other = "f4" if dtype == np.float64 else "f8"
    out = np.zeros((5, 4), other)
    refuse(out, ValueError, "expected dtype", operands)


def test_read_only(operands, dtype):
    out = np.ones((5, 4), dtype)
    out.flags.writeable = False
    refuse(out, ValueError, "expected a writable array", operands)
    refuse(np.broadcast_to(np.ones(4, dtype), (5, 4)), ValueError, "expected a writable array", operands)


@pytest.mark.parametrize("out", [[[1.0]], (1,), 3, "out", object(), np.ndarray, np.float32(1), bytearray(80)], ids=repr)
def test_no_array(operands, out):
    refuse(out, TypeError, r"expected numpy\.ndarray, got", operands)


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_the_same_array(rng, dtype, argument):
    operands = {"a": normal(rng, (5, 5), dtype), "b": normal(rng, (5, 5), dtype), "bias": normal(rng, 5, dtype)}
    out = operands[argument]
    if argument == "bias":
        out = np.zeros((5, 5), dtype)
        operands["bias"] = out[:, 2]
    refuse(out, ValueError, rf"expected no memory shared with {argument}$", operands)
    refuse(out[::-1, ::-1].T, ValueError, rf"expected no memory shared with {argument}$", operands)


@pytest.mark.parametrize("shift", [1, 5, 24])
def test_overlap_by_part(rng, dtype, shift):
    buffer = normal(rng, 60, dtype)
    operands = {"a": buffer[:25].reshape(5, 5), "b": normal(rng, (5, 5), dtype)}
    refuse(buffer[shift : shift + 25].reshape(5, 5), ValueError, "expected no memory shared with a", operands)


def test_overlap_by_one_byte(rng, dtype):
    size = dtype.itemsize
    memory = np.zeros(50 * size, np.uint8)
    a = np.ndarray((5, 5), dtype, memory)
    operands = {"a": a, "b": normal(rng, (5, 5), dtype)}
    refuse(np.ndarray((5, 5), dtype, memory, 25 * size - 1), ValueError, "expected no memory shared with a", operands)
    adjacent = np.ndarray((5, 5), dtype, memory, 25 * size)
    a[...] = normal(rng, (5, 5), dtype)
    assert_accurate(transfuse.matmul_t(**operands, out=adjacent), **operands)


def test_elements_that_share_memory(rng, dtype):
    operands = {"a": normal(rng, (4, 6), dtype), "b": normal(rng, (6, 5), dtype)}
    buffer = np.zeros(100, dtype)
    size = dtype.itemsize
    for strides in [(0, size), (size, 0), (size, size), (3 * size, size), (2 * size, -size), (size, 4 * size)]:
        out = np.lib.stride_tricks.as_strided(buffer[40:], (5, 4), strides)
        refuse(out, ValueError, "expected elements that do not share memory with each other", operands)


def test_elements_that_share_bytes(rng, dtype):
    operands = {"a": normal(rng, (4, 6), dtype), "b": normal(rng, (6, 5), dtype)}
    size = dtype.itemsize
    out = np.ndarray((5, 4), dtype, np.zeros(1000, np.uint8), 0, (8 * size, size - 1))
    refuse(out, ValueError, "expected elements that do not share memory with each other", operands)


def test_interleaved_strides_without_overlap(rng, dtype):
    # Strides that look as if they overlapped: 3 columns of stride 2 beside 2 rows of stride 1.
    operands = {"a": integers(rng, (3, 6), dtype), "b": integers(rng, (6, 2), dtype)}
    size = dtype.itemsize
    out = np.lib.stride_tricks.as_strided(np.zeros(6, dtype), (2, 3), (size, 2 * size))
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, out=out), product(**operands))


def test_a_stride_of_zero_along_one_element(rng, dtype):
    a, b = integers(rng, (1, 6), dtype), integers(rng, (6, 5), dtype)
    out = np.lib.stride_tricks.as_strided(np.zeros(5, dtype), (5, 1), (dtype.itemsize, 0))
    np.testing.assert_array_equal(transfuse.matmul_t(a, b, out=out), product(a, b))


def test_disjoint_slices_of_one_packed_buffer(rng, dtype):
    # Query, key and result, interleaved in every row.
    packed = integers(rng, (2, 8, 3, 8), dtype)
    before = packed.copy()
    a, b, out = packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
    transfuse.matmul_t(a, b, out=out)
    np.testing.assert_array_equal(out, product(before[:, :, 0], before[:, :, 1]))
    np.testing.assert_array_equal(packed[:, :, :2], before[:, :, :2])


def test_every_second_element(rng, dtype):
    buffer = integers(rng, (7, 14), dtype)
    a, out = buffer[:, ::2], buffer[:, 1::2]
    b = integers(rng, (7, 7), dtype)
    expected = product(a.copy(), b)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b, out=out), expected)


def test_columns_beside_columns(rng, dtype):
    buffer = integers(rng, (6, 20), dtype)
    a, b, out = buffer[:, :6], buffer[:, 6:12], buffer[:, 13:19]
    bias = buffer[:, 12]
    expected = product(a.copy(), b.copy(), bias.copy())
    np.testing.assert_array_equal(transfuse.matmul_t(a, b, bias=bias, out=out), expected)


def test_empty_out_shares_nothing(dtype):
    buffer = np.zeros((4, 4), dtype)
    out = buffer[:0]
    assert transfuse.matmul_t(buffer, np.zeros((4, 0), dtype), out=out) is out


def random_view(rng, memory, shape, dtype):
    """A view of the shape, with strides that are mostly awkward, somewhere in the middle of `memory` (bytes)."""
    unit = int(rng.choice([dtype.itemsize, 3]))
    strides = [int(step) * unit for step in rng.integers(-9, 10, len(shape))]
    lowest = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if stride < 0)
    return np.ndarray(shape, dtype, memory, int(rng.integers(300, 500)) - lowest, strides)


def bytes_of(view, memory):
    """The place in `memory` of every byte of every element."""
    start = view.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
    places = np.array(start)
    for size, stride in zip((*view.shape, view.itemsize), (*view.strides, 1), strict=True):
        places = np.add.outer(places, np.arange(size) * stride)
    return places.ravel()


def test_overlap_is_decided_exactly(rng, dtype):
    verdicts = {"itself": 0, "a": 0, "disjoint": 0}
    for _ in range(1500):
        memory = np.zeros(1500, np.uint8)
        m, k, n = rng.integers(1, 4, 3)
        a, out = random_view(rng, memory, (m, k), dtype), random_view(rng, memory, (n, m), dtype)
        b = integers(rng, (k, n), dtype)
        places = bytes_of(out, memory)
        if np.unique(places).size < places.size:
            verdict, message = "itself", "expected elements that do not share memory with each other"
        elif np.intersect1d(places, bytes_of(a, memory)).size:
            verdict, message = "a", "expected no memory shared with a"
        else:
            verdict, message = "disjoint", None
        verdicts[verdict] += 1
        if message:
            refuse(out, ValueError, message, {"a": a, "b": b})
        else:
            a[...] = 2
            np.testing.assert_array_equal(transfuse.matmul_t(a, b, out=out), product(a, b))
    assert min(verdicts.values()) > 100, verdicts


@pytest.mark.parametrize("fault", ["bias", "activation", "num_threads", "config", "b"])
def test_another_fault_leaves_out_alone(operands, dtype, fault):
    placed = Placed((5, 4), dtype, "padded")
    wrong = {
        "bias": np.ones(4, dtype),
        "activation": "step",
        "num_threads": 0,
        "config": {"block": 1},
        "b": np.ones((5, 5), dtype),
    }
    with Unchanged(placed.memory), pytest.raises(ValueError, match=fault):
        transfuse.matmul_t(**(operands | {fault: wrong[fault]}), out=placed.array)
