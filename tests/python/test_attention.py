"""attention against the formula, in every tier."""

import itertools

import numpy as np
import pytest
from attention_cases import CHOICES, DEPTHS, LENGTHS, TIERS, all_options, check_every_tier, heads
from attention_oracle import Expected, assert_accurate
from layouts import LAYOUTS, Placed, place
from oracle import normal

import transfuse

LONG = ((512, 256), (1023, 1024), (1024, 1024))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_depths_and_lengths(rng, dtype, depth, lengths):
    number = DEPTHS.index(depth)
    q_heads, kv_heads = ((1, 1), (2, 1), (4, 2))[number % 3]
    q, k, v = heads(rng, dtype, *lengths, depth, leading=(), q_heads=q_heads, kv_heads=kv_heads)
    for options in CHOICES[2 * number : 2 * number + 2]:  # lengths meet each choice with some depth
        check_every_tier(q, k, v, **options)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("lengths", LONG, ids=str)
def test_long(rng, depth, lengths):
    number = DEPTHS.index(depth)
    q, k, v = heads(rng, np.float32, *lengths, depth, leading=(), q_heads=1 + number % 2, kv_heads=1)
    check_every_tier(q, k, v, **CHOICES[2 * number + LONG.index(lengths) % 2])


@pytest.mark.parametrize("lengths", LONG, ids=str)
def test_long_in_float64(rng, lengths):
    q, k, v = heads(rng, np.float64, *lengths, 32, leading=(), q_heads=1, kv_heads=1)
    check_every_tier(q, k, v, causal="lower_right")


def test_every_pair_of_options(rng, dtype):
    batch, queries, keys = 2, 19, 37
    q, k, v = heads(rng, dtype, queries, keys, 16, 20, (batch,), 6, 2)
    choices = all_options(rng, dtype, batch, 6, queries, keys)
    for first, second in itertools.combinations(choices, 2):
        for x, y in itertools.product(choices[first], choices[second]):
            options = {name: value for name, value in ((first, x), (second, y)) if value is not None}
            check_every_tier(q, k, v, **options)


@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (5, 5), (16, 2), (64, 8), (7, 1000), (1 << 20, 1 << 20)])
def test_blocks_change_rounding_only(rng, dtype, tier, blocks):
    q, k, v = heads(rng, dtype, 67, 91, 24, 40)
    config = {"block_q": blocks[0], "block_kv": blocks[1], "isa": tier}
    for options in ({}, {"causal": "lower_right"}, {"window": (11, 4), "softcap": 5.0}):
        result = transfuse.attention(q, k, v, config=config, **options)
        assert_accurate(result, q, k, v, case=(blocks, options), **options)


def test_neither_threads_nor_block_q_change_a_bit(rng, dtype, tier):
    q, k, v = heads(rng, dtype, 150, 170, 32, q_heads=6, kv_heads=2)
    mask = rng.random((150, 170)) < 0.8
    for options in ({}, {"causal": "lower_right"}, {"mask": mask}, {"window": (30, 2)}):
        with transfuse.isa(tier):
            alone = transfuse.attention(q, k, v, num_threads=1, **options)
            for threads in (2, 3, 8):
                np.testing.assert_array_equal(transfuse.attention(q, k, v, num_threads=threads, **options), alone)
            for block in (1, 3, 14, 50, 1000):
                config = {"block_q": block}
                np.testing.assert_array_equal(transfuse.attention(q, k, v, config=config, **options), alone)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, dtype, tier, layout):
    q, k, v = heads(rng, dtype, 21, 34, 18, 23, (2,), 4, 2)
    expected = transfuse.attention(q, k, v, config={"isa": tier})
    out = Placed(expected.shape, dtype, layout)
    result = transfuse.attention(*(place(x, layout) for x in (q, k, v)), out=out.array, config={"isa": tier})
    assert result is out.array
    np.testing.assert_array_equal(result, expected)
    assert out.only_elements_written()


