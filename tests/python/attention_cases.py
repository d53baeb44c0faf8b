"""Calls of attention that several tests make."""

import numpy as np
from attention_oracle import Expected
from oracle import normal

import transfuse

DEPTHS = (32, 59, 64, 80, 96, 111, 128, 160, 256)
LENGTHS = ((1, 147), (113, 203), (108, 256), (256, 108), (17, 16))
CHOICES = [
    {"causal": causal, "window": window, "softcap": softcap}
    for softcap in (None, 3.0)
    for causal in (False, "lower_right", "upper_left")
    for window in (None, (40, 7), (64, None))
]
TIERS = transfuse.info()["isa"]["available"]


def heads(rng, dtype, queries, keys, depth, value_depth=None, leading=(2,), q_heads=4, kv_heads=4):
    q = normal(rng, (*leading, q_heads, queries, depth), dtype)
    k = normal(rng, (*leading, kv_heads, keys, depth), dtype)
    v = normal(rng, (*leading, kv_heads, keys, value_depth or depth), dtype)
    return q, k, v


def check_every_tier(q, k, v, **options):
    expected = Expected(q, k, v, **options)
    for tier in TIERS:
        result, lse = transfuse.attention(q, k, v, return_lse=True, config={"isa": tier}, **options)
        expected.check(result, lse, (tier, options))


def all_options(rng, dtype, batch, q_heads, queries, keys):
    bias = normal(rng, (q_heads, queries, keys), dtype)
    bias[:, :, 1::5] = -np.inf
    return {
        "scale": [None, 0.7, -0.5, 0.0],
        "softcap": [None, 2.0],
        "causal": [False, "upper_left", "lower_right"],
        "window": [None, (5, 3), (0, 0), (None, 2), (9, None)],
        "mask": [None, rng.random((batch, 1, queries, keys)) < 0.7],
        "bias": [None, bias],
        "alibi_slopes": [None, np.linspace(0.1, 1, q_heads).astype(dtype)],
        "sinks": [None, normal(rng, (q_heads,), dtype)],
        "kv_lengths": [None, rng.integers(0, keys + 1, batch)],
        "query_offset": [None, rng.integers(-2, 9, batch), 3],
    }
