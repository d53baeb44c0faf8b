"""attention of few queries: heads that share keys share a tile, keys are read in place and cut into parts."""

import itertools

import numpy as np
import pytest
from attention_cases import TIERS, heads
from attention_oracle import Expected, assert_accurate
from layouts import place
from ml_dtypes import bfloat16
from oracle import normal

import transfuse

CHUNKS = (1, 2, 3, 5, 100)
DTYPES = (np.float32, np.float64, np.float16, bfloat16)


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    """Every element type."""
    return np.dtype(request.param)


def bits(q, k, v, threads=1, tier=None, **options):
    config = {name: options.pop(name) for name in ("block_q", "block_kv", "key_chunk") if name in options}
    config |= {"isa": tier} if tier else {}
    result, lse = transfuse.attention(q, k, v, num_threads=threads, config=config, return_lse=True, **options)
    return result.tobytes() + lse.tobytes()


@pytest.mark.parametrize("group", range(1, 49))
def test_groups(rng, group):
    # 1 to 3 queries, so that some groups are read in place, others are packed, and some are too many to be split.
    for queries, kv_heads in ((1 + group % 3, 2), (1 + (group + 1) % 3, 1)):
        dtype = np.dtype(DTYPES[(group + queries) % 4])
        q, k, v = heads(rng, dtype, queries, 77, 20, 12, (), group * kv_heads, kv_heads)
        options = {"causal": "lower_right"} if group % 2 else {"sinks": normal(rng, group * kv_heads, dtype)}
        expected = Expected(q, k, v, **options)
        for tier, chunk in itertools.product(TIERS, (512, 20)):
            config = {"isa": tier, "key_chunk": chunk}
            expected.check(*transfuse.attention(q, k, v, return_lse=True, config=config, **options), (tier, chunk))


def few_query_options(rng, dtype, heads, queries):
    """Options for 2 sequences of 120 keys."""
    return {
        "plain": {},
        "causal": {"causal": "lower_right"},
        "window": {"causal": "lower_right", "window": (30, None)},
        "narrow window": {"window": (3, 2), "query_offset": np.array([50, 7])},
        "lengths": {"kv_lengths": [0, 61]},
        "lengths and causal": {"kv_lengths": [2, 119], "causal": "lower_right"},
        "mask": {"mask": rng.random((2, heads, queries, 120)) < 0.5, "softcap": 2.0},
        "bias": {"bias": np.where(rng.random((queries, 120)) < 0.3, -np.inf, 1).astype(dtype)},
        "sinks": {"sinks": normal(rng, heads, dtype), "kv_lengths": [0, 100]},
        "slopes": {"alibi_slopes": normal(rng, heads, dtype), "causal": "lower_right"},
    }


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(("queries", "q_heads"), [(2, 4), (3, 12)], ids=["in place", "packed"])
def test_parts_of_the_keys(rng, dtype, queries, q_heads, chunk):
    q, k, v = heads(rng, dtype, queries, 120, 24, 17, (2,), q_heads, 2)
    for name, options in few_query_options(rng, dtype, q_heads, queries).items():
        expected = Expected(q, k, v, **options)
        for tier, block in itertools.product(TIERS, (1, 7, 32, 256)):
            config = {"isa": tier, "key_chunk": chunk, "block_kv": block}
            found = transfuse.attention(q, k, v, return_lse=True, config=config, **options)
            expected.check(*found, (name, config))


@pytest.mark.parametrize("queries", [1, 3])
def test_bits_of_what_no_cache_holds(rng, tier, queries):
    """Memory beyond the caches is read in another way: together the sequences are that large, alone they are not."""
    for dtype in map(np.dtype, DTYPES):
        sequences = (21 << 20) // (2 * 1500 * (64 + 48) * dtype.itemsize) + 1
        q, k, v = heads(rng, dtype, queries, 1500, 64, 48, (sequences,), 2 * queries, 2)
        together = transfuse.attention(q, k, v)
        for i in range(sequences):
            np.testing.assert_array_equal(transfuse.attention(q[i], k[i], v[i]), together[i])