def test_bshd_is_the_same_with_heads_and_sequence_exchanged(rng, dtype):
    q, k, v = heads(rng, dtype, 21, 34, 16, 24, (3,), 4, 2)
    options = {"mask": rng.random((3, 4, 21, 34)) < 0.7, "causal": "lower_right"}
    expected, lse = transfuse.attention(q, k, v, return_lse=True, **options)
    swapped = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    result, lse_swapped = transfuse.attention(*swapped, layout="bshd", return_lse=True, **options)
    np.testing.assert_array_equal(result, expected.swapaxes(1, 2))
    np.testing.assert_array_equal(lse_swapped, lse)


def test_matrices_are_one_head(rng, dtype):
    q, k, v = (x[0, 0] for x in heads(rng, dtype, 9, 13, 8, 5))
    mask, bias = rng.random((9, 13)) < 0.6, normal(rng, (1, 13), dtype)
    result, lse = transfuse.attention(q, k, v, mask=mask, bias=bias, return_lse=True, kv_lengths=11, query_offset=4)
    assert result.shape == (9, 5)
    assert lse.shape == (9,)
    assert_accurate(result, q, k, v, mask=mask, bias=bias, kv_lengths=11, query_offset=4)


def test_leading_dimensions_broadcast(rng, dtype):
    q = normal(rng, (3, 1, 4, 7, 8), dtype)
    k = normal(rng, (5, 2, 9, 8), dtype)
    v = normal(rng, (1, 1, 2, 9, 6), dtype)
    lengths = rng.integers(0, 10, (3, 5))
    result = transfuse.attention(q, k, v, kv_lengths=lengths)
    assert result.shape == (3, 5, 4, 7, 6)
    assert_accurate(result, q, k, v, kv_lengths=lengths)
    repeated = np.broadcast_to(q, (3, 5, 4, 7, 8))
    np.testing.assert_array_equal(transfuse.attention(repeated, k, v, kv_lengths=lengths), result)


def broadcasts(shape):
    """Every shape that broadcasts to `shape`."""
    for first in range(len(shape) + 1):
        yield from itertools.product(*((1, size) for size in shape[first:]))


@pytest.mark.parametrize("form", ["bhsd", "bshd", "matrices"])
@pytest.mark.parametrize("kind", ["mask", "bias"])
def test_masks_and_biases_broadcast(rng, dtype, kind, form):
    q, k, v = heads(rng, dtype, 21, 34, 16, 9, q_heads=4, kv_heads=2)
    full, options = (2, 4, 21, 34), {}
    if form == "matrices":
        q, k, v, full = q[0, 0], k[0, 0], v[0, 0], (21, 34)
    elif form == "bshd":
        q, k, v, options = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), {"layout": "bshd"}
    for shape in broadcasts(full):
        value = np.asarray(rng.random(shape) < 0.6) if kind == "mask" else np.asarray(normal(rng, shape, dtype))
        expected = Expected(q, k, v, **{kind: value}, **options)
        for tier, layout in itertools.product(TIERS, ("c", "fortran", "step", "negative")):
            config = {"isa": tier}
            result = transfuse.attention(q, k, v, **{kind: place(value, layout)}, **options, config=config)
            expected.check(result, case=(shape, tier, layout))


def test_a_float32_bias_serves_float64(rng, tier):
    q, k, v = heads(rng, np.float64, 21, 34, 16)
    bias = normal(rng, (21, 34), np.float32)
    sinks, slopes = normal(rng, (4,), np.float32), normal(rng, (4,), np.float32)
    with transfuse.isa(tier):
        result = transfuse.attention(q, k, v, bias=bias, sinks=sinks, alibi_slopes=slopes)
    wide = {
        "bias": bias.astype(np.float64),
        "sinks": sinks.astype(np.float64),
        "alibi_slopes": slopes.astype(np.float64),
    }
    np.testing.assert_array_equal(result, transfuse.attention(q, k, v, config={"isa": tier}, **wide))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("poisoned", ["k", "v", "kv"])
