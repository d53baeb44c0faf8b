"""KVCache through random sequences of its methods, against arrays that are concatenated.

Hypothesis prefers the first of some choices, and small numbers: choices are put so that caches are seldom empty.
"""

import numpy as np
import pytest
from attention_oracle import Expected
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ml_dtypes import bfloat16
from oracle import normal

import transfuse

TIERS = transfuse.info()["isa"]["available"]
counts = st.sampled_from([5, 3, 8, 1, 0])


class Cache(RuleBasedStateMachine):
    """The model: for each sequence, its keys and values (heads, length, depth)."""

    @initialize(
        dtype=st.sampled_from([np.float32, np.float64, np.float16, bfloat16, np.int8]),
        sizes=st.tuples(
            st.sampled_from([2, 3, 1]),
            st.integers(1, 3),
            st.sampled_from([20, 7, 0]),
            st.integers(1, 20),
            st.integers(1, 20),
        ),
        seed=st.integers(0, 2**32 - 1),
    )
    def create(self, dtype, sizes, seed):
        self.rng = np.random.default_rng(seed)
        self.batch, self.heads, self.capacity, *self.depths = sizes
        self.quantised = dtype is np.int8
        self.dtype = np.dtype(np.float32 if self.quantised else dtype)
        self.cache = transfuse.KVCache(*sizes[:4], v_head_dim=sizes[4], dtype=dtype)
        self.held = [[np.zeros((self.heads, 0, d), self.dtype) for d in self.depths] for _ in range(self.batch)]

    def lengths(self):
        return np.array([k.shape[1] for k, _ in self.held])

    def tokens(self, count):
        return [normal(self.rng, (self.batch, self.heads, count, d), self.dtype) for d in self.depths]

    @rule(count=counts, ragged=st.sampled_from([True, False]))
    def append(self, count, ragged):
        new = self.tokens(count)
        taken = self.rng.integers(0, count + 1, self.batch) if ragged else np.full(self.batch, count)
        before = self.lengths()
        arguments = {"lengths": taken} if ragged else {}
        if (before + taken > self.capacity).any():
            with pytest.raises(ValueError, match=r"^k: expected at most "):
                self.cache.append(*new, **arguments)
            return
        self.cache.append(*new, **arguments)
        for b, n in enumerate(taken):
            self.held[b] = [np.concatenate([x, y[b, :, :n]], axis=1) for x, y in zip(self.held[b], new, strict=True)]

    @rule()
    def append_one(self):
        self.append(1, False)

    @rule(part=st.sampled_from([0.9, 0.5, 1.0, 0.0]))
    def truncate(self, part):
        kept = (self.lengths() * part).astype(int)
        self.cache.truncate(kept)
        self.held = [[x[:, :n] for x in pair] for pair, n in zip(self.held, kept, strict=True)]

    @rule()
    def poison(self):
        """Leaves NaN (for int8: large numbers) in what is unused."""
        room = self.capacity - int(self.lengths().max())
        before = self.lengths()
        self.cache.append(*(np.full_like(x, 1e30 if self.quantised else np.nan) for x in self.tokens(room)))
        self.cache.truncate(before)

    @rule(more=st.integers(0, 40))
    def grow(self, more):
        self.capacity += more
        self.cache.grow(self.capacity)

    @rule(wanted=st.sampled_from([False] * 7 + [True]))  # seldom: an empty cache shows little
    def reset(self, wanted):
        if not wanted:
            return
        self.cache.reset()
        self.held = [[x[:, :0] for x in pair] for pair in self.held]

    @rule(
        queries=st.sampled_from([1, 2, 3, 12, None]),  # None: as many as the longest sequence has keys
        group=st.integers(1, 4),
        causal=st.booleans(),
        chunk=st.sampled_from([1, 3, 8, 512]),
        tier=st.sampled_from(TIERS),
    )
    def attend(self, queries, group, causal, chunk, tier):
        lengths = self.lengths()
        queries = queries or max(1, int(lengths.max()))
        k, v = (np.zeros((self.batch, self.heads, lengths.max(), d), self.dtype) for d in self.depths)
        for b, n in enumerate(lengths):
            k[b, :, :n], v[b, :, :n] = self.held[b]
        q = normal(self.rng, (self.batch, self.heads * group, queries, self.depths[0]), self.dtype)
        options = {"causal": causal, "return_lse": True, "config": {"key_chunk": chunk, "isa": tier}}
        found = transfuse.attention(q, cache=self.cache, **options)
        array_options = {"kv_lengths": lengths, "query_offset": lengths - queries}
        if not self.quantised:
            expected = transfuse.attention(q, k, v, **array_options, **options)
            for x, y in zip(found, expected, strict=True):
                np.testing.assert_array_equal(x, y)
            return
        for stored, scales, x in (
            (self.cache.keys, self.cache.key_scales, k),
            (self.cache.values, self.cache.value_scales, v),
        ):
            near = stored.astype(np.float32) * scales[..., None]
            for b, n in enumerate(lengths):
                assert (np.abs(near[b, :, :n] - x[b, :, :n]) <= 0.501 * scales[b, :, :n, None]).all()
                x[b, :, :n] = near[b, :, :n]
        Expected(q, k, v, causal=causal, **array_options).check(*found)

    @invariant()
    def holds_the_same(self):
        if not hasattr(self, "cache"):
            return
        np.testing.assert_array_equal(self.cache.lengths, self.lengths())
        assert self.cache.capacity == self.capacity
        if not self.quantised:
            for b, (k, v) in enumerate(self.held):
                np.testing.assert_array_equal(self.cache.keys[b, :, : k.shape[1]], k)
                np.testing.assert_array_equal(self.cache.values[b, :, : v.shape[1]], v)


Cache.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestCache = Cache.TestCase
