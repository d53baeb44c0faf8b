"""KVCache: what it holds, what it refuses, and attention to it as to the arrays that were appended."""

import copy
import gc
import pickle

import numpy as np
import pytest
from attention_oracle import Expected
from cache_cases import new_cache, state, tokens
from layouts import LAYOUTS, place
from ml_dtypes import bfloat16
from oracle import normal
from producers import Raising

import transfuse

DTYPES = (np.float32, np.float64, np.float16, bfloat16)
SWAPPED = np.dtype(np.float32).newbyteorder()


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    """Every element type but int8."""
    return np.dtype(request.param)


def test_attributes(dtype):
    cache = transfuse.KVCache(batch=2, kv_heads=3, capacity=7, head_dim=8, dtype=dtype)
    assert (cache.batch, cache.kv_heads, cache.capacity, cache.head_dim, cache.v_head_dim) == (2, 3, 7, 8, 8)
    assert cache.dtype == dtype.name
    assert cache.nbytes >= 2 * 2 * 3 * 7 * 8 * dtype.itemsize
    assert (cache.keys.shape, cache.keys.dtype) == ((2, 3, 0, 8), dtype)
    assert cache.key_scales is None
    assert cache.value_scales is None
    assert cache.lengths.dtype == np.int64
    cache.lengths[:] = 5  # a copy
    np.testing.assert_array_equal(cache.lengths, 0)
    assert transfuse.KVCache(1, 1, 1, 8).dtype == "float32"
    assert repr(new_cache(dtype.name)).startswith("KVCache(batch=2, kv_heads=3, capacity=16, head_dim=8, v_head_dim=5")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_holds_what_was_appended(rng, dtype, layout):
    cache = new_cache(dtype)
    first, second = tokens(rng, dtype, 4), tokens(rng, dtype, 3)
    cache.append(*(place(x, layout) for x in first), lengths=[4, 2])
    cache.append(*(place(x, layout) for x in second), lengths=[1, 3])
    np.testing.assert_array_equal(cache.lengths, [5, 5])
    for held, x, y in zip((cache.keys, cache.values), first, second, strict=True):
        np.testing.assert_array_equal(held[0], np.concatenate([x[0], y[0, :, :1]], axis=1))
        np.testing.assert_array_equal(held[1], np.concatenate([x[1, :, :2], y[1]], axis=1))


@pytest.mark.parametrize("queries", [1, 2, 20])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_has_the_bits_of_attention_to_the_arrays(rng, dtype, tier, queries, causal):
    cache = new_cache(dtype, 50)
    k, v = tokens(rng, dtype, 40)
    cache.append(k, v, lengths=[40, 23])
    q = normal(rng, (2, 6, queries, 8), dtype)
    options = {"causal": causal, "config": {"isa": tier, "key_chunk": 16}, "return_lse": True}
    lengths = cache.lengths
    expected = transfuse.attention(q, k, v, kv_lengths=lengths, query_offset=lengths - queries, **options)
    found = transfuse.attention(q, cache=cache, **options)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    Expected(q, k, v, kv_lengths=lengths, query_offset=lengths - queries, causal=causal).check(*found)
    offset = np.array([3, 11])
    expected = transfuse.attention(q, k, v, kv_lengths=lengths, query_offset=offset, **options)
    found = transfuse.attention(q, cache=cache, query_offset=offset, **options)
    np.testing.assert_array_equal(found[0], expected[0])