def test_masked_keys_have_no_influence(rng, dtype, poison, poisoned):
    q, k, v = heads(rng, dtype, 40, 60, 16, 3)
    hidden, key, last = rng.random(60) < 0.3, np.arange(60), np.array([50, 41])
    for options, which in (
        ({"mask": ~hidden}, hidden),
        ({"bias": np.where(hidden, -np.inf, 0).astype(dtype)}, hidden),
        ({"kv_lengths": last}, key >= last[:, None, None]),
        ({"window": (10, 4), "query_offset": 20}, (key < 10) | (key > 20 + 39 + 4)),
        # Some queries see a poisoned key, others do not.
        ({"causal": "upper_left"}, key == 17),
        ({"causal": "lower_right", "window": (7, None)}, (key == 23) | (key == 55)),
    ):
        arrays = {"q": q, "k": k, "v": v}
        for name in poisoned:
            arrays[name] = np.where(which[..., None], dtype.type(poison), arrays[name])
        expected = Expected(**arrays, **options)
        assert np.isfinite(expected.result).any()
        assert np.isfinite(expected.result).all() == ("causal" not in options)
        for tier, block in itertools.product(TIERS, (1, 3, 256)):
            config = {"isa": tier, "block_kv": block}
            result, lse = transfuse.attention(**arrays, **options, config=config, return_lse=True)
            expected.check(result, lse, (options.keys(), config))


def test_nan_in_a_key_that_is_seen_gives_nan(rng, dtype, tier):
    q, k, v = heads(rng, dtype, 20, 30, 16)
    for spoilt in ("q", "k", "v"):
        arrays = {"q": q.copy(), "k": k.copy(), "v": v.copy()}
        arrays[spoilt][0, 1, 3, 2] = np.nan
        result = transfuse.attention(**arrays, config={"isa": tier})
        affected = np.isnan(result)
        expected = np.zeros_like(affected)
        expected[(0, 1, 3) if spoilt == "q" else (0, 1)] = True
        if spoilt == "v":
            expected[...] = False
            expected[0, 1, :, 2] = True
        np.testing.assert_array_equal(affected, expected)


def test_queries_that_see_nothing_get_zeros(rng, dtype, tier):
    q, k, v = heads(rng, dtype, 8, 12, 16)
    mask = np.ones((8, 12), bool)
    mask[[2, 5]] = False
    sinks = normal(rng, (4,), dtype)
    with transfuse.isa(tier):
        result, lse = transfuse.attention(q, k, v, mask=mask, return_lse=True)
        assert not result[:, :, [2, 5]].any()
        assert np.isneginf(lse[:, :, [2, 5]]).all()
        assert np.isfinite(np.delete(lse, [2, 5], axis=2)).all()
        result, lse = transfuse.attention(q, k, v, mask=mask, sinks=sinks, return_lse=True)
        assert not result[:, :, [2, 5]].any()
        np.testing.assert_allclose(lse[:, :, 2], np.broadcast_to(sinks, (2, 4)), rtol=1e-6)
        for empty in ({"kv_lengths": [0, 0]}, {"window": (0, 0), "query_offset": 100}):
            assert not transfuse.attention(q, k, v, **empty).any()


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite(rng, dtype, tier, size):
    q, k, v = heads(rng, dtype, 20, 300, 16)
    q = (q * np.sqrt(size)).astype(dtype)
    k = (k * np.sqrt(size)).astype(dtype)
    result, lse = transfuse.attention(q, k, v, return_lse=True, config={"isa": tier})
    assert np.isfinite(result).all()
    assert np.isfinite(lse).all()
    if size == 1e4:
        assert_accurate(result, q, k, v)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_of_either_sign(dtype, size):
    # Equal logits far from zero are a mean; one that is larger by as much takes all.
    q = np.full((3, 1), size, dtype)
    k, v = np.ones((50, 1), dtype), np.arange(50, dtype=dtype)[:, np.newaxis]
    result, lse = transfuse.attention(q, k, v, scale=1.0, return_lse=True, config={"block_kv": 7})
    np.testing.assert_allclose(result, 24.5, rtol=1e-5)
    np.testing.assert_allclose(lse, size + np.log(50), rtol=1e-6)
    k[30] = -1 if size < 0 else 2
    result = transfuse.attention(q, k, v, scale=1.0, config={"block_kv": 7})
    np.testing.assert_array_equal(result, 30)


