"""matmul_t on random shapes, layouts, dtypes and options."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Placed, place
from oracle import ACTIVATIONS, assert_accurate, integers, normal, product

import transfuse

SETTINGS = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

dtypes = st.sampled_from([np.float32, np.float64])
sizes = st.one_of(st.integers(0, 5), st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 129, 200]))
layouts = st.sampled_from(LAYOUTS)
activations = st.sampled_from(ACTIVATIONS)
seeds = st.integers(0, 2**32 - 1)
threads = st.sampled_from([None, 1, 2, 3, 8])
blocks = st.one_of(st.integers(1, 5), st.integers(1, 300))
configs = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "block_m": blocks,
        "block_n": blocks,
        "block_k": blocks,
        "threads": st.integers(1, 4),
        "isa": st.sampled_from(transfuse.info()["isa"]["available"]),
    },
)


@st.composite
def batches(draw):
    """Two batch shapes that broadcast, of rank 0 to 3."""
    result = draw(st.lists(st.integers(0, 3), max_size=3))
    shapes = []
    for _ in range(2):
        kept = result[draw(st.integers(0, len(result))) :]
        shapes.append(tuple(1 if draw(st.booleans()) else size for size in kept))
    return shapes


@st.composite
def operands(draw, values):
    """a, b and bias or None, in any layout, perhaps with a stride of zero."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    m, k, n = draw(sizes), draw(sizes), draw(sizes)
    batch_a, batch_b = draw(batches())
    arrays = []
    for shape in ((*batch_a, m, k), (*batch_b, k, n), (n,)):
        array = place(values(rng, shape, dtype), draw(layouts))
        axis = draw(st.integers(-2 * len(shape), len(shape) - 1))
        if axis >= 0 and shape[axis] > 0:  # half of the time
            array = np.broadcast_to(array.take([0], axis), shape)
        arrays.append(array)
    a, b, bias = arrays
    return a, b, draw(st.sampled_from([bias, None]))


@SETTINGS
@given(operands(normal), activations, threads, configs)
def test_accurate(abc, activation, num_threads, config):
    a, b, bias = abc
    result = transfuse.matmul_t(a, b, bias=bias, activation=activation, num_threads=num_threads, config=config)
    assert result.flags.c_contiguous
    assert_accurate(result, a, b, bias, activation)


@SETTINGS
@given(operands(integers), layouts, threads, configs)
def test_exact_in_any_out(abc, layout, num_threads, config):
    a, b, bias = abc
    expected = product(a, b, bias)
    placed = Placed(expected.shape, a.dtype, layout)
    out = placed.array
    assert transfuse.matmul_t(a, b, bias=bias, out=out, num_threads=num_threads, config=config) is out
    np.testing.assert_array_equal(out, expected)
    assert placed.only_elements_written()


@SETTINGS
@given(operands(normal), activations, layouts, configs)
def test_the_same_bits_whatever_the_threads_and_the_call(abc, activation, layout, config):
    a, b, bias = abc
    options = {"bias": bias, "activation": activation, "config": config}
    one = transfuse.matmul_t(a, b, num_threads=1, **options)
    for num_threads in (2, 5):
        assert transfuse.matmul_t(a, b, num_threads=num_threads, **options).tobytes() == one.tobytes()
    out = Placed(one.shape, one.dtype, layout).array
    assert transfuse.matmul_t(a, b, num_threads=3, out=out, **options).tobytes() == one.tobytes()


@SETTINGS
@given(
    st.lists(st.integers(0, 3), max_size=4), st.lists(st.integers(0, 3), max_size=4), dtypes, seeds
)  # fmt: skip
def test_accepts_the_shapes_that_numpy_accepts(shape_a, shape_b, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = integers(rng, shape_a, dtype), integers(rng, shape_b, dtype)
    try:
        expected = product(a, b) if min(a.ndim, b.ndim) >= 2 else None
    except ValueError:
        expected = None
    try:
        result = transfuse.matmul_t(a, b)
    except ValueError:
        assert expected is None
    else:
        np.testing.assert_array_equal(result, expected, strict=True)
