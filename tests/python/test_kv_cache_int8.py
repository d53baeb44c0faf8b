"""KVCache of int8: what is stored, and attention to it."""

import numpy as np
import pytest
from attention_oracle import Expected
from cache_cases import new_cache, state, tokens
from layouts import place
from ml_dtypes import bfloat16
from oracle import normal

import transfuse


def dequantised(cache):
    return (
        cache.keys.astype(np.float32) * cache.key_scales[..., None],
        cache.values.astype(np.float32) * cache.value_scales[..., None],
    )


@pytest.mark.parametrize("source", [np.float32, np.float16, bfloat16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("layout", ["c", "step", "swapped"])
def test_int8_is_off_by_half_a_scale_at_most(rng, source, layout):
    cache = new_cache("int8", 300)
    size = np.exp(rng.uniform(-8, 8, (2, 3, 300, 1)))  # of each token
    k, v = ((x * size).astype(source) for x in tokens(rng, np.float32, 300))
    k[0, 1, 7], v[1, 2, 9] = 0, 0
    cache.append(place(k, layout), place(v, layout))
    for exact, found, scales in zip((k, v), dequantised(cache), (cache.key_scales, cache.value_scales), strict=True):
        exact = exact.astype(np.float64)
        largest = np.abs(exact).max(axis=-1)
        np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
        assert (np.abs(found - exact) <= scales[..., None] * (0.5 + 1e-4)).all()
        assert (np.abs(found).max(axis=-1) <= largest * (1 + 1e-6)).all()
    assert np.abs(cache.keys.astype(int)).max() == 127


def test_int8_rounds_to_the_nearest(rng):
    cache = transfuse.KVCache(1, 1, 1, 512, dtype="int8")
    x = np.concatenate([[127.0], np.arange(-127, 127) + 0.25, np.arange(-126, 128) - 0.25, [0.5, 1.5, -2.5]])
    x = x.astype(np.float32).reshape(1, 1, 1, -1)
    cache.append(x, x)
    assert cache.key_scales == 1
    np.testing.assert_array_equal(cache.keys, np.round(x))


@pytest.mark.parametrize("q_dtype", [np.float32, np.float16, bfloat16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("queries", [1, 3, 20])
def test_int8_is_attention_to_the_dequantised(rng, tier, queries, q_dtype):
    cache = new_cache("int8", 90)
    # Scales that differ from token to token, from head to head and between keys and values.
    sizes = np.exp(rng.uniform(-2, 2, (2, 2, 3, 80, 1)))
    k, v = ((x * size).astype(np.float32) for x, size in zip(tokens(rng, np.float32, 80), sizes, strict=True))
    cache.append(k, v, lengths=[80, 33])
    lengths = cache.lengths
    q = normal(rng, (2, 6, queries, 8), q_dtype)
    mask = rng.random((queries, 80)) < 0.7
    for options in ({"causal": True}, {"mask": mask}, {"window": (9, 3), "softcap": 3.0}):
        arrays = [x.astype(np.float32) for x in (q, *dequantised(cache))]
        offset = lengths - queries
        expected = Expected(*arrays, kv_lengths=lengths, query_offset=offset, **options)
        expected.dtype = np.dtype(q_dtype)
        for config in ({}, {"key_chunk": 7}, {"block_kv": 19}):
            config |= {"isa": tier}
            found = transfuse.attention(q, cache=cache, config=config, return_lse=True, **options)
            expected.check(*found, (options, config))


def test_int8_against_exact(rng, tier):
    # Values: half a scale. Keys: a score is off by Σ|q|·½·scale/√D at most, which moves a probability by twice that.
    cache = transfuse.KVCache(1, 2, 400, 64, dtype="int8")
    k, v = tokens(rng, np.float32, 400, 1, 2, 64, 64)
    cache.append(k, v)
    q = normal(rng, (1, 4, 1, 64), np.float32)
    error = np.abs(transfuse.attention(q, cache=cache, config={"isa": tier}) - transfuse.attention(q, k, v))
    off = (np.abs(q).sum(axis=-1) * cache.key_scales.max() / 2 / 8).max()
    bound = cache.value_scales.max() / 2 + np.expm1(2 * off) * np.abs(v).max()
    assert 0 < error.max() <= bound
    assert error.max() < 0.01  # and far from it where roundings are as likely up as down


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", [np.float32, np.float16, bfloat16], ids=lambda dtype: np.dtype(dtype).name)
def test_int8_refuses_what_is_not_finite(rng, wrong, source):
    cache = new_cache("int8")
    cache.append(*tokens(rng, source, 3), lengths=[3, 1])
    before = state(cache)
    for spoilt in (0, 1):
        arrays = tokens(rng, source, 4)
        arrays[spoilt][1, 2, 3, 4] = wrong
        message = f"^{'kv'[spoilt]}: expected finite numbers with a cache of int8, got NaN or infinity"
        with pytest.raises(ValueError, match=message):
            cache.append(*arrays)
        assert state(cache) == before
    cache.append(*arrays, lengths=[4, 3])  # one that does not count may be anything
