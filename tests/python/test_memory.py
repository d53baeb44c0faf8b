"""Sizes that do not fit, memory that runs out, and references that must not leak."""

import contextlib
import gc
import sys
import weakref

import numpy as np
import pytest
from ml_dtypes import bfloat16
from oracle import normal
from processes import run_python
from producers import DLPackProducer, InterfaceProducer

import transfuse


def broadcast(dtype, *shape):
    """An array of any size in the memory of one element."""
    return np.broadcast_to(np.ones((), dtype), shape)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((1 << 33, 1), (1, 1 << 33)),
        ((1 << 31, 1), (1, 1 << 30)),
        ((1 << 21, 1 << 20, 1), (1 << 21, 1, 1 << 20)),
        ((1 << 20, 1, 1 << 10, 1), (1 << 20, 1, 1 << 20)),
        ((3037000500, 1), (1, 3037000500)),
        ((1 << 59, 1), (1, 1 << 59)),
    ],
    ids=str,
)
def test_results_beyond_64_bits(dtype, shape_a, shape_b):
    a, b = broadcast(dtype, *shape_a), broadcast(dtype, *shape_b)
    for out in (None, np.ones((2, 2), dtype)):
        with pytest.raises(ValueError, match=r"^matmul_t: a and b: the result would have shape .* more bytes"):
            transfuse.matmul_t(a, b, out=out)


def test_results_beyond_the_memory(dtype):
    with pytest.raises(MemoryError):
        transfuse.matmul_t(broadcast(dtype, 1 << 24, 1), broadcast(dtype, 1, 1 << 24))


def test_large_sizes_of_an_empty_result(dtype):
    result = transfuse.matmul_t(broadcast(dtype, 1 << 40, 5, 0), broadcast(dtype, 0, 0))
    assert result.shape == (1 << 40, 0, 5)
    # Whether NumPy can hold the shape at all is for NumPy to say.
    with pytest.raises(ValueError, match="too big"):
        transfuse.matmul_t(broadcast(dtype, 1 << 62, 1, 0), broadcast(dtype, 0, 0).repeat(0, axis=0))
    with pytest.raises(ValueError, match="too big"):
        np.empty((1 << 62, 0, 1), dtype)


@pytest.mark.parametrize("batch", ["", "2, "])
def test_working_memory_runs_out(batch):
    program = f"""
        import resource
        import numpy as np, transfuse
        a = np.ones(({batch}16384, 64)).swapaxes(-1, -2)
        b = np.ones(({batch}64, 16384)).swapaxes(-1, -2)
        out = np.full(({batch}64, 64), 7.0)
        call = lambda: transfuse.matmul_t(a, b, out=out, num_threads=1, config={{"block_k": 1 << 14}})
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
        try:
            call()
        except MemoryError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(message)
        assert (out == 7).all()
        assert call() is out
        assert (out == 16384).all()
    """
    assert run_python(program).stdout == "matmul_t: not enough memory for the working buffers\n"


def test_working_memory_is_bounded():
    # 256 MiB of operands; what a call keeps or needs beside them is far less.
    program = """
        import resource
        import numpy as np, transfuse
        a, b = np.ones((1 << 20, 32), np.float32), np.ones((32, 1 << 20), np.float32).T.copy().T
        out = np.ones((1 << 20, 1), np.float32)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (32 << 20), resource.RLIM_INFINITY))
        transfuse.matmul_t(a[:1], b, out=out, num_threads=1)
        transfuse.matmul_t(b.T, a[:1].T, out=out.T, num_threads=1)
        print(out.sum() / (1 << 20))
    """
    assert run_python(program).stdout == "32.0\n"