def test_layout_of_queries_and_broadcasting(rng, dtype):
    cache = new_cache(dtype)
    cache.append(*tokens(rng, dtype, 9), lengths=[9, 4])
    q = normal(rng, (4, 2, 6, 2, 8), dtype)
    expected = np.stack([transfuse.attention(x, cache=cache, causal=True) for x in q])
    np.testing.assert_array_equal(transfuse.attention(q, cache=cache, causal=True), expected)
    swapped = transfuse.attention(q.swapaxes(2, 3), cache=cache, causal=True, layout="bshd")
    np.testing.assert_array_equal(swapped.swapaxes(2, 3), expected)
    one = transfuse.attention(q[0, :1], cache=cache, causal=True)
    repeated = transfuse.attention(np.repeat(q[0, :1], 2, axis=0), cache=cache, causal=True)
    np.testing.assert_array_equal(one, repeated)
    single = transfuse.KVCache(1, 3, 9, 8, dtype=dtype)  # one sequence, met by many
    k = tokens(rng, dtype, 9, batch=1, value_depth=8)
    single.append(*k)
    np.testing.assert_array_equal(transfuse.attention(q[0], cache=single), transfuse.attention(q[0], *k))


def test_an_empty_cache(dtype, tier):
    cache = new_cache(dtype)
    q = np.ones((2, 6, 3, 8), dtype)
    for _ in range(2):
        result, lse = transfuse.attention(q, cache=cache, causal=True, return_lse=True, config={"isa": tier})
        assert not result.astype("f").any()
        assert np.isneginf(lse).all()
        cache.append(*tokens(np.random.default_rng(0), dtype, 2), lengths=0)
    cache.grow(20)
    assert transfuse.KVCache(1, 1, 0, 8).keys.shape == (1, 1, 0, 8)


@pytest.mark.parametrize("queries", [1, 20])
def test_unused_capacity_is_never_read(rng, dtype, tier, queries):
    cache = new_cache(dtype, 64)
    k, v = tokens(rng, dtype, 64)
    cache.append(*(np.full_like(x, np.nan) for x in (k, v)))
    cache.truncate(0)
    cache.append(k, v, lengths=[37, 3])
    q = normal(rng, (2, 6, queries, 8), dtype)
    for chunk in (512, 5):
        options = {"config": {"isa": tier, "key_chunk": chunk}, "return_lse": True, "causal": True}
        found = transfuse.attention(q, cache=cache, **options)
        expected = transfuse.attention(q, k, v, kv_lengths=[37, 3], query_offset=np.array([37, 3]) - queries, **options)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("stored", [*DTYPES, "int8"], ids=lambda dtype: np.dtype(dtype).name)
