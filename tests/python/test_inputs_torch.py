"""PyTorch tensors as inputs: read in place, or refused with the reason."""

import warnings

import numpy as np
import pytest
from oracle import assert_accurate, integers, normal, product
from processes import run_python

import transfuse

torch = pytest.importorskip("torch")


@pytest.fixture
def b(rng, dtype):
    return integers(rng, (4, 5), dtype)


def refuse(tensor, message, argument="a"):
    arguments = {"a": np.ones((4, 4), np.float32), "b": np.ones((4, 4), np.float32), "bias": np.ones(4, np.float32)}
    with pytest.raises(TypeError, match=f"^matmul_t: {argument}: {message}"):
        transfuse.matmul_t(**(arguments | {argument: tensor}))


def test_all_operands(rng, dtype):
    a, b, bias = normal(rng, (2, 3, 4), dtype), normal(rng, (4, 5), dtype), normal(rng, 5, dtype)
    result = transfuse.matmul_t(torch.from_numpy(a), torch.from_numpy(b), bias=torch.from_numpy(bias))
    assert_accurate(result, a, b, bias)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:3, :4],
        lambda t: t.T[2:5, 1:5],
        lambda t: t[::3, ::3],
        lambda t: t[2].expand(3, 12)[:, :4],
        lambda t: t.as_strided((3, 4), (1, 1), 5),
        lambda t: t.view(2, 5, 3, 4).permute(0, 2, 1, 3)[1, :, 2],
    ],
    ids=["contiguous", "transposed", "step", "expanded", "overlapping", "heads"],
)
def test_strides(rng, dtype, b, view):
    tensor = view(torch.from_numpy(integers(rng, (10, 12), dtype)))
    np.testing.assert_array_equal(transfuse.matmul_t(tensor, b), product(tensor.numpy(), b))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 4)], ids=str)
def test_empty(dtype, shape):
    result = transfuse.matmul_t(torch.zeros(shape, dtype=getattr(torch, dtype.name)), np.ones((shape[-1], 5), dtype))
    np.testing.assert_array_equal(result, np.zeros((*shape[:-2], 5, shape[-2]), dtype))


def test_memory_is_read_at_each_call(rng, dtype, b):
    tensor = torch.from_numpy(integers(rng, (3, 4), dtype))
    transfuse.matmul_t(tensor, b)
    tensor += 1
    np.testing.assert_array_equal(transfuse.matmul_t(tensor, b), product(tensor.numpy(), b))


def test_expanded_tensors_are_not_copied(dtype):
    rows = torch.ones(1, 1, dtype=getattr(torch, dtype.name)).expand(1 << 40, 1)
    assert transfuse.matmul_t(rows, np.ones((1, 0), dtype)).shape == (0, 1 << 40)


@pytest.mark.parametrize(
    "make", ["import torch; a = torch.ones(1, 1 << 24)", "import jax.numpy as jnp; a = jnp.ones((1, 1 << 24))"]
)
def test_contiguous_arrays_are_not_copied(make):
    pytest.importorskip("jax")
    program = f"""
        import resource
        import numpy as np, transfuse
        {make}
        b = np.broadcast_to(np.float32(1), (1 << 24, 1))
        transfuse.matmul_t(a[:, :8], b[:8])
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (24 << 20), resource.RLIM_INFINITY))
        assert transfuse.matmul_t(a, b, num_threads=1)[0, 0] == 1 << 24
        try:
            np.array(np.broadcast_to(b, (1 << 24, 1)))
        except MemoryError:
            print("no room for a copy")
    """
    assert run_python(program).stdout == "no room for a copy\n"


