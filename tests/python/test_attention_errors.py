"""Bad input to attention: the error names the argument, and nothing is written."""

import re

import numpy as np
import pytest
from layouts import Unchanged
from producers import Raising

import transfuse


@pytest.fixture
def arguments(dtype):
    """A good call, to be spoilt: 2 sequences, 6 heads that share 3, 5 queries, 7 keys."""
    return {"q": np.ones((2, 6, 5, 8), dtype), "k": np.ones((2, 3, 7, 8), dtype), "v": np.ones((2, 3, 7, 4), dtype)}


def refuse(error, message, arguments, **changes):
    arguments = arguments | changes
    dtype = arguments["q"].dtype if isinstance(arguments["q"], np.ndarray) else np.float32
    out = arguments.pop("out", None)
    out = np.full((2, 6, 5, 4), 7, dtype if dtype in (np.float32, np.float64) else np.float32) if out is None else out
    with Unchanged(out, *arguments.values()), pytest.raises(error, match=f"^attention: {message}"):
        transfuse.attention(**arguments, out=out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": (2, 3, 7, 9)}, r"q, k and v: expected q and k of the same depth, got shapes \(2, 6, 5, 8\), "),
        ({"v": (2, 3, 6, 4)}, "q, k and v: expected k and v of the same length, got shapes"),
        (
            {"v": (2, 2, 7, 4)},
            r"q, k and v: expected k and v with the same number of heads \(layout 'bhsd'\), got shapes",
        ),
        ({"q": (2, 7, 5, 8)}, "q, k and v: expected a number of query heads that is a multiple of"),
        ({"k": (2, 0, 7, 8), "v": (2, 0, 7, 4)}, "q, k and v: expected a number of query heads that is a multiple of"),
        ({"k": (3, 3, 7, 8)}, "q, k and v: leading dimensions do not broadcast, got shapes"),
        ({"q": (5, 8)}, "q, k and v: expected either three matrices or three arrays with heads"),
        ({"q": (8,)}, r"q: expected at least 2 dimensions, got shape \(8,\)"),
        ({"v": ()}, r"v: expected at least 2 dimensions, got shape \(\)"),
    ],
)
def test_shapes(arguments, dtype, changes, message):
    refuse(ValueError, message, arguments, **{name: np.ones(shape, dtype) for name, shape in changes.items()})


def test_causal_needs_an_alignment(arguments):
    message = "causal: True needs as many queries as keys, .*'upper_left'.* 'lower_right'.*, got 5 queries and 7 keys"
    refuse(ValueError, message, arguments, causal=True)
    assert transfuse.attention(**arguments, causal=True, query_offset=2).shape == (2, 6, 5, 4)


@pytest.mark.parametrize("causal", ["", "left", "Upper_Left", "upper_left "])
def test_unknown_alignment(arguments, causal):
    refuse(ValueError, "causal: expected False, True, 'upper_left' or 'lower_right', got '", arguments, causal=causal)


@pytest.mark.parametrize("causal", [0, 1, None, b"upper_left", [True]])
def test_causal_of_another_type(arguments, causal):
    refuse(TypeError, "causal: expected a bool, 'upper_left' or 'lower_right', got ", arguments, causal=causal)


@pytest.mark.parametrize("shape", [(8,), (5, 6), (4, 7), (2, 5, 7), (3, 1, 1, 7), (1, 2, 6, 5, 7)], ids=str)
@pytest.mark.parametrize("kind", ["mask", "bias"])
def test_masks_that_do_not_broadcast(arguments, dtype, kind, shape):
    value = np.ones(shape, bool if kind == "mask" else dtype)
    refuse(ValueError, rf"{kind}: expected a shape that broadcasts to \(2, 6, 5, 7\), got ", arguments, **{kind: value})


@pytest.mark.parametrize("wrong", ["u1", "i1", "i8", "f4", "f8", "O", "S1"])
def test_masks_of_another_dtype(arguments, wrong):
    refuse(TypeError, "mask: expected dtype bool, got ", arguments, mask=np.ones((5, 7), wrong))


@pytest.mark.parametrize("wrong", ["?", "i1", "i8", "c8", "O"])
@pytest.mark.parametrize("argument", ["q", "k", "v", "bias", "alibi_slopes", "sinks"])
def test_dtypes(arguments, argument, wrong):
    array = np.ones(arguments[argument].shape if argument in arguments else 6, wrong)
    refuse(
        TypeError,
        f"{argument}: expected dtype float32, float64, float16 or bfloat16, got ",
        arguments,
        **{argument: array},
    )


@pytest.mark.parametrize("argument", ["k", "v"])
def test_mixed_dtypes(arguments, dtype, argument):
    other = np.float64 if dtype == np.float32 else np.float32
    message = f"{argument}: expected the dtype of q, {dtype}, got "
    refuse(TypeError, message, arguments, **{argument: arguments[argument].astype(other)})


