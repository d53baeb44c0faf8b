"""Inputs of attention that are not NumPy's: read in place through DLPack or __array_interface__, or refused."""

import itertools

import numpy as np
import pytest
from attention_oracle import assert_accurate
from oracle import normal
from producers import DLPackProducer, InterfaceProducer

import transfuse

torch = pytest.importorskip("torch")

BOOL = {"code": 6, "bits": 8}  # of DLPack


@pytest.fixture
def call(rng, dtype):
    """A call with every array that there can be."""
    return {
        "q": normal(rng, (2, 4, 9, 8), dtype),
        "k": normal(rng, (2, 2, 13, 8), dtype),
        "v": normal(rng, (2, 2, 13, 6), dtype),
        "mask": rng.random((2, 1, 9, 13)) < 0.7,
        "bias": normal(rng, (4, 1, 13), dtype),
        "alibi_slopes": normal(rng, 4, dtype),
        "sinks": normal(rng, 4, dtype),
        "kv_lengths": np.array([13, 7]),
        "query_offset": np.array([4, 0]),
    }


def test_tensors(call):
    result = transfuse.attention(**{name: torch.from_numpy(array) for name, array in call.items()})
    assert_accurate(result, **call)


def test_jax_arrays(call):
    jnp = pytest.importorskip("jax.numpy")
    call = {name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in call.items()}
    assert_accurate(transfuse.attention(**{name: jnp.asarray(x) for name, x in call.items()}), **call)


def test_protocols(call):
    expected = transfuse.attention(**call)
    arrays = {name: array for name, array in call.items() if name not in ("kv_lengths", "query_offset")}
    for producer in (InterfaceProducer, DLPackProducer):
        for name, array in arrays.items():
            fields = BOOL if name == "mask" and producer is DLPackProducer else {}
            np.testing.assert_array_equal(
                transfuse.attention(**(call | {name: producer(array, **fields)})), expected, name
            )


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:9, :13],
        lambda t: t.T[1:10, 5:18],
        lambda t: t[::2, 1::2][:9, :13],
        lambda t: t[:1, :13].expand(9, 13),
        lambda t: t[:9, :1].expand(4, 9, 13),
        lambda t: t.as_strided((2, 1, 9, 13), (3, 0, 2, 5), 7),
    ],
    ids=["slice", "transposed", "step", "row", "column", "overlapping"],
)
@pytest.mark.parametrize("kind", ["mask", "bias"])
def test_strided_masks_and_biases(rng, call, view, kind):
    tensor = torch.from_numpy(rng.random((26, 26)) < 0.6 if kind == "mask" else normal(rng, (26, 26), call["q"].dtype))
    options = {name: call[name] for name in ("q", "k", "v")}
    assert_accurate(transfuse.attention(**options, **{kind: view(tensor)}), **options, **{kind: view(tensor).numpy()})


def test_strided_tensors(call):
    # (batch, sequence, 3, heads, depth), as a projection leaves them.
    packed = torch.randn(2, 9, 3, 4, 8, dtype=getattr(torch, call["q"].dtype.name))
    q, k, v = (packed[:, :, i] for i in range(3))
    result = transfuse.attention(q, k, v, layout="bshd", causal=True)
    assert_accurate(result, q.numpy(), k.numpy(), v.numpy(), layout="bshd", causal=True)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    np.testing.assert_array_equal(transfuse.attention(q, k, v, causal=True).swapaxes(1, 2), result)


def test_expanded_tensors_are_not_copied():
    q, key = torch.ones(0, 1), torch.ones(1, 1).expand(1 << 36, 1)
    mask = torch.ones(1, 1, dtype=torch.bool).expand(0, 1 << 36)
    assert transfuse.attention(q, key, key, mask=mask, bias=torch.ones(1, 1).expand(0, 1 << 36)).shape == (0, 1)


@pytest.mark.parametrize("argument", ["q", "k", "v", "mask", "bias", "alibi_slopes", "sinks"])
def test_refused_tensors(call, argument):
    def refuse(value, message):
        with pytest.raises(TypeError, match=f"^attention: {argument}: {message}"):
            transfuse.attention(**(call | {argument: value}))

    tensor = torch.from_numpy(call[argument])
    refuse(tensor.to("meta"), ".*meta")
    if argument == "mask":
        refuse(tensor.to(torch.uint8), r"expected dtype bool, got torch\.uint8")
        refuse(tensor.to(torch.float32), r"expected dtype bool, got torch\.float32")
        return
    for wrong in (torch.bool, torch.int8, torch.complex64):
        refuse(tensor.to(wrong), rf"expected dtype float32, float64, float16 or bfloat16, got {wrong}")
    if argument != "q":  # where it is, the others are of the wrong dtype
        refuse(tensor.to(torch.float16), f"expected the dtype of q, {call['q'].dtype.name}.* got float16")
    refuse(tensor.requires_grad_(), r"got a tensor that requires grad; .*\.detach\(\)")


def test_tensors_of_lengths(call):
    for argument, wrong in itertools.product(("kv_lengths", "query_offset"), (torch.float32, torch.bool)):
        with pytest.raises(TypeError, match=f"^attention: {argument}: expected integers, got "):
            transfuse.attention(**(call | {argument: torch.ones(2, dtype=wrong)}))
