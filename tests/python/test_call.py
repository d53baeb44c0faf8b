"""How the operations may be called: its signature, as Python's own functions have one."""

import inspect
import itertools

import numpy as np
import pytest

import transfuse

A = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
B = np.array([[1, 0, 2], [0, 1, -3]], np.float32)
RESULT = (A @ B).T


def test_signature():
    signature = "(a, b, *, out=None, bias=None, activation=None, num_threads=None, config=None)"
    assert str(inspect.signature(transfuse.matmul_t)) == signature
    assert transfuse.matmul_t.__name__ == "matmul_t"
    assert "(A·B)ᵀ" in inspect.getdoc(transfuse.matmul_t)


def test_positional_and_by_name():
    for result in [
        transfuse.matmul_t(A, B),
        transfuse.matmul_t(A, b=B),
        transfuse.matmul_t(a=A, b=B),
        transfuse.matmul_t(b=B, a=A),
        transfuse.matmul_t(*[A, B]),
        transfuse.matmul_t(**{"a": A, "b": B}),
    ]:
        np.testing.assert_array_equal(result, RESULT)


def test_keywords_in_any_order():
    bias = np.array([-20, 0, 1], np.float32)
    expected = np.maximum(RESULT + bias[:, np.newaxis], 0)
    options = {"out": np.empty((3, 3), np.float32), "bias": bias, "activation": "relu", "num_threads": 1, "config": {}}
    for names in itertools.permutations(options):
        result = transfuse.matmul_t(A, B, **{name: options[name] for name in names})
        assert result is options["out"]
        np.testing.assert_array_equal(result, expected)
        result[...] = np.nan


def test_keywords_built_at_run_time():
    # Not the interned strings that the parser compares first.
    names = ["".join(list(name)) for name in ("activation", "bias", "b")]
    values = ["relu", np.zeros(3, np.float32), B]
    np.testing.assert_array_equal(transfuse.matmul_t(A, **dict(zip(names, values, strict=True))), np.maximum(RESULT, 0))


def test_keywords_of_a_subclass_of_str():
    class Name(str):
        pass

    np.testing.assert_array_equal(transfuse.matmul_t(A, **{Name("b"): B}), RESULT)


def test_none_means_the_default():
    result = transfuse.matmul_t(A, B, out=None, bias=None, activation=None, num_threads=None, config=None)
    np.testing.assert_array_equal(result, RESULT)


@pytest.mark.parametrize(
    ("positional", "keywords", "message"),
    [
        ((), {}, r"missing required argument 'a'"),
        ((A,), {}, r"missing required argument 'b'"),
        ((), {"b": B}, r"missing required argument 'a'"),
        ((A, B, None), {}, r"takes 2 positional arguments but 3 were given"),
        ((A, B, None, None), {"config": None}, r"takes 2 positional arguments but 4 were given"),
        ((A, B), {"a": A}, r"got multiple values for argument 'a'"),
        ((A, B), {"b": B}, r"got multiple values for argument 'b'"),
        ((A, B), {"activations": None}, r"got an unexpected keyword argument 'activations'"),
        ((A, B), {"": None}, r"got an unexpected keyword argument ''"),
        ((A, B), {"Out": None}, r"got an unexpected keyword argument 'Out'"),
        ((A, B), {"größe": None}, r"got an unexpected keyword argument 'größe'"),
        ((A, B), {"out\0": None}, r"got an unexpected keyword argument 'out\x00'"),
    ],
)
def test_wrong_arguments(positional, keywords, message):
    with pytest.raises(TypeError, match=r"^matmul_t\(\) " + message):
        transfuse.matmul_t(*positional, **keywords)


def test_a_keyword_twice():
    with pytest.raises(TypeError, match="multiple values"):
        transfuse.matmul_t(A, B, out=None, **{"out": None})


def test_signature_of_attention():
    signature = (
        "(q, k=None, v=None, *, cache=None, mask=None, bias=None, causal=False, query_offset=None, scale=None, "
        "window=None, softcap=None, alibi_slopes=None, sinks=None, kv_lengths=None, layout='bhsd', out=None, "
        "return_lse=False, num_threads=None, config=None)"
    )
    assert str(inspect.signature(transfuse.attention)) == signature
    parameters = inspect.signature(transfuse.attention).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    v = A.copy()
    expected = transfuse.attention(A, A, A)
    for result in (
        transfuse.attention(v=v, q=A, k=A),
        transfuse.attention(A, A, v, **defaults),
        transfuse.attention(A, k=A, v=v, **dict(reversed(defaults.items()))),
    ):
        np.testing.assert_array_equal(result, expected)