def test_a_full_cache_is_left_as_it_is(rng, stored):
    dtype = np.float32 if stored == "int8" else stored
    cache = new_cache(stored, 6)
    cache.append(*tokens(rng, dtype, 5), lengths=[5, 4])
    before = state(cache)
    with pytest.raises(ValueError, match=r"^k: expected at most 1 tokens for sequence 0 \(capacity 6, .*\), got 2"):
        cache.append(*tokens(rng, dtype, 2))
    with pytest.raises(ValueError, match=r"^k: expected at most 2 tokens for sequence 1 .*, got 3"):
        cache.append(*tokens(rng, dtype, 3), lengths=[1, 3])
    assert state(cache) == before
    cache.append(*tokens(rng, dtype, 9), lengths=[1, 2])  # only those that count need room
    np.testing.assert_array_equal(cache.lengths, [6, 6])
    cache.append(*tokens(rng, dtype, 0))
    cache.grow(7)
    cache.append(*tokens(rng, dtype, 1))
    np.testing.assert_array_equal(cache.lengths, 7)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, r"k: expected shape \(2, 3, T, 8\) with T = 4, got \(2, 3, 4, 9\)", {"k": (2, 3, 4, 9)}),
        (ValueError, r"k: expected shape \(2, 3, T, 8\), got \(3, 4, 8\)", {"k": (3, 4, 8)}),
        (ValueError, r"k: expected shape .*, got \(1, 3, 4, 8\)", {"k": (1, 3, 4, 8)}),
        (ValueError, r"v: expected shape \(2, 3, T, 5\) with T = 4, got \(2, 3, 4, 8\)", {"v": (2, 3, 4, 8)}),
        (ValueError, r"v: expected shape .*, got \(2, 3, 3, 5\)", {"v": (2, 3, 3, 5)}),
        (ValueError, r"v: expected shape .*, got \(2, 2, 4, 5\)", {"v": (2, 2, 4, 5)}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got 5", {"lengths": [1, 5]}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got -1", {"lengths": -1}),
        (ValueError, r"lengths: expected shape \(2,\), got \(3,\)", {"lengths": [1, 2, 3]}),
        (ValueError, r"lengths: expected shape \(2,\), got \(1,\)", {"lengths": [1]}),
        (TypeError, "lengths: expected integers, got float64", {"lengths": [1.0, 2.0]}),
        (TypeError, "lengths: expected integers, got NoneType", {"lengths": [1, None]}),
        (TypeError, "lengths: expected integers, got float", {"lengths": [2**70, 1.0]}),
        (TypeError, "lengths: expected integers, got bool", {"lengths": [2**70, True]}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got 9223372036854775807", {"lengths": 2**70}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got 9223372036854775807", {"lengths": [2**70, 1]}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got 9223372036854775807", {"lengths": [1, 2**63]}),
        (ValueError, r"lengths: expected numbers in 0\.\.\.4, got -9223372036854775808", {"lengths": [-(2**70), 1]}),
        (ValueError, r"lengths: expected shape \(2,\), got \(3,\)", {"lengths": [2**70, 1, 1]}),
        (TypeError, "k: expected an array", {"k": [1.0]}),
        (TypeError, "v: expected an array", {"v": None}),
    ],
)
@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_what_append_refuses(rng, stored, error, message, changes):
    cache = new_cache(stored)
    cache.append(*tokens(rng, np.float32, 3))
    before = state(cache)
    arguments = dict(zip("kv", tokens(rng, np.float32, 4), strict=True))
    for name, value in changes.items():
        arguments[name] = np.ones(value, np.float32) if isinstance(value, tuple) else value
    with pytest.raises(error, match=f"^{message}"):
        cache.append(**arguments)
    assert state(cache) == before


def test_append_refuses_the_caches_own_memory(rng):
    cache = transfuse.KVCache(2, 3, 8, 4)
    tokens = rng.standard_normal((2, 3, 6, 4)).astype(np.float32)
    cache.append(tokens, tokens)
    old = cache.keys
    cache.truncate(1)
    for k, v, name in ((old, tokens, "k"), (tokens, old[:, :, ::-1], "v")):
        with pytest.raises(ValueError, match=f"^{name}: expected no memory shared with the cache; pass a copy$"):
            cache.append(k, v)
    np.testing.assert_array_equal(cache.lengths, [1, 1])
    np.testing.assert_array_equal(cache.keys, tokens[:, :, :1])
    cache.grow(16)
    cache.append(old, old)  # that was the memory before


