"""A transfuse with a cache and 16-bit types, slow: until the real one has them."""

import types

import numpy as np

import transfuse
from transfuse.bench.libraries import Transfuse


class KVCache:
    def __init__(self, batch, kv_heads, capacity, head_dim, *, v_head_dim=None, dtype="float32"):
        self.dtype = dtype
        self.lengths = None

    def append(self, k, v, *, lengths=None):
        if self.dtype == "int8":
            k, v = (self._quantised(x) for x in (k, v))
        self.k, self.v, self.lengths = k, v, [k.shape[2]] * len(k) if lengths is None else lengths

    @staticmethod
    def _quantised(x):
        step = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
        return np.rint(x / step).astype(np.int8) * step


def attention(q, k=None, v=None, *, cache=None, causal=False, **options):
    if cache is not None:
        k, v, options["kv_lengths"] = cache.k, cache.v, cache.lengths
        causal = "lower_right" if causal else False
    if q.dtype == np.float64:
        return transfuse.attention(q, k, v, causal=causal, **options)
    q32, k32, v32 = (x.astype(np.float32) for x in (q, k, v))
    return transfuse.attention(q32, k32, v32, causal=causal, **options).astype(q.dtype)


class Serving(Transfuse):
    def load(self, threads):
        return {"transfuse": types.SimpleNamespace(attention=attention, KVCache=KVCache)}
