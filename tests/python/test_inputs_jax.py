"""JAX arrays as inputs."""

import numpy as np
import pytest
from oracle import assert_accurate, integers, normal, product

import transfuse

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture
def b(rng):
    return integers(rng, (4, 5), np.float32)


def test_all_operands(rng):
    a, b, bias = normal(rng, (2, 3, 4), np.float32), normal(rng, (4, 5), np.float32), normal(rng, 5, np.float32)
    result = transfuse.matmul_t(jnp.asarray(a), jnp.asarray(b), bias=jnp.asarray(bias), activation="gelu")
    assert_accurate(result, a, b, bias, "gelu")


def test_float64(rng):
    with jax.enable_x64(True):
        a = jnp.asarray(normal(rng, (3, 4), np.float64))
        assert a.dtype == np.float64
    b = normal(rng, (4, 5), np.float64)
    assert_accurate(transfuse.matmul_t(a, b), np.asarray(a), b)


def test_results_of_jax_computations(rng, b):
    a = jnp.asarray(integers(rng, (4, 3), np.float32))
    np.testing.assert_array_equal(transfuse.matmul_t(a.T, b), product(np.asarray(a).T, b))
    np.testing.assert_array_equal(transfuse.matmul_t((a * 2).T[:, :], b), product(2 * np.asarray(a).T, b))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=str)
def test_empty(shape):
    result = transfuse.matmul_t(jnp.zeros(shape), np.ones((shape[1], 5), np.float32))
    np.testing.assert_array_equal(result, np.zeros((5, shape[0])))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "int32", "bool", "complex64", "uint8"])
def test_dtypes(b, name):
    with pytest.raises(TypeError, match=f"^matmul_t: a: .*{name}"):
        transfuse.matmul_t(jnp.zeros((3, 4), name), b)


@pytest.mark.parametrize("transformation", ["jit", "grad", "vmap"])
def test_inside_a_transformation(b, transformation):
    function = getattr(jax, transformation)(lambda a: transfuse.matmul_t(a, b))
    with pytest.raises(TypeError, match=r"^matmul_t: a: expected an array .*, got jax\..*Tracer"):
        function(jnp.ones((2, 3, 4)))


def test_deleted_arrays(b):
    a = jnp.ones((3, 4))
    a.delete()
    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        transfuse.matmul_t(a, b)