def test_dtypes_that_append_refuses(rng, dtype):
    for stored in DTYPES:
        if stored == dtype:
            continue
        cache = new_cache(stored)
        expected = f"expected the dtype of the cache, {np.dtype(stored)}, got {dtype}"
        with pytest.raises(TypeError, match=f"^k: {expected}"):
            cache.append(*tokens(rng, dtype, 1))
        k, v = tokens(rng, stored, 1)
        with pytest.raises(TypeError, match=f"^v: expected the dtype of k, {np.dtype(stored)}, got {dtype}"):
            cache.append(k, v.astype(dtype))
    with pytest.raises(TypeError, match=r"^k: expected dtype float32, float16 or bfloat16, got float64"):
        new_cache("int8").append(*tokens(rng, np.float64, 1))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "batch: expected at least 1, got 0", {"batch": 0}),
        (ValueError, "kv_heads: expected at least 1, got 0", {"kv_heads": 0}),
        (ValueError, "capacity: expected at least 0, got -1", {"capacity": -1}),
        (ValueError, "head_dim: expected at least 1, got 0", {"head_dim": 0}),
        (ValueError, "v_head_dim: expected at least 1, got -3", {"v_head_dim": -3}),
        (TypeError, "capacity: expected an int, got float", {"capacity": 2.0}),
        (ValueError, "dtype: expected one of 'float32', 'float64', .*'int8', got 'int16'", {"dtype": np.int16}),
        (ValueError, "dtype: expected one of .*, got 'int4'", {"dtype": "int4"}),
        (ValueError, "dtype: expected one of .*, got 'int16'", {"dtype": "i2"}),
        (ValueError, "dtype: expected the byte order of this machine, got '[<>]f4'", {"dtype": SWAPPED.str}),
        (ValueError, "dtype: expected the byte order of this machine, got '[<>]f4'", {"dtype": SWAPPED}),
        (TypeError, "dtype: expected a dtype or its name, got NoneType", {"dtype": None}),
        (MemoryError, "capacity: no memory for 1152921504606846976 tokens", {"capacity": 1 << 60, "head_dim": 1 << 10}),
        (MemoryError, "capacity: no memory for 144115188075855872 bytes", {"capacity": 1 << 50}),
        (MemoryError, "batch: no memory for the lengths of 576460752303423488 seq", {"batch": 1 << 59, "capacity": 0}),
    ],
)
def test_what_the_constructor_refuses(error, message, arguments):
    with pytest.raises(error, match=f"^{message}"):
        transfuse.KVCache(**({"batch": 2, "kv_heads": 1, "capacity": 4, "head_dim": 8} | arguments))


@pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        np.dtype("f4"),
        bfloat16,
        np.int8,
        *["float32", "f4", "=f4", "single", "d", "f2", "half", "bfloat16", "int8", "i1", ">i1"],
    ],
)
def test_names_of_dtypes(dtype):
    name = np.dtype(dtype).name
    assert transfuse.KVCache(1, 1, 1, 8, dtype=dtype).dtype == name


class Early(transfuse.KVCache):
    """Uses itself before it is one."""

    def __init__(self):
        self.reset()


class Stateful(transfuse.KVCache):
    """Copied without its cache."""

    def __getstate__(self):
        return {}


def new():
    return transfuse.KVCache.__new__(transfuse.KVCache)


def copied():
    return copy.copy(Stateful(1, 1, 1, 8))


def failed():
    cache = new()
    with pytest.raises(ValueError, match=r"^batch: "):
        cache.__init__(0, 1, 1, 8)
    return cache


@pytest.mark.parametrize("make", [new, copied, failed])
def test_a_cache_whose_init_has_not_run(make):
    cache = make()
    token = np.ones((1, 1, 1, 8), np.float32)
    methods = {"append": (token, token), "truncate": (0,), "reset": (), "grow": (9,), "__repr__": ()}
    names = {name for name in dir(transfuse.KVCache) if not name.startswith("_")} | set(methods)
    assert len(names) == 17
    for name in names:
        with pytest.raises(TypeError, match=r"^self: expected a KVCache whose __init__ has run$"):
            getattr(cache, name)(*methods[name])
    with pytest.raises(TypeError, match=r"^attention: cache: expected a KVCache whose __init__ has run$"):
        transfuse.attention(token, cache=cache)
    with pytest.raises(TypeError, match=r"^attention: k: expected an array, got a KVCache; pass it as cache="):
        transfuse.attention(token, cache)
    cache.__init__(1, 1, 1, 8)
    cache.append(token, token)
    assert transfuse.attention(token, cache=cache).tolist() == token.tolist()


def test_subclasses():
    with pytest.raises(TypeError, match=r"^self: expected a KVCache whose __init__ has run$"):
        Early()
    cache = Stateful(1, 1, 1, 8)
    cache.append(*[np.ones((1, 1, 1, 8), np.float32)] * 2)
    assert transfuse.attention(np.ones((1, 1, 1, 8), np.float32), cache=cache).all()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(duplicate):
    with pytest.raises(TypeError, match="KVCache"):
        duplicate(transfuse.KVCache(1, 1, 1, 8))


