"""KVCache: readers beside those who append, forget and grow."""

import threading

import numpy as np
import pytest
from cache_cases import new_cache, state, tokens
from oracle import normal

import transfuse


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_readers_beside_a_writer(rng, stored):
    # What a reader sees is some state that the cache was in, while tokens come, go and come again and the memory moves.
    k, v = tokens(rng, np.float32, 200, kv_heads=2)
    q = normal(rng, (2, 8, 1, 8), np.float32)
    whole = new_cache(stored, 200, kv_heads=2)
    whole.append(k, v)
    expected = []
    for n in range(200, -1, -1):
        whole.truncate(n)
        expected.insert(0, transfuse.attention(q, cache=whole).tobytes())
    if stored == "float32":
        assert expected[1:] == [transfuse.attention(q, k[:, :, :n], v[:, :, :n]).tobytes() for n in range(1, 201)]
    cache = new_cache(stored, 1, kv_heads=2)
    cache.append(k[:, :, :1], v[:, :, :1])
    done, wrong, states = threading.Event(), [], set(expected)

    def read():
        while not done.is_set():
            if transfuse.attention(q, cache=cache, num_threads=1).tobytes() not in states:
                wrong.append(cache.lengths)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(1, 200):
        if cache.capacity == n:
            cache.grow(n + 1 + n // 3)
        kept = n
        if n % 5 == 0:
            kept = n // 2
            cache.truncate(kept)
        elif n % 7 == 0:
            kept = 0
            cache.reset()
        cache.append(k[:, :, kept : n + 1], v[:, :, kept : n + 1])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert transfuse.attention(q, cache=cache).tobytes() == expected[200]


@pytest.mark.parametrize("stored", ["float32", "int8"])
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.truncate(1),
        lambda cache: cache.reset(),
        lambda cache: cache.grow(99),
        lambda cache: (cache.truncate([3, 2]), cache.grow(16), cache.append(*[np.ones((2, 3, 9, 8), np.float32)] * 2)),
    ],
    ids=["truncate", "reset", "grow", "all"],
)
def test_what_other_threads_do_after_a_call_has_begun(rng, stored, change):
    # A query_offset is read after the cache: the call has begun then, and waits for the other thread.
    cache = transfuse.KVCache(2, 3, 16, 8, dtype=stored)
    cache.append(*tokens(rng, np.float32, 9, value_depth=8), lengths=[9, 5])
    q = normal(rng, (2, 6, 2, 8), np.float32)
    offset = cache.lengths - 2
    expected = transfuse.attention(q, cache=cache, causal=True)

    class Offset:
        def __array__(self, dtype=None, copy=None):
            other = threading.Thread(target=change, args=(cache,))
            other.start()
            other.join()
            return offset

    before = state(cache)
    found = transfuse.attention(q, cache=cache, causal=True, query_offset=Offset())
    assert state(cache) != before
    np.testing.assert_array_equal(found, expected)


def test_a_long_read_beside_a_writer(rng):
    # Long enough to run without the interpreter lock.
    cache = transfuse.KVCache(1, 8, 5000, 64)
    k, v = tokens(rng, np.float32, 4000, 1, 8, 64, 64)
    cache.append(k, v)
    q = normal(rng, (1, 32, 2, 64), np.float32)
    expected = transfuse.attention(q, k, v, causal="lower_right").tobytes()
    results = []
    reader = threading.Thread(target=lambda: results.append(transfuse.attention(q, cache=cache, causal=True).tobytes()))
    reader.start()
    while reader.is_alive() and cache.lengths[0] < 5000:
        if cache.lengths[0] == 4000:
            cache.append(np.full_like(k[:, :, :1], np.nan), np.full_like(v[:, :, :1], np.nan))
        cache.grow(cache.capacity + 1)
    reader.join()
    assert results[0] == expected or (cache.lengths[0] > 4000 and np.isnan(np.frombuffer(results[0], "f")).any())


@pytest.mark.parametrize("change", [lambda cache: cache.truncate(1), lambda cache: cache.reset()], ids=["1", "0"])
@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_a_long_read_beside_one_who_forgets(rng, stored, change):
    cache = transfuse.KVCache(1, 8, 4000, 64, dtype=stored)
    cache.append(*tokens(rng, np.float32, 4000, 1, 8, 64, 64))
    q = normal(rng, (1, 32, 2, 64), np.float32)
    begun, results = threading.Event(), []

    class Scale:
        def __float__(self):
            begun.set()
            return 0.125

    def attend(scale=0.125):
        return transfuse.attention(q, cache=cache, scale=scale).tobytes()

    possible = [attend()]
    reader = threading.Thread(target=lambda: results.append(attend(Scale())))
    reader.start()
    begun.wait()
    change(cache)
    reader.join()
    possible.append(attend())
    assert results[0] in possible  # it read the cache before the change or after it