@pytest.mark.parametrize("argument", ["bias", "alibi_slopes", "sinks"])
def test_options_wider_than_q(argument):
    arguments = {"q": np.ones((6, 5, 8), "f4"), "k": np.ones((3, 7, 8), "f4"), "v": np.ones((3, 7, 4), "f4")}
    wrong = np.ones((5, 7) if argument == "bias" else 6)
    with pytest.raises(TypeError, match=f"^attention: {argument}: expected the dtype of q, float32, got float64"):
        transfuse.attention(**arguments, **{argument: wrong})


@pytest.mark.parametrize("shape", [(), (1,), (3,), (7,), (6, 1), (1, 6)], ids=str)
@pytest.mark.parametrize("argument", ["alibi_slopes", "sinks"])
def test_options_per_head(arguments, dtype, argument, shape):
    message = rf"{argument}: expected shape \(6,\), one element per query head, got "
    refuse(ValueError, message, arguments, **{argument: np.ones(shape, dtype)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 10**400])
def test_scale_that_is_no_number(arguments, dtype, value):
    refuse(ValueError, f"scale: expected a finite number in {dtype}, got ", arguments, scale=value)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 10**400])
def test_softcap_out_of_range(arguments, dtype, value):
    refuse(ValueError, f"softcap: expected a positive finite number in {dtype}, got ", arguments, softcap=value)


def test_numbers_that_only_float64_holds():
    q, wide = np.ones((5, 8), np.float32), np.ones((5, 8))
    for argument, value in [("scale", -1e39), ("softcap", 1e39), ("softcap", 1e-46)]:
        text = re.escape(f"in float32, got {value:g}")
        with pytest.raises(ValueError, match=f"^attention: {argument}: expected a .* {text}$"):
            transfuse.attention(q, q, q, **{argument: value})
        np.testing.assert_allclose(transfuse.attention(wide, wide, wide, **{argument: value}), 1)


@pytest.mark.parametrize("argument", ["scale", "softcap"])
@pytest.mark.parametrize("value", ["1", True, [1.0], 1j])
def test_numbers_of_another_type(arguments, argument, value):
    refuse(TypeError, f"{argument}: expected a number, got ", arguments, **{argument: value})


@pytest.mark.parametrize("argument", ["scale", "softcap", "kv_lengths", "query_offset"])
def test_exceptions_that_pass(arguments, argument):
    for error in (KeyboardInterrupt, MemoryError, SystemExit):
        with pytest.raises(error):
            transfuse.attention(**arguments, **{argument: Raising(error)})
    message = "a number" if argument in ("scale", "softcap") else "integers"
    refuse(TypeError, f"{argument}: expected {message}, got ", arguments, **{argument: Raising(RuntimeError)})


def test_a_depth_of_0_needs_a_scale(dtype):
    with pytest.raises(ValueError, match=r"^attention: scale: expected a number where q has a depth of 0, got None"):
        transfuse.attention(np.ones((2, 0), dtype), np.ones((3, 0), dtype), np.ones((3, 4), dtype))


@pytest.mark.parametrize(
    ("error", "window", "message"),
    [
        (ValueError, (-1, 0), "window: expected left of at least 0 or None, got -1"),
        (ValueError, (None, -5), "window: expected right of at least 0 or None, got -5"),
        (ValueError, (1,), r"window: expected two elements \(left, right\), got 1"),
        (ValueError, (1, 2, 3), r"window: expected two elements \(left, right\), got 3"),
        (TypeError, 5, r"window: expected a pair \(left, right\) or None, got int"),
        (TypeError, (1.0, 2), "window: left: expected an int, got float"),
        (TypeError, (1, "2"), "window: right: expected an int, got str"),
    ],
)
def test_window(arguments, error, window, message):
    refuse(error, message, arguments, window=window)


@pytest.mark.parametrize(
    ("error", "lengths", "message"),
    [
        (ValueError, [1, 8], r"kv_lengths: expected lengths in 0\.\.\.7, got 8"),
        (ValueError, [-1, 7], r"kv_lengths: expected lengths in 0\.\.\.7, got -1"),
        (ValueError, [1, 2, 3], r"kv_lengths: expected shape \(2,\), got \(3,\)"),
        (ValueError, [[1, 2]], r"kv_lengths: expected shape \(2,\), got \(1, 2\)"),
        (ValueError, 3, r"kv_lengths: expected shape \(2,\), .*, got 1 element$"),
        (
            ValueError,
            np.array([1, 2**64 - 1], np.uint64),
            r"kv_lengths: expected lengths in 0\.\.\.7, got 9223372036854775807",
        ),
        (TypeError, [1.0, 2.0], "kv_lengths: expected integers, got float64"),
        (TypeError, np.array([True, False]), "kv_lengths: expected integers, got bool"),
        (TypeError, "12", "kv_lengths: expected integers, got "),
        (TypeError, [1, None], "kv_lengths: expected integers, got NoneType"),
        (ValueError, [1, 2**70], r"kv_lengths: expected lengths in 0\.\.\.7, got 9223372036854775807"),
    ],
    ids=str,
)
def test_lengths(arguments, error, lengths, message):
    refuse(error, message, arguments, kv_lengths=lengths)