@pytest.mark.parametrize("window", [None, (511, 0)])
def test_attention_needs_no_matrix_of_scores(window):
    # Of the scores alone there would be 1 GiB, or 64 GiB for the longer sequence with a window.
    length = 16384 if window is None else 131072
    program = f"""
        import resource
        import numpy as np, transfuse
        q, k, out = (np.zeros((1, 1, {length}, 64), np.float32) for _ in range(3))
        v = np.ones_like(q) * np.arange({length}, dtype=np.float32)[:, None]
        out[...] = 1  # its memory is there
        isa = transfuse.info()["isa"]["available"][-1]  # the scalar tier would take a while
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (16 << 20), resource.RLIM_INFINITY))
        result, lse = transfuse.attention(
            q, k, v, causal=True, window={window}, out=out, return_lse=True, num_threads=1, config={{"isa": isa}}
        )
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        last = np.arange({length})
        keys = np.minimum(last + 1, 512 if {window} else {length})
        np.testing.assert_allclose(lse[0, 0], np.log(keys), rtol=1e-5)
        np.testing.assert_allclose(result[0, 0], np.repeat(last - (keys - 1) / 2, 64).reshape(-1, 64), rtol=1e-4)
        print("done")
    """
    assert run_python(program).stdout == "done\n"


def test_working_memory_of_attention_runs_out():
    program = """
        import resource
        import numpy as np, transfuse
        q = np.ones((2, 256, 16384))
        v, out = np.ones((2, 256, 4)), np.full((2, 256, 4), 7.0)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
        try:
            transfuse.attention(q, q, v, out=out, num_threads=1)
        except MemoryError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(message)
        assert (out == 7).all()
        np.testing.assert_allclose(transfuse.attention(q, q, v, out=out, num_threads=1), 1)
    """
    assert run_python(program).stdout == "attention: not enough memory for the working buffers\n"


def test_results_of_attention_beyond_the_memory(dtype):
    q, k = broadcast(dtype, 1 << 22, 1), broadcast(dtype, 1, 1)
    with pytest.raises(MemoryError):
        transfuse.attention(q, k, broadcast(dtype, 1, 1 << 22))
    with pytest.raises(ValueError, match=r"^attention: q, k and v: the result would have shape .* more bytes"):
        transfuse.attention(broadcast(dtype, 1 << 31, 1), k, broadcast(dtype, 1, 1 << 30))
    with pytest.raises(MemoryError):  # a depth that no working memory holds
        transfuse.attention(broadcast(dtype, 4, 1 << 50), broadcast(dtype, 1, 1 << 50), k)


def use_cache(dtype, tokens):
    """The life of a cache, with its views outliving it, and errors."""
    cache = transfuse.KVCache(1, 2, 8, 8, dtype=dtype)
    cache.append(tokens, tokens, lengths=[6])
    views = cache.keys, cache.values, cache.key_scales, cache.value_scales, cache.lengths
    cache.grow(9)
    cache.truncate(cache.lengths - 1)
    for wrong in (
        lambda: cache.append(tokens, tokens),
        lambda: cache.append(tokens, [1]),
        lambda: cache.append(tokens, tokens, lengths="1"),
        lambda: cache.truncate(9),
        lambda: cache.grow(1),
        lambda: transfuse.KVCache(1, 2, 8, 8, dtype="int4"),
    ):
        with contextlib.suppress(TypeError, ValueError):  # others test that they are raised
            wrong()
    cache.reset()
    return views


