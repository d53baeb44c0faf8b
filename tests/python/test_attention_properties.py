"""attention on random shapes, layouts, strides, dtypes and options; and what must hold without any reference."""

import numpy as np
from attention_oracle import Expected
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Placed, place
from oracle import normal

import transfuse

SETTINGS = settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

dtypes = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
sizes = st.one_of(st.integers(0, 5), st.integers(0, 40), st.sampled_from([63, 64, 65, 130]))
scales = st.floats(-2, 2, width=32, allow_subnormal=False)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)
blocks = st.one_of(st.integers(1, 5), st.integers(1, 200))
configs = st.fixed_dictionaries(
    {},
    optional={
        "block_q": blocks,
        "block_kv": blocks,
        "threads": st.integers(1, 4),
        "isa": st.sampled_from(transfuse.info()["isa"]["available"]),
    },
)


def maybe(strategy):
    return st.none() | strategy


@st.composite
def shrunk(draw, shape):
    """A shape that broadcasts to `shape`."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.integers(0, 2)) == 0 else size for size in kept)


@st.composite
def placed(draw, values):
    """`values` in any layout, perhaps with a stride of zero."""
    array = place(values, draw(layouts))
    axis = draw(st.integers(-1 - array.ndim, array.ndim - 1))
    if axis >= 0 and array.shape[axis] > 0:
        array = np.broadcast_to(array.take([0], axis), array.shape)
    return array


@st.composite
def calls(draw, queries=sizes, keys=sizes, depths=sizes, leading=None):
    """The arguments of a call: q, k, v and some of the options."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    queries, keys, depth, value_depth = draw(queries), draw(keys), draw(depths), draw(depths)
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 4))
    leading = tuple(draw(st.lists(st.integers(0, 3), max_size=2))) if leading is None else leading
    form = draw(st.sampled_from(["bhsd", "bhsd", "bshd", "matrices"]))
    if form == "matrices":
        leading, heads, kv_heads = (), 1, 1
    arrays = {}
    for name, matrices, rows, columns in (
        ("q", heads, queries, depth),
        ("k", kv_heads, keys, depth),
        ("v", kv_heads, keys, value_depth),
    ):
        own = leading if name == "q" else draw(shrunk(leading))
        shape = {"bhsd": (*own, matrices, rows, columns), "bshd": (*own, rows, matrices, columns)}
        arrays[name] = draw(placed(normal(rng, shape.get(form, (rows, columns)), dtype)))

    def lengths(lowest, highest):
        return rng.integers(lowest, highest + 1, leading) if leading else int(rng.integers(lowest, highest + 1))

    options = {"layout": form} if form == "bshd" else {}
    scores = (queries, keys) if form == "matrices" else (*leading, heads, queries, keys)
    if draw(st.booleans()):
        options["mask"] = draw(placed(rng.random(draw(shrunk(scores))) < draw(st.sampled_from([0.1, 0.7]))))
    if draw(st.booleans()):
        bias = normal(rng, draw(shrunk(scores)), draw(st.sampled_from([np.dtype(np.float32), dtype])))
        options["bias"] = draw(placed(np.where(rng.random(bias.shape) < 0.2, bias.dtype.type(-np.inf), bias)))
    for name in ("alibi_slopes", "sinks"):
        if draw(st.booleans()):
            options[name] = draw(placed(normal(rng, heads, dtype)))
    if draw(st.booleans()):
        options["kv_lengths"] = lengths(0, keys)
    if draw(st.booleans()):
        options["query_offset"] = lengths(-3, keys) if draw(st.booleans()) else int(rng.integers(-3, keys + 1))
    options["window"] = draw(maybe(st.tuples(*[maybe(st.integers(0, keys + 2))] * 2)))
    options["softcap"] = draw(maybe(st.floats(0.1, 50)))
    options["scale"] = draw(scales if depth == 0 else maybe(scales))
    options["causal"] = draw(st.sampled_from([False, True, "upper_left", "lower_right"]))
    if options["causal"] is True and queries != keys and "query_offset" not in options:
        options["causal"] = "lower_right"
    return arrays | options


@SETTINGS
@given(calls(), layouts, configs)
def test_accurate_in_any_out(call, layout, config):
    expected = Expected(**call)
    out = Placed(expected.result.shape, call["q"].dtype, layout)
    result, lse = transfuse.attention(**call, out=out.array, return_lse=True, config=config)
    assert result is out.array
    expected.check(result, lse)
    assert out.only_elements_written()


@SETTINGS
@given(calls(), configs, seeds)
def test_poison(call, config, seed):
    # NaN or infinity in some keys or in some values: reaches the queries that see them, and no other.
    rng = np.random.default_rng(seed)
    name = rng.choice(["k", "v"])
    hit = rng.random(call[name].shape) < 2 / (1 + call[name].size)
    call[name] = np.where(hit, call["q"].dtype.type(rng.choice([np.nan, np.inf, -np.inf])), call[name])
    Expected(**call).check(*transfuse.attention(**call, return_lse=True, config=config))