def test_parts_that_see_nothing(rng, dtype, tier):
    # Whole parts are hidden, at the start, in the middle, everywhere; and lse is that of the rest.
    q, k, v = heads(rng, dtype, 2, 50, 16, q_heads=4, kv_heads=2)
    for shown in (slice(40, None), slice(0, 3), slice(23, 24), slice(0, 0)):
        mask = np.zeros(50, bool)
        mask[shown] = True
        for options in ({}, {"sinks": normal(rng, 4, dtype)}):
            expected = Expected(q, k, v, mask=mask, **options)
            for chunk in (4, 10):
                config = {"isa": tier, "key_chunk": chunk}
                found = transfuse.attention(q, k, v, mask=mask, config=config, return_lse=True, **options)
                expected.check(*found, (shown, options, chunk))


def test_parts_of_very_different_scores(dtype, tier):
    # Each part's largest score is far from the others', in either order.
    keys = 40
    q, v = np.ones((1, 8), dtype), np.arange(keys, dtype=np.float32)[:, np.newaxis].astype(dtype)
    for scores in (np.arange(keys), -np.arange(keys), np.where(np.arange(keys) == 17, 1e4, -1e4)):
        k = np.broadcast_to(scores[:, np.newaxis] / 8, (keys, 8)).astype(dtype)
        for chunk in (1, 3, 8):
            config = {"isa": tier, "key_chunk": chunk}
            result, lse = transfuse.attention(q, k, v, scale=1.0, config=config, return_lse=True)
            Expected(q, k, v, scale=1.0).check(result, lse, (scores[0], chunk))


INVARIANT = {
    "one query": (1, 2048, 8, 2, {}),
    "one query, many heads": (1, 1200, 32, 32, {"causal": "lower_right"}),
    "three queries": (3, 1500, 6, 3, {"causal": "lower_right"}),
    "window": (3, 2048, 4, 2, {"causal": "lower_right", "window": (700, None)}),
    "ragged": (2, 1600, 8, 2, {"kv_lengths": [1, 1600, 0, 777], "causal": "lower_right"}),
    "ragged, packed": (13, 1600, 8, 2, {"kv_lengths": [1600, 5, 513, 512], "causal": "lower_right"}),
    "many queries": (90, 700, 4, 2, {"kv_lengths": [700, 0, 699, 30]}),
}


@pytest.mark.parametrize("case", INVARIANT)
def test_neither_threads_nor_block_q_change_a_bit(rng, dtype, tier, case):
    queries, keys, q_heads, kv_heads, options = INVARIANT[case]
    leading = (4,) if "kv_lengths" in options else ()
    q, k, v = heads(rng, dtype, queries, keys, 24, 20, leading, q_heads, kv_heads)
    for sizes in ({}, {"key_chunk": 130, "block_kv": 50}):
        one = bits(q, k, v, tier=tier, **sizes, **options)
        for threads in (2, 3, 4):
            assert bits(q, k, v, threads, tier, **sizes, **options) == one, threads
        for block in (1, 2, 3, 5, 40):
            assert bits(q, k, v, 2, tier, block_q=block, **sizes, **options) == one, block


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_hidden_poison_keeps_the_bits_of_clean_rows(rng, dtype, tier, poison, queries):
    q, k, v = heads(rng, dtype, queries, 200, 16, 9, (2,), 4, 2)
    key = np.arange(200)
    hidden = rng.random(200) < 0.3
    for options, which in (
        ({"mask": ~hidden}, hidden),
        ({"bias": np.where(hidden, -np.inf, 0).astype(dtype)}, hidden),
        ({"kv_lengths": [150, 3]}, key >= np.array([150, 3])[:, None, None]),
        ({"window": (70, 20), "query_offset": 100}, (key < 30) | (key > 100 + queries - 1 + 20)),
        ({"causal": True, "query_offset": 120}, key > 120 + queries - 1),
    ):
        poisoned = [np.where(which[..., None], dtype.type(poison), x) for x in (k, v)]
        for chunk, block in ((512, 256), (37, 256), (5, 7), (64, 32)):
            case = {"tier": tier, "key_chunk": chunk, "block_kv": block} | options
            assert bits(q, *poisoned, **case) == bits(q, k, v, **case), case


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("poisoned", ["k", "v"])
def test_poison_that_some_queries_see(rng, dtype, tier, chunk, poisoned):
    # The later queries are spoilt, the first ones are computed again, part by part.
    arrays = dict(zip("qkv", heads(rng, dtype, 4, 90, 16, 9, (), 2, 1), strict=True))
    clean = dict(arrays)
    arrays[poisoned] = arrays[poisoned].copy()
    arrays[poisoned][0, 88, 3] = np.nan
    options = {"causal": "lower_right", "return_lse": True}
    expected = Expected(**arrays, causal="lower_right")
    for block in (256, 32, 7):
        config = {"isa": tier, "key_chunk": chunk, "block_kv": block}
        result, lse = transfuse.attention(**arrays, **options, config=config)
        expected.check(result, lse, config)
        good, good_lse = transfuse.attention(**clean, **options, config=config)
        np.testing.assert_array_equal(result[:, :2], good[:, :2])
        np.testing.assert_array_equal(lse[:, :2], good_lse[:, :2])


