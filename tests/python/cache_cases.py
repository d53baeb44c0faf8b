"""Caches and tokens for the tests of KVCache."""

from oracle import normal

import transfuse


def tokens(rng, dtype, count, batch=2, kv_heads=3, depth=8, value_depth=5):
    return tuple(normal(rng, (batch, kv_heads, count, size), dtype) for size in (depth, value_depth))


def new_cache(dtype, capacity=16, batch=2, kv_heads=3):
    return transfuse.KVCache(batch, kv_heads, capacity, 8, v_head_dim=5, dtype=dtype)


def state(cache):
    """Everything that a failing call must leave as it is."""
    scales = [] if cache.key_scales is None else [cache.key_scales.tobytes(), cache.value_scales.tobytes()]
    return [cache.capacity, cache.lengths.tolist(), cache.keys.tobytes(), cache.values.tobytes(), *scales]