def calls(rng):
    """Calls of every kind, the failing ones included."""
    a, b, bias = (normal(rng, shape, np.float32) for shape in [(3, 4), (4, 5), (5,)])
    out = np.empty((5, 3), np.float32)
    good = {
        "plain": lambda: transfuse.matmul_t(a, b),
        "options": lambda: transfuse.matmul_t(
            a, b, out=out, bias=bias, activation="gelu", num_threads=2, config={"block_k": 2, "isa": "scalar"}
        ),
        "large": lambda: transfuse.matmul_t(a.repeat(60, axis=0), b.repeat(60, axis=1)),
        "dlpack": lambda: transfuse.matmul_t(dlpack, dlpack_b, bias=old_dlpack_bias),
        "interface": lambda: transfuse.matmul_t(interface, b),
        "attention": lambda: transfuse.attention(q, q, q),
        "attention options": lambda: transfuse.attention(q, q, **options, mask=mask, bias=bias_of_scores),
        "attention dlpack": lambda: transfuse.attention(*[DLPackProducer(q)] * 3, mask=dlpack_mask),
        "attention of bfloat16": lambda: transfuse.attention(half, half, half, out=half.copy(), sinks=half[:, 0, 0]),
        "attention to a cache": lambda: transfuse.attention(q[np.newaxis], cache=cache, causal=True, return_lse=True),
        "attention to int8": lambda: transfuse.attention(q[np.newaxis], cache=small),
        "cache": lambda: use_cache("float32", q[np.newaxis]),
        "cache of int8": lambda: use_cache("int8", DLPackProducer(q[np.newaxis])),
        "cache of bfloat16": lambda: use_cache(bfloat16, half[np.newaxis]),
        "attention large": lambda: transfuse.attention(*[q.repeat(20, axis=1)] * 3, num_threads=2, return_lse=True),
    }
    q = normal(rng, (2, 7, 8), np.float32)
    half = q.astype(bfloat16)
    cache, small = (transfuse.KVCache(1, 2, 9, 8, dtype=dtype) for dtype in ("float32", "int8"))
    for one in (cache, small):
        one.append(q[np.newaxis], q[np.newaxis])
    mask, bias_of_scores = np.ones((7, 7), bool), normal(rng, (7, 7), np.float32)
    dlpack_mask = DLPackProducer(mask, code=6, bits=8)
    options = {
        "v": q,
        "out": np.empty_like(q),
        "return_lse": True,
        "window": [3, None],
        "causal": "lower_right",
        "kv_lengths": 5,
        "query_offset": np.int32(2),
        "scale": 0.5,
        "softcap": np.float32(3),
        "sinks": InterfaceProducer(q[:, 0, 0]),
        "alibi_slopes": q[:, 1, 1],
        "config": {"block_kv": 3},
    }
    dlpack, dlpack_b = DLPackProducer(a), DLPackProducer(b)
    old_dlpack_bias = DLPackProducer(bias, version=None)
    interface = InterfaceProducer(a)
    bad_arguments = {
        "no array": ([1], b, {}),
        "rank": (a[0], b, {}),
        "inner": (a, a, {}),
        "dtype": (a, b.astype(int), {}),
        "mixed": (dlpack, b.astype(float), {}),
        "device": (DLPackProducer(a, device_type=2), b, {}),
        "version": (a, DLPackProducer(b, version=(3, 0)), {}),
        "code": (DLPackProducer(a, code=0), b, {}),
        "interface": (InterfaceProducer(a, typestr="<V2"), b, {}),
        "out": (a, b, {"out": a}),
        "out type": (a, b, {"out": [1]}),
        "bias": (dlpack, dlpack_b, {"bias": a}),
        "activation": (a, b, {"activation": "step"}),
        "threads": (a, b, {"num_threads": 0}),
        "config": (a, b, {"config": {"block": 1}}),
        "config value": (a, b, {"config": {"block_k": 1 << 40}}),
        "keyword": (a, b, {"bais": bias}),
        "too large": (broadcast(np.float32, 1 << 33, 1), broadcast(np.float32, 1, 1 << 33), {}),
    }
    bad_options = {
        "q": [1],
        "k": q[0],
        "v": DLPackProducer(q.astype(float)),
        "mask": DLPackProducer(q),
        "bias": broadcast(np.float32, 3),
        "causal": "left",
        "query_offset": [1, 2],
        "scale": "1",
        "softcap": 0,
        "window": (1, "2"),
        "alibi_slopes": q,
        "sinks": dlpack_mask,
        "kv_lengths": [[1], [2, 3]],
        "layout": "bsdh",
        "out": q,
        "return_lse": 1,
        "num_threads": 0,
        "config": {"block_kv": 0},
    }

    def failing(function, *arguments, **options):
        def call():
            try:
                function(*arguments, **options)
            except (TypeError, ValueError):
                return
            raise AssertionError("expected an error")

        return call

    bad = {name: failing(transfuse.matmul_t, x, y, **options) for name, (x, y, options) in bad_arguments.items()}
    for name, value in bad_options.items():
        arguments = {"q": q, "k": q, "mask": dlpack_mask} | options | {name: value}
        bad[f"attention {name}"] = failing(transfuse.attention, **arguments)
    return good | {f"bad {name}": call for name, call in bad.items()}