@pytest.mark.parametrize("hidden", [range(20), range(10), [15, 19]], ids=str)
def test_the_least_number_as_a_bias(rng, dtype, tier, hidden):
    # What many models add where they mean -inf. It is no mask: where there is nothing else, all keys count the same.
    q, k, v = heads(rng, dtype, 7, 20, 16)
    bias = np.zeros(20, dtype)
    bias[hidden] = np.finfo(dtype).min
    result = transfuse.attention(q, k, v, bias=bias, config={"isa": tier, "block_kv": 5})
    if len(hidden) == 20:
        assert_accurate(result, 0 * q, k, v)
    else:
        assert_accurate(result, q, k, v, mask=bias == 0)


def test_a_scale_next_to_nothing(rng, tier):
    q, k, v = heads(rng, np.float32, 7, 20, 16)
    result, lse = transfuse.attention(q, k, v, scale=1e-46, return_lse=True, config={"isa": tier})
    Expected(q, k, v, scale=1e-46).check(result, lse)


def test_nan_as_a_sink(rng, dtype, tier):
    q, k, v = heads(rng, dtype, 7, 20, 16)
    sinks = np.array([np.nan, 0, 1, -np.inf], dtype)
    result, lse = transfuse.attention(q, k, v, sinks=sinks, return_lse=True, config={"isa": tier})
    Expected(q, k, v, sinks=sinks).check(result, lse)


@pytest.mark.parametrize("case", ["long block with a window", "NaN that some queries see", "NaN that some tiles meet"])
def test_neither_threads_nor_block_q_change_a_bit_of_rare_results(rng, dtype, tier, case):
    q, k, v = heads(rng, dtype, 700, 700, 16, leading=(), q_heads=2, kv_heads=2)
    options = {"causal": True}
    if case == "long block with a window":
        options = {"window": (300, 20)}
    else:
        v[:, 5 if case == "NaN that some queries see" else 680, 3] = np.nan

    def run(num_threads, **config):
        config |= {"isa": tier, "block_kv": 600}
        return transfuse.attention(q, k, v, num_threads=num_threads, config=config, **options).tobytes()

    alone = run(1)
    assert all(run(threads) == alone for threads in (2, 3, 5))
    assert all(run(1, block_q=block) == alone for block in (1, 5, 14, 37))


@pytest.mark.parametrize(
    "sizes",
    [(0, 4, 5, 8, 8), (2, 0, 5, 8, 8), (2, 4, 0, 8, 8), (2, 4, 5, 0, 8), (2, 4, 5, 8, 0), (2, 4, 0, 8, 0)],
    ids=str,
)
def test_empty(dtype, tier, sizes):
    batch, queries, keys, depth, value_depth = sizes
    q = np.ones((batch, 2, queries, depth), dtype)
    k = np.ones((batch, 2, keys, depth), dtype)
    v = np.ones((batch, 2, keys, value_depth), dtype)
    result, lse = transfuse.attention(q, k, v, scale=1.0, return_lse=True, config={"isa": tier})
    assert result.shape == (batch, 2, queries, value_depth)
    assert lse.shape == (batch, 2, queries)
    np.testing.assert_array_equal(result, np.full_like(result, 1 if keys else 0))
    if keys and depth == 0:
        np.testing.assert_allclose(lse, np.log(keys), rtol=1e-6)


def test_no_sequences(dtype):
    empty = np.ones((0, 2, 5, 8), dtype)
    for lengths in ([], np.empty(0, np.int32)):
        assert transfuse.attention(empty, empty, empty, kv_lengths=lengths).shape == (0, 2, 5, 8)
    # As good an alignment as any other.
    assert transfuse.attention(empty, empty[:, :, :3], empty[:, :, :3], causal=True, query_offset=[]).shape[0] == 0


def test_no_heads(dtype):
    empty = np.ones((2, 0, 5, 8), dtype)
    assert transfuse.attention(empty, empty, empty).shape == (2, 0, 5, 8)


