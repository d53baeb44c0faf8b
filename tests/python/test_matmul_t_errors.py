"""Bad input: the error names the argument, and nothing is written."""

import fractions
import types

import numpy as np
import pytest
from layouts import Unchanged

import transfuse


@pytest.fixture
def arguments(dtype):
    """A good call, to be spoilt."""
    return {"a": np.ones((3, 4), dtype), "b": np.ones((4, 5), dtype), "bias": np.ones(5, dtype)}


def refuse(error, message, arguments, **changes):
    arguments = arguments | changes
    out = np.full((5, 3), 7, np.float32)
    with Unchanged(out, *arguments.values()), pytest.raises(error, match=f"^matmul_t: {message}"):
        transfuse.matmul_t(**arguments, out=out)
    if changes.keys() <= {"a", "b"}:  # the call that takes the quick way, if nothing is wrong
        with Unchanged(out, *arguments.values()), pytest.raises(error, match=f"^matmul_t: {message}"):
            transfuse.matmul_t(arguments["a"], arguments["b"], out=out)
        with pytest.raises(error, match=f"^matmul_t: {message}"):
            transfuse.matmul_t(arguments["a"], arguments["b"])


@pytest.mark.parametrize("argument", ["a", "b"])
@pytest.mark.parametrize("shape", [(), (4,), (0,)], ids=str)
def test_rank_below_two(arguments, dtype, argument, shape):
    refuse(ValueError, f"{argument}: expected at least 2 dim", arguments, **{argument: np.ones(shape, dtype)})


@pytest.mark.parametrize("shape", [(3, 5), (5, 4), (4, 3, 1), (3, 0)], ids=str)
def test_inner_dimensions_differ(arguments, dtype, shape):
    refuse(ValueError, r"a and b: expected .* same K, got shapes", arguments, b=np.ones(shape, dtype))


def test_batch_dimensions_do_not_broadcast(arguments, dtype):
    operands = {"a": np.ones((2, 3, 4), dtype), "b": np.ones((3, 4, 5), dtype)}
    message = r"a and b: batch dimensions do not broadcast, got shapes \(2, 3, 4\) and \(3, 4, 5\)"
    refuse(ValueError, message, arguments, **operands)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (6,), (0,), (1, 5), (5, 1)], ids=str)
def test_bias_of_another_shape(arguments, dtype, shape):
    refuse(ValueError, r"bias: expected shape \(5,\)", arguments, bias=np.ones(shape, dtype))


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
@pytest.mark.parametrize(
    "wrong",
    ["?", "i1", "i4", "i8", "u8", "f2", "g", "c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V4", ">f4", ">f8"],
)
def test_dtypes(arguments, argument, wrong):
    array = np.zeros(arguments[argument].shape, wrong)
    refuse(TypeError, f"{argument}: expected dtype float32 or float64, got ", arguments, **{argument: array})


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_dtypes_of_ml_dtypes(arguments, argument, name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.zeros(arguments[argument].shape, getattr(ml_dtypes, name))
    refuse(TypeError, f"{argument}: expected dtype float32 or float64, got {name}", arguments, **{argument: array})


def test_structured_dtype(arguments):
    array = np.zeros((3, 4), [("x", "f4")])
    refuse(TypeError, "a: expected dtype float32 or float64, got ", arguments, a=array)


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
def test_mixed_dtypes(arguments, dtype, argument):
    other = np.float64 if dtype == np.float32 else np.float32
    named = "b" if argument == "a" else argument
    wrong = {argument: arguments[argument].astype(other)}
    refuse(TypeError, f"{named}: expected the dtype of a, float(32|64), got float(32|64)", arguments, **wrong)


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
@pytest.mark.parametrize(
    "value",
    [
        [[1.0, 2.0]],
        ((1.0,),),
        1,
        1.5,
        "array",
        b"array",
        {},
        object(),
        int,
        np.ndarray,
        np,
        memoryview(b"12345678"),
        types.SimpleNamespace(shape=(2, 2), dtype=np.float32),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else f"class {value.__name__}",
)
def test_no_array(arguments, argument, value):
    refuse(TypeError, f"{argument}: expected an array .*, got ", arguments, **{argument: value})


@pytest.mark.parametrize("argument", ["a", "b"])
def test_none(arguments, argument):
    refuse(TypeError, f"{argument}: expected an array .*, got NoneType", arguments, **{argument: None})


def test_a_class_whose_instances_would_do(arguments):
    class Array:
        requires_grad = property()
        __array_interface__ = property()

        def __dlpack__(self, **options): ...
        def __dlpack_device__(self): ...

    refuse(TypeError, "a: expected an array .*, got type", arguments, a=Array)


def test_array_scalars_have_no_dimensions(arguments, dtype):
    refuse(ValueError, r"a: expected at least 2 dimensions, got shape \(\)", arguments, a=dtype.type(1))


@pytest.mark.parametrize("value", [0, -1, np.int64(0), False, -(10**30)])
def test_num_threads_out_of_range(arguments, value):
    refuse(ValueError, "num_threads: expected at least 1, got ", arguments, num_threads=value)


@pytest.mark.parametrize("value", [1.0, 1.5, "2", b"2", [1], fractions.Fraction(2), np.float64(2)])
def test_num_threads_of_another_type(arguments, value):
    refuse(TypeError, "num_threads: expected an int, got ", arguments, num_threads=value)


@pytest.mark.parametrize("value", [1, np.int8(2), True, 10**5, 2**31, 2**63, 10**30])
def test_num_threads_may_be_any_positive_integer(arguments, value):
    np.testing.assert_array_equal(transfuse.matmul_t(**arguments, num_threads=value), np.full((5, 3), 5))


def test_errors_of_index_pass_through(arguments):
    class Broken:
        def __index__(self):
            raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        transfuse.matmul_t(**arguments, num_threads=Broken())


@pytest.mark.parametrize("value", ["", "RELU", "relu ", "tanh", "none", "relu\0", "gelu\0tanh"])
def test_unknown_activation(arguments, value):
    message = "activation: expected one of None, 'relu', 'gelu', 'gelu_tanh', 'silu', got "
    refuse(ValueError, message, arguments, activation=value)


def test_activation_that_is_no_text(arguments):
    with pytest.raises(ValueError, match="surrogates"):
        transfuse.matmul_t(**arguments, activation="\ud800")


@pytest.mark.parametrize("value", [1, b"relu", ["relu"], np.maximum, False])
def test_activation_of_another_type(arguments, value):
    refuse(TypeError, "activation: expected a str, got ", arguments, activation=value)


def test_a_subclass_of_str_will_do(arguments):
    class Name(str):
        pass

    assert transfuse.matmul_t(**arguments, activation=Name("relu")).shape == (5, 3)


def test_messages_show_what_was_got(dtype):
    with pytest.raises(ValueError, match=r"got shapes \(2, 3, 4\) and \(5, 6\)"):
        transfuse.matmul_t(np.ones((2, 3, 4), dtype), np.ones((5, 6), dtype))
    with pytest.raises(TypeError, match="got list"):
        transfuse.matmul_t([1], np.ones((5, 6), dtype))
    with pytest.raises(TypeError, match=r"got .*\.Strange$"):
        transfuse.matmul_t(Strange(), np.ones((5, 6), dtype))


class Strange:
    """No array."""