@pytest.mark.parametrize(
    ("error", "offset", "message"),
    [
        (ValueError, [1, 2, 3], r"query_offset: expected shape \(2,\), got \(3,\)"),
        (ValueError, 2**40, "query_offset: expected a position in "),
        (ValueError, np.array([1, 2**64 - 1], np.uint64), "query_offset: expected a position in "),
        (ValueError, -(10**30), "query_offset: expected a position in "),
        (ValueError, [0, -(10**30)], "query_offset: expected a position in "),
        (TypeError, 1.5, "query_offset: expected integers, got float64"),
        (TypeError, True, "query_offset: expected integers, got bool"),
    ],
)
def test_offsets(arguments, error, offset, message):
    refuse(error, message, arguments, query_offset=offset)


@pytest.mark.parametrize("layout", ["", "BSHD", "bsdh"])
def test_unknown_layout(arguments, layout):
    refuse(ValueError, "layout: expected 'bhsd' or 'bshd', got '", arguments, layout=layout)


def test_options_of_another_type(arguments):
    refuse(TypeError, "layout: expected a str, got int", arguments, layout=1)
    refuse(TypeError, "return_lse: expected a bool, got int", arguments, return_lse=1)
    refuse(TypeError, "num_threads: expected an int, got float", arguments, num_threads=1.0)
    refuse(ValueError, "num_threads: expected at least 1, got 0", arguments, num_threads=0)


@pytest.mark.parametrize("key", ["block_q", "block_kv", "key_chunk"])
def test_config(arguments, key):
    refuse(ValueError, f"config: expected {key} in 1...1048576, got 0", arguments, config={key: 0})
    refuse(TypeError, f"config: {key}: expected an int, got float", arguments, config={key: 1.5})
    message = "config: expected the keys 'block_q', 'block_kv', 'key_chunk', 'isa', 'threads', got 'block_k'"
    refuse(ValueError, message, arguments, config={"block_k": 4})


@pytest.mark.parametrize("argument", ["q", "k", "v", "mask", "bias", "alibi_slopes", "sinks"])
def test_no_array(arguments, argument):
    for value in ([1.0], 1.5, "text", object()):
        refuse(TypeError, f"{argument}: expected an array .*, got ", arguments, **{argument: value})


def test_outputs(arguments, dtype):
    other = np.float64 if dtype == np.float32 else np.float32
    refuse(
        ValueError,
        r"out: expected shape \(2, 6, 5, 4\), got \(2, 6, 5, 8\)",
        arguments,
        out=np.ones((2, 6, 5, 8), dtype),
    )
    refuse(ValueError, f"out: expected dtype {dtype}, got ", arguments, out=np.ones((2, 6, 5, 4), other))
    refuse(TypeError, "out: expected numpy.ndarray, got list", arguments, out=[1.0])
    read_only = np.ones((2, 6, 5, 4), dtype)
    read_only.flags.writeable = False
    refuse(ValueError, "out: expected a writable array, got a read-only one", arguments, out=read_only)
    repeated = np.lib.stride_tricks.as_strided(np.ones((2, 6, 5, 4), dtype), (2, 6, 5, 4), (0, 0, 0, dtype.itemsize))
    refuse(ValueError, "out: expected elements that do not share memory with each other", arguments, out=repeated)


@pytest.mark.parametrize("argument", ["q", "k", "v", "mask", "bias", "alibi_slopes", "sinks"])
def test_out_overlaps_an_input(dtype, argument):
    memory = np.ones(4096, dtype)
    out = memory[: 6 * 5 * 4].reshape(6, 5, 4)
    arguments = {"q": np.ones((6, 5, 4), dtype), "k": np.ones((3, 7, 4), dtype), "v": np.ones((3, 7, 4), dtype)}
    shapes = {"mask": (5, 7), "bias": (5, 7), "alibi_slopes": (6,), "sinks": (6,)}
    shape = arguments[argument].shape if argument in arguments else shapes[argument]
    if argument == "mask":
        arguments[argument] = memory.view(bool)[: 5 * 7].reshape(shape)
    else:
        arguments[argument] = memory[: int(np.prod(shape))].reshape(shape)
    with (
        Unchanged(memory),
        pytest.raises(ValueError, match=f"^attention: out: expected no memory shared with {argument}"),
    ):
        transfuse.attention(**arguments, out=out)


def test_calls(arguments):
    with pytest.raises(TypeError, match=r"attention\(\) missing required argument 'v'"):
        transfuse.attention(arguments["q"], arguments["k"])
    with pytest.raises(TypeError, match=r"attention\(\) takes 3 positional arguments but 4 were given"):
        transfuse.attention(*arguments.values(), None)
    with pytest.raises(TypeError, match=r"attention\(\) got an unexpected keyword argument 'masks'"):
        transfuse.attention(**arguments, masks=None)