def test_exceptions_that_pass():
    token = np.ones((1, 1, 1, 8), np.float32)
    cache = transfuse.KVCache(1, 1, 4, 8)
    calls = {
        "lengths: expected integers, got ": lambda x: cache.append(token, token, lengths=x),
        "dtype: expected a dtype or its name, got ": lambda x: transfuse.KVCache(1, 1, 1, 8, dtype=x),
    }
    for message, call in calls.items():
        for error in (KeyboardInterrupt, MemoryError, SystemExit):
            with pytest.raises(error):
                call(Raising(error))
        with pytest.raises(TypeError, match=f"^{message}"):
            call(Raising(RuntimeError))
    assert cache.lengths.tolist() == [0]


def test_truncate_and_reset(rng, dtype):
    cache = new_cache(dtype)
    k, v = tokens(rng, dtype, 9)
    cache.append(k, v, lengths=[9, 4])
    for wrong, message in (
        ([9, 5], r"a number in 0\.\.\.4 for sequence 1, got 5"),
        ([10, 0], r"a number in 0\.\.\.9 for sequence 0, got 10"),
        (-1, r"a number in 0\.\.\.9 for sequence 0, got -1"),
        ([1, 2, 3], r"shape \(2,\), got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=f"^lengths: expected {message}$"):
            cache.truncate(wrong)
    np.testing.assert_array_equal(cache.lengths, [9, 4])
    cache.truncate([6, 4])
    cache.truncate(3)
    np.testing.assert_array_equal(cache.keys, k[:, :, :3])
    cache.append(k, v, lengths=[2, 0])
    np.testing.assert_array_equal(cache.values[0], np.concatenate([v[0, :, :3], v[0, :, :2]], axis=1))
    cache.reset()
    np.testing.assert_array_equal(cache.lengths, 0)
    assert cache.capacity == 16


def test_growing(rng, dtype):
    cache = new_cache(dtype)
    k, v = tokens(rng, dtype, 16)
    cache.append(k, v, lengths=[16, 7])
    old, old_values = cache.keys, cache.values
    with pytest.raises(ValueError, match=r"^capacity: expected at least 16, got 15"):
        cache.grow(15)
    with pytest.raises(MemoryError):
        cache.grow(1 << 50)
    cache.grow(16)
    cache.grow(1000)
    assert cache.capacity == 1000
    np.testing.assert_array_equal(cache.keys[0], k[0])
    np.testing.assert_array_equal(cache.values[1, :, :7], v[1, :, :7])
    cache.truncate(0)
    cache.append(2 * k, 2 * v)
    del cache
    gc.collect()
    np.testing.assert_array_equal(old[0], k[0])  # the memory of before
    np.testing.assert_array_equal(old_values[0], v[0])


def test_growing_to_the_same_capacity_moves_only_what_has_forgotten(rng, dtype):
    cache = new_cache(dtype)
    k, v = tokens(rng, dtype, 9)
    cache.append(k, v)
    for forget in (lambda: cache.truncate(9), lambda: cache.truncate([9, 4]), lambda: cache.truncate([9, 4])):
        before = cache.keys
        lengths = cache.lengths
        forget()
        cache.grow(16)
        assert np.shares_memory(before, cache.keys) == (lengths == cache.lengths).all()
        for b, n in enumerate(cache.lengths):
            np.testing.assert_array_equal(cache.values[b, :, :n], v[b, :, :n])
    before = cache.keys
    cache.reset()
    cache.grow(16)
    cache.append(k, v)
    assert not np.shares_memory(before, cache.keys)
    np.testing.assert_array_equal(cache.keys, k)


def test_no_tokens_of_many_heads():
    # One by one they would take an hour.
    cache = transfuse.KVCache(1, 1 << 40, 0, 1)
    cache.append(*[np.broadcast_to(np.float32(0), (1, 1 << 40, 0, 1))] * 2)
    cache.reset()
    cache.grow(0)
    with pytest.raises(MemoryError, match=r"^capacity: no memory for "):
        cache.grow(1 << 20)
    assert cache.capacity == 0


def test_int8_keeps_its_scales_when_it_grows(rng):
    cache = new_cache("int8")
    cache.append(*tokens(rng, np.float32, 9), lengths=[9, 4])
    names = "keys", "values", "key_scales", "value_scales"
    before = [getattr(cache, name).copy() for name in names]
    cache.grow(50)
    for name, x in zip(names, before, strict=True):
        for b, n in enumerate(cache.lengths):
            np.testing.assert_array_equal(getattr(cache, name)[b, :, :n], x[b, :, :n], name)


def test_as_many_queries_as_the_longest_sequence_has_keys(rng, dtype):
    # The queries are the last positions of each sequence; not, as between arrays of one length, the first.
    cache = new_cache(dtype)
    k, v = tokens(rng, dtype, 5)
    cache.append(k, v, lengths=[5, 3])
    q = normal(rng, (2, 6, 5, 8), dtype)
    options = {"kv_lengths": [5, 3], "query_offset": np.array([0, -2]), "causal": True}
    Expected(q, k, v, **options).check(transfuse.attention(q, cache=cache, causal=True))


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
def test_views(rng, stored):
    cache = new_cache(stored)
    cache.append(*tokens(rng, bfloat16 if stored == "bfloat16" else np.float32, 4))
    views = [cache.keys, cache.values] + ([cache.key_scales, cache.value_scales] if stored == "int8" else [])
    before = [view.copy() for view in views]
    for view in views:
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    assert np.shares_memory(cache.keys, views[0])
    cache.append(*tokens(rng, bfloat16 if stored == "bfloat16" else np.float32, 2))
    del cache
    gc.collect()
    for view, x in zip(views, before, strict=True):
        np.testing.assert_array_equal(view, x)


def test_what_attention_refuses_with_a_cache(rng, dtype):
    cache = new_cache(dtype)
    k, v = tokens(rng, dtype, 4)
    cache.append(k, v)
    q = np.ones((2, 6, 2, 8), dtype)

    def refuse(error, message, q=q, cache=cache, **options):
        with pytest.raises(error, match=f"^attention: {message}"):
            transfuse.attention(q, cache=cache, **options)

    refuse(TypeError, "cache: expected None beside k and v, got a KVCache", k=k, v=v)
    refuse(TypeError, "cache: expected None beside k and v, got a KVCache", v=v)
    refuse(TypeError, "cache: expected a transfuse.KVCache or None, got numpy.ndarray", cache=k)
    for arguments in ((cache,), (cache, v), (cache, cache)):
        with pytest.raises(TypeError, match=r"^attention: k: expected an array, got a KVCache; pass it as cache=$"):
            transfuse.attention(q, *arguments)
    refuse(ValueError, "kv_lengths: expected None with a cache", kv_lengths=[4, 4])
    refuse(ValueError, "q: expected at least 3 dimensions with a cache, got shape", q=q[0, 0])
    refuse(ValueError, "q, k and v: expected q and k of the same depth", q=q[..., :5])
    refuse(ValueError, "q, k and v: leading dimensions do not broadcast", q=np.ones((3, 6, 2, 8), dtype))
    refuse(ValueError, "q, k and v: expected a number of query heads", q=q[:, :5])
    refuse(ValueError, r"out: expected shape \(2, 6, 2, 5\), got ", out=np.ones((2, 6, 2, 8), dtype))
    refuse(ValueError, "out: expected a writable array", q=np.ones((2, 3, 4, 8), dtype), out=cache.values)
    refuse(ValueError, "mask: expected a shape that broadcasts", mask=np.ones((2, 5), bool))
    other = np.float64 if dtype == np.float32 else np.float32
    refuse(TypeError, f"q: expected the dtype of the cache, {dtype}, got ", q=q.astype(other))
    refuse(
        TypeError,
        "q: expected float32, float16 or bfloat16, with a cache of int8",
        np.ones((2, 6, 2, 8)),
        new_cache("int8"),
    )