def test_nothing_leaks(rng):
    for name, call in calls(rng).items():
        grown = []
        for _ in range(4):  # the interpreter's own caches grow now and then, a leak does every time
            gc.collect()
            before = sys.getallocatedblocks()
            for _ in range(100):
                call()
            gc.collect()
            grown.append(sys.getallocatedblocks() - before)
            if grown[-1] < 50:
                break
        assert min(grown) < 50, f"{name}: {grown} blocks in 100 calls each"


def test_references_to_arguments(rng, dtype):
    a, b, bias = normal(rng, (3, 4), dtype), normal(rng, (4, 5), dtype), normal(rng, 5, dtype)
    out = np.empty((5, 3), dtype)
    config, isa = {"block_k": 3}, "relu"
    objects = (a, b, bias, out, config, isa)
    before = [sys.getrefcount(item) for item in objects]
    for _ in range(50):
        transfuse.matmul_t(a, b, out=out, bias=bias, activation=isa, config=config)
        with pytest.raises(ValueError, match="num_threads"):
            transfuse.matmul_t(a, b, out=out, bias=bias, activation=isa, config=config, num_threads=0)
        with pytest.raises(ValueError, match="a and b"):
            transfuse.matmul_t(a, a, out=out, bias=bias)
        with pytest.raises(ValueError, match="out"):
            transfuse.matmul_t(a, b, out=b, bias=bias)
    assert [sys.getrefcount(item) for item in objects] == before


def test_references_to_arguments_of_attention(rng, dtype):
    q, heads, scores = normal(rng, (2, 3, 4), dtype), normal(rng, 2, dtype), normal(rng, (3, 3), dtype)
    arguments = {
        "q": q,
        "k": q.copy(),
        "v": q.copy(),
        "mask": scores > 0,
        "bias": scores,
        "alibi_slopes": heads,
        "sinks": heads.copy(),
        "window": [3, None],
        "kv_lengths": np.array(3),
        "query_offset": np.array(0),
        "out": np.empty_like(q),
        "config": {"block_kv": 3},
    }
    objects = list(arguments.values())
    before = [sys.getrefcount(item) for item in objects]
    fresh = np.empty(3)
    for _ in range(50):
        result, lse = transfuse.attention(**arguments, return_lse=True)
        assert sys.getrefcount(lse) == sys.getrefcount(fresh)
        for wrong in ({"num_threads": 0}, {"causal": "left"}, {"scale": np.nan}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                transfuse.attention(**arguments, **wrong)
        with pytest.raises(ValueError, match="out"):
            transfuse.attention(**(arguments | {"out": q}))
    del result
    assert [sys.getrefcount(item) for item in objects] == before


def test_the_memory_of_a_cache_is_returned():
    program = """
        import resource
        import numpy as np, transfuse
        token = np.ones((1, 8, 4096, 64), np.float32)
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        for _ in range(100):  # 16 MiB and more each
            cache = transfuse.KVCache(1, 8, 4096, 64)
            cache.append(token, token)
            keys = cache.keys
            cache.grow(5000)
            del cache
        assert (keys == 1).all()
    """
    assert run_python(program).stdout == ""


def test_the_result_belongs_to_the_caller(rng, dtype):
    result = transfuse.matmul_t(normal(rng, (3, 4), dtype), normal(rng, (4, 5), dtype))
    fresh = np.empty(3)
    assert sys.getrefcount(result) == sys.getrefcount(fresh)
    gone = weakref.ref(result)
    del result
    assert gone() is None