@pytest.mark.parametrize("layout", ["c", "fortran", "swapped", "heads", "padded", "step", "negative", "record"])
@pytest.mark.parametrize("queries", [1, 3])
def test_layouts_of_keys_and_values(rng, dtype, tier, layout, queries):
    # Rows that are not adjacent elements are not read in place.
    q, k, v = heads(rng, dtype, queries, 70, 19, 21, (2,), 4, 2)
    expected = Expected(q, k, v, causal="lower_right")
    for which in ("k", "v", "kv"):
        placed = {"k": k, "v": v} | {name: place({"k": k, "v": v}[name], layout) for name in which}
        config = {"isa": tier, "key_chunk": 32}
        found = transfuse.attention(q, **placed, causal="lower_right", config=config, return_lse=True)
        expected.check(*found, which)


@pytest.mark.parametrize("depth", [*range(1, 20), 31, 33, 63, 65, 255, 256, 257, 300, 1025])
def test_depths_of_few_queries(rng, dtype, depth):
    for queries, value_depth in ((1, depth), (5, 1 + depth % 37)):
        q, k, v = heads(rng, dtype, queries, 21, depth, value_depth, (), 2, 2)
        expected = Expected(q, k, v)
        for tier in TIERS:
            expected.check(*transfuse.attention(q, k, v, config={"isa": tier}, return_lse=True), (tier, queries))


def test_ragged_batches(rng, dtype, tier):
    # Every length from 0 on, each sequence with its own default offset.
    lengths = np.arange(36)
    q, k, v = heads(rng, dtype, 2, 35, 16, 16, (36,), 4, 2)
    for options in ({}, {"causal": "lower_right"}, {"causal": "lower_right", "window": (9, None)}):
        options |= {"kv_lengths": lengths}
        expected = Expected(q, k, v, **options)
        for chunk in (512, 8):
            config = {"isa": tier, "key_chunk": chunk}
            expected.check(*transfuse.attention(q, k, v, config=config, return_lse=True, **options), options)


def test_one_query_of_no_keys(dtype, tier):
    q, k = np.ones((3, 4, 1, 8), dtype), np.ones((3, 2, 6, 8), dtype)
    for lengths in ([0, 0, 0], [6, 0, 1]):
        options = {"kv_lengths": lengths, "config": {"isa": tier, "key_chunk": 2}, "return_lse": True}
        result, lse = transfuse.attention(q, k, k, **options)
        empty = np.array(lengths) == 0
        np.testing.assert_array_equal(result.astype("f"), np.broadcast_to(~empty[:, None, None, None], q.shape))
        np.testing.assert_array_equal(np.isneginf(lse[:, 0, 0]), empty)
        result, lse = transfuse.attention(q, k, k, sinks=np.full(4, 2, dtype), **options)
        np.testing.assert_allclose(lse[empty], 2)


def test_key_chunk_changes_rounding_only(rng, tier):
    q, k, v = heads(rng, np.float32, 1, 900, 16, q_heads=8, kv_heads=1)
    results = [transfuse.attention(q, k, v, config={"isa": tier, "key_chunk": chunk}) for chunk in (512, 128, 1 << 20)]
    assert any((x != results[0]).any() for x in results[1:])  # it is used at all
    for result in results:
        assert_accurate(result, q, k, v)