several = {
    "queries": st.integers(40, 90),
    "keys": st.integers(60, 200),
    "depths": st.integers(20, 60),
    "leading": (2, 3),
}


@settings(SETTINGS, max_examples=40)
@given(calls(**several), blocks, blocks, st.lists(st.integers(1, 200), min_size=3, max_size=3))
def test_the_same_bits_whatever_the_threads_and_block_q(call, block_q, block_kv, others):
    def run(num_threads, block_q):
        config = {"block_q": block_q, "block_kv": block_kv}
        result, lse = transfuse.attention(**call, num_threads=num_threads, config=config, return_lse=True)
        return result.tobytes() + lse.tobytes()

    one = run(1, block_q)
    for num_threads, other in zip((2, 3, 5), others, strict=True):
        assert run(num_threads, block_q) == one
        assert run(1, other) == one


# Without a reference.


@st.composite
def plain(draw):
    """q, k, v, a bias with some -inf, a config, the generator, and how far results may be apart."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    queries, keys, depth = draw(st.integers(1, 40)), draw(st.integers(1, 70)), draw(st.integers(1, 40))
    q, k, v = (normal(rng, (2, n, rows, depth), dtype) for n, rows in ((4, queries), (2, keys), (2, keys)))
    bias = normal(rng, (2, 4, queries, keys), dtype)
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    return q, k, v, bias, draw(configs), rng, 100 * np.finfo(dtype).eps


def run(q, k, v, bias, config, **options):
    return transfuse.attention(q, k, v, bias=bias, config=config, return_lse=True, **options)


def assert_equal(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@SETTINGS
@given(plain())
def test_the_order_of_keys_does_not_matter(case):
    q, k, v, bias, config, rng, tolerance = case
    order = rng.permutation(k.shape[2])
    shuffled = run(q, k[:, :, order], v[:, :, order], bias[..., order], config)
    assert_equal(shuffled, run(q, k, v, bias, config), tolerance)


@SETTINGS
@given(plain(), st.integers(1, 40), st.sampled_from([0.0, 1e30, np.nan, np.inf]))
def test_masked_keys_may_be_appended(case, extra, value):
    q, k, v, bias, config, _, tolerance = case
    keys = k.shape[2]
    expected = run(q, k, v, bias, config)
    k, v = (np.pad(x, [(0, 0), (0, 0), (0, extra), (0, 0)], constant_values=value) for x in (k, v))
    bias = np.pad(bias, [(0, 0), (0, 0), (0, 0), (0, extra)])
    assert_equal(run(q, k, v, bias, config, mask=np.arange(keys + extra) < keys), expected, tolerance)
    assert_equal(run(q, k, v, bias, config, kv_lengths=[keys, keys]), expected, tolerance)
    bias[..., keys:] = -np.inf
    assert_equal(run(q, k, v, bias, config), expected, tolerance)


@SETTINGS
@given(plain(), st.sampled_from([1.0, -30.0, 1e4, -1e4]))
def test_a_constant_added_to_a_query_s_scores_changes_only_lse(case, constant):
    q, k, v, bias, config, rng, tolerance = case
    shift = constant * rng.random((2, 4, q.shape[2], 1)).astype(q.dtype)
    result, lse = run(q, k, v, bias, config)
    shifted, shifted_lse = run(q, k, v, bias + shift, config)
    tolerance *= abs(constant)
    assert_equal((shifted, shifted_lse), (result, lse + shift[..., 0]), tolerance)


@SETTINGS
@given(plain())
def test_results_are_means_of_values(case):
    q, k, v, bias, config, _, tolerance = case
    result, lse = run(q, k, v, bias, config)
    values = v.repeat(2, axis=1)
    empty = np.isneginf(lse)
    np.testing.assert_array_equal(empty, np.isneginf(bias).all(axis=-1))
    low, high = (np.where(empty[..., None], 0, f(values, axis=2, keepdims=True)) for f in (np.min, np.max))
    assert (result >= low - tolerance).all()
    assert (result <= high + tolerance).all()
    ones = run(q, k, np.ones_like(v), bias, config)[0]
    assert_equal([ones], [np.broadcast_to(~empty[..., None], ones.shape)], tolerance)


@SETTINGS
@given(plain(), st.floats(0, 1))
def test_halves_merge_by_their_lse(case, part):
    q, k, v, bias, config, _, tolerance = case
    middle = int(part * k.shape[2])
    expected, expected_lse = run(q, k, v, bias, config)
    assume(np.isfinite(expected_lse).any())
    first, second = (
        run(q, k[:, :, half], v[:, :, half], bias[..., half], config) for half in (slice(middle), slice(middle, None))
    )
    lse = np.logaddexp(first[1], second[1])
    weights = [np.exp(x - np.where(np.isneginf(lse), 0, lse))[..., None] for x in (first[1], second[1])]
    merged = first[0] * weights[0] + second[0] * weights[1]
    assert_equal((merged, lse), (expected, expected_lse), tolerance)