def test_tensors_stay_alive_no_longer_than_the_call(rng, dtype, b):
    import weakref

    tensor = torch.from_numpy(integers(rng, (3, 4), dtype))
    gone = weakref.ref(tensor)
    transfuse.matmul_t(tensor, b)
    del tensor
    assert gone() is None


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_a_tensor_that_requires_grad(argument):
    shape = (4,) if argument == "bias" else (4, 4)
    message = r".*requires grad.*transfuse\.torch.*\.detach\(\)"
    refuse(torch.ones(shape, requires_grad=True), message, argument)
    refuse(torch.nn.Parameter(torch.ones(shape)), message, argument)
    refuse(torch.ones(shape, requires_grad=True) * 2, message, argument)
    with torch.no_grad():
        refuse(torch.ones(shape, requires_grad=True), message, argument)


def test_a_detached_tensor(rng, dtype, b):
    tensor = torch.from_numpy(integers(rng, (3, 4), dtype)).requires_grad_()
    np.testing.assert_array_equal(transfuse.matmul_t(tensor.detach(), b), product(tensor.detach().numpy(), b))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "int32", "int64", "bool", "complex64", "float8_e4m3fn"])
@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_dtypes(argument, name):
    shape = (4,) if argument == "bias" else (4, 4)
    refuse(torch.zeros(shape, dtype=getattr(torch, name)), f".*{name}", argument)


def test_mixed_dtypes():
    refuse(torch.ones(4, 4, dtype=torch.float64), "expected the dtype of a, float32, got float64", "b")


def test_meta_tensors():
    refuse(torch.empty(4, 4, device="meta"), ".*meta")


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors(layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "in beta state"
        tensor = getattr(torch.eye(4), layout)()
    refuse(tensor, ".*strided")


def test_lazily_conjugated_tensors():
    # A complex tensor has the wrong dtype anyway, but the real view of its conjugate is float with a negative bit.
    z = torch.complex(torch.ones(4, 4), torch.ones(4, 4))
    refuse(z.conj(), "")
    assert z.conj().imag.is_neg()
    refuse(z.conj().imag, r".*resolve_neg\(\)")
    np.testing.assert_array_equal(
        transfuse.matmul_t(z.conj().imag.resolve_neg(), np.eye(4, dtype="f4")), -np.ones((4, 4))
    )


def test_fake_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        tensor = torch.ones(4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "accessing the data pointer is deprecated"
        refuse(tensor, "")


def test_inside_vmap_and_grad():
    b = np.ones((4, 4), np.float32)
    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        torch.func.vmap(lambda x: torch.from_numpy(transfuse.matmul_t(x, b)))(torch.ones(2, 4, 4))
    with pytest.raises(TypeError, match=r"^matmul_t: a: "):
        torch.func.grad(lambda x: transfuse.matmul_t(x, b).sum())(torch.ones(4, 4))


def test_the_class_itself():
    refuse(torch.Tensor, "expected an array .*, got ")


def test_out_must_be_an_ndarray(dtype):
    a = np.ones((4, 4), dtype)
    out = torch.zeros(4, 4, dtype=getattr(torch, dtype.name))
    with pytest.raises(TypeError, match=r"^matmul_t: out: expected numpy\.ndarray, got torch\.Tensor"):
        transfuse.matmul_t(a, a, out=out)
    assert transfuse.matmul_t(a, a, out=out.numpy()).base is not None
    np.testing.assert_array_equal(out.numpy(), np.full((4, 4), 4))


def test_out_in_the_memory_of_a_tensor(rng, dtype):
    tensor = torch.from_numpy(integers(rng, (4, 4), dtype))
    before = tensor.clone()
    with pytest.raises(ValueError, match="out: expected no memory shared with a"):
        transfuse.matmul_t(tensor, np.ones((4, 4), dtype), out=tensor.numpy())
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16", "int8"])
def test_dtype_of_a_cache(name):
    assert transfuse.KVCache(1, 1, 1, 1, dtype=getattr(torch, name)).dtype == name


def test_dtype_that_a_cache_has_not():
    with pytest.raises(ValueError, match=r"^dtype: expected one of .*, got 'complex64'"):
        transfuse.KVCache(1, 1, 1, 1, dtype=torch.complex64)
