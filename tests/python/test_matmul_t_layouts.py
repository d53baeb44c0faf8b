"""Every operand may have any strides."""

import numpy as np
import pytest
from layouts import LAYOUTS, Placed, Unchanged, place
from oracle import assert_accurate, integers, normal, product

import transfuse

SIZES = [(1, 1, 1), (5, 7, 3), (33, 40, 50), (130, 70, 90)]


@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_a", LAYOUTS)
def test_inputs(rng, dtype, layout_a, layout_b):
    for m, k, n in SIZES[1:3]:
        a = place(integers(rng, (2, 3, m, k), dtype), layout_a)
        b = place(integers(rng, (2, 3, k, n), dtype), layout_b)
        with Unchanged(a, b):
            np.testing.assert_array_equal(transfuse.matmul_t(a, b), product(a, b))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operand", ["a", "b"])
def test_large_inputs(rng, dtype, operand, layout):
    # Large enough for packing, several blocks and several threads.
    operands = {"a": normal(rng, (161, 300), dtype), "b": normal(rng, (300, 190), dtype)}
    operands[operand] = place(operands[operand], layout)
    assert_accurate(transfuse.matmul_t(**operands), **operands)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_out(rng, dtype, layout, batch):
    for m, k, n in SIZES:
        a, b = integers(rng, (*batch, m, k), dtype), integers(rng, (*batch, k, n), dtype)
        bias = integers(rng, n, dtype)
        placed = Placed((*batch, n, m), dtype, layout)
        assert transfuse.matmul_t(a, b, bias=bias, out=placed.array) is placed.array
        np.testing.assert_array_equal(placed.array, product(a, b, bias))
        assert placed.only_elements_written()


@pytest.mark.parametrize("layout", ["c", "padded", "step", "negative", "misaligned", "record"])
@pytest.mark.parametrize("transposed_out", [False, True])
def test_bias(rng, dtype, layout, transposed_out):
    for m, k, n in SIZES:
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        bias = place(integers(rng, n, dtype), layout)
        out = np.empty((m, n), dtype).T if transposed_out else np.empty((n, m), dtype)
        np.testing.assert_array_equal(transfuse.matmul_t(a, b, bias=bias, out=out), product(a, b, bias))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("operand", ["a", "b"])
def test_zero_strides(rng, dtype, operand, axis):
    operands = {"a": normal(rng, (3, 40, 50), dtype), "b": normal(rng, (3, 50, 60), dtype)}
    one = operands[operand].take([0], axis=axis)
    operands[operand] = np.broadcast_to(one, operands[operand].shape)
    assert operands[operand].strides[axis] == 0
    assert_accurate(transfuse.matmul_t(**operands), **operands)


def test_one_element_as_both_operands(dtype):
    a = np.broadcast_to(np.array(2, dtype), (70, 40))
    b = np.broadcast_to(np.array(3, dtype), (40, 90))
    bias = np.broadcast_to(np.array(1, dtype), (90,))
    np.testing.assert_array_equal(transfuse.matmul_t(a, b, bias=bias), np.full((90, 70), 241, dtype))


def test_bytes_at_an_odd_address(rng, dtype):
    values = normal(rng, (9, 11), dtype)
    a = np.frombuffer(b"x" + values.tobytes(), dtype, offset=1).reshape(9, 11)
    assert not a.flags.aligned
    b = normal(rng, (11, 6), dtype)
    assert_accurate(transfuse.matmul_t(a, b), a, b)


def test_fields_of_a_structured_array(rng, dtype):
    record = np.dtype([("tag", "u1"), ("x", dtype), ("y", dtype)])
    points = np.zeros((20, 30), record)
    points["x"] = normal(rng, (20, 30), dtype)
    assert points["x"].strides[1] % dtype.itemsize
    b = normal(rng, (30, 10), dtype)
    result = np.zeros((10, 20), record)
    transfuse.matmul_t(points["x"], b, out=result["y"])
    assert_accurate(result["y"], points["x"], b)
    assert not result["x"].any()
    assert not result["tag"].any()


def test_head_slices_of_a_packed_projection(rng, dtype):
    # Query and key heads of one (batch, sequence, 3, heads, head_dim) buffer: scores, transposed.
    packed = normal(rng, (2, 17, 3, 4, 8), dtype)
    q, k = packed[:, :, 0].transpose(0, 2, 1, 3), packed[:, :, 1].transpose(0, 2, 3, 1)
    assert_accurate(transfuse.matmul_t(q, k), q, k)


def test_read_only_inputs(rng, dtype):
    a, b, bias = normal(rng, (5, 6), dtype), normal(rng, (6, 7), dtype), normal(rng, 7, dtype)
    for array in (a, b, bias):
        array.flags.writeable = False
    assert_accurate(transfuse.matmul_t(a, b, bias=bias), a, b, bias)


def test_the_same_array_twice(rng, dtype):
    a = normal(rng, (50, 50), dtype)
    assert_accurate(transfuse.matmul_t(a, a), a, a)
    assert_accurate(transfuse.matmul_t(a, a.T), a, a.T)


def test_memory_mapped_files(rng, dtype, tmp_path):
    a = np.memmap(tmp_path / "a", dtype, "w+", shape=(20, 30))
    a[...] = normal(rng, (20, 30), dtype)
    a.flush()
    read_only = np.memmap(tmp_path / "a", dtype, "r", shape=(20, 30))
    b = normal(rng, (30, 10), dtype)
    out = np.memmap(tmp_path / "out", dtype, "w+", shape=(10, 20))
    assert transfuse.matmul_t(read_only, b, out=out) is out
    assert_accurate(np.asarray(out), a, b)
    assert type(transfuse.matmul_t(a, b)) is np.ndarray


def test_subclasses_are_read_as_arrays(rng, dtype):
    class Named(np.ndarray):
        pass

    values = normal(rng, (3, 4), dtype)
    assert_accurate(transfuse.matmul_t(values.view(Named), values.T.view(Named)), values, values.T)


def test_numpy_matrix_is_two_dimensional(rng, dtype):
    values = normal(rng, (3, 4), dtype)
    assert_accurate(transfuse.matmul_t(values.view(np.matrix), values.T), values, values.T)


@pytest.mark.parametrize("argument", ["a", "b", "bias", "out"])
def test_masked_arrays_are_refused(dtype, argument):
    arguments = {
        "a": np.ones((4, 4), dtype),
        "b": np.ones((4, 4), dtype),
        "bias": np.ones(4, dtype),
        "out": np.ones((4, 4), dtype),
    }
    arguments[argument] = np.ma.masked_array(arguments[argument], mask=False)
    with pytest.raises(TypeError, match=rf"^matmul_t: {argument}: .*mask"):
        transfuse.matmul_t(**arguments)