def test_repeated_elements(rng, dtype):
    q, k, v = heads(rng, dtype, 20, 30, 16, leading=(), q_heads=2, kv_heads=2)
    one = np.broadcast_to(q[:, :1], q.shape)
    same = transfuse.attention(one, k, v)
    np.testing.assert_array_equal(same, np.broadcast_to(same[:, :1], same.shape))
    mask = np.broadcast_to(np.True_, (2, 20, 30))
    np.testing.assert_array_equal(transfuse.attention(q, k, v, mask=mask), transfuse.attention(q, k, v))
    bias = np.broadcast_to(dtype.type(0), (2, 20, 30))
    assert_accurate(transfuse.attention(q, k, v, bias=bias), q, k, v)


@pytest.mark.parametrize("keys", [512, 131072])
@pytest.mark.parametrize("score", [0.0375, 0.0875, 0.1375])
def test_sums_of_many_equal_terms(dtype, tier, keys, score):
    # All scores are alike but one: roundings of a running sum would all go the same way.
    k = np.zeros((keys, 64), dtype)
    k[0] = score
    q, v = np.ones((3, 64), dtype), np.ones((keys, 1), dtype)
    result, lse = transfuse.attention(q, k, v, return_lse=True, config={"isa": tier})
    exact = np.log(keys - 1 + np.exp(8 * np.float64(dtype.type(score))))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(result, 1, rtol=2 * (8 + np.sqrt(keys) / 4) * eps)
    np.testing.assert_allclose(lse, exact, rtol=2 * (8 + np.sqrt(keys) / 4) * eps)


def test_infinite_scores_beside_hidden_poison(dtype, tier):
    # The first key is seen and has probability 0; the last is hidden.
    q = np.ones((3, 1), dtype)
    k = np.array([[-np.inf], [0], [0]], dtype)
    v = np.array([[1], [2], [np.nan]], dtype)
    mask = np.array([True, True, False])
    for changes in (
        {},
        {"k": np.array([[-np.inf], [0], [np.nan]], dtype)},
        {"v": np.array([[1], [2], [np.inf]], dtype)},
    ):
        operands = {"k": k, "v": v} | changes
        result, lse = transfuse.attention(q, **operands, mask=mask, return_lse=True, config={"isa": tier})
        np.testing.assert_array_equal(result, 2)
        np.testing.assert_array_equal(lse, 0)
    v = np.array([[np.nan], [2], [3]], dtype)
    for options in ({}, {"mask": np.ones(3, bool)}, {"causal": True}):
        assert np.isnan(transfuse.attention(q, k, v, config={"isa": tier}, **options)).all()


def test_a_masking_bias_and_endless_slopes(dtype, tier):
    ones = np.ones((1, 3, 1), dtype)
    bias = np.array([0, 0, -np.inf], dtype)
    slopes = np.array([-np.finfo(dtype).max], dtype)
    options = {"bias": bias, "alibi_slopes": slopes, "query_offset": 0, "config": {"isa": tier}}
    result = transfuse.attention(ones[:, :2], ones, ones, **options)
    np.testing.assert_array_equal(result, 1)


def test_a_softcap_next_to_nothing(dtype, tier):
    q, v = np.zeros((2, 4), dtype), np.array([[1], [3]], dtype)
    result = transfuse.attention(q, q, v, softcap=np.finfo(dtype).tiny, config={"isa": tier})
    np.testing.assert_allclose(result, 2)


def test_positions_past_all_keys_and_no_values(dtype, tier):
    q, k, v = (np.ones(shape, dtype) for shape in [(1, 8), (290, 8), (290, 0)])
    options = {"window": (0, 0), "query_offset": 350, "return_lse": True, "config": {"isa": tier}}
    result, lse = transfuse.attention(q, k, v, **options)
    assert result.shape == (1, 0)
    assert lse == -np.inf
    result, lse = transfuse.attention(q, k, k, kv_lengths=100, **options | {"query_offset": 200})
    np.testing.assert_array_equal(result, 0)
