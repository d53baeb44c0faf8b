"""attention of float16 and bfloat16 against the formula, in every tier: stored in 16 bits, computed in float32."""

import itertools

import numpy as np
import pytest
from attention_cases import CHOICES, DEPTHS, LENGTHS, all_options, check_every_tier, heads
from attention_oracle import HALVES, Expected, assert_accurate
from layouts import LAYOUTS, Placed, place
from ml_dtypes import bfloat16, finfo
from oracle import normal
from producers import InterfaceProducer

import transfuse

FLOATS = [np.dtype(x) for x in (np.float32, np.float64, np.float16, bfloat16)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("lengths", [*LENGTHS, (2, 700), (300, 520)], ids=str)
def test_depths_and_lengths(rng, half, depth, lengths):
    number = DEPTHS.index(depth)
    q_heads, kv_heads = ((1, 1), (2, 1), (4, 2))[number % 3]
    q, k, v = heads(rng, half, *lengths, depth, leading=(), q_heads=q_heads, kv_heads=kv_heads)
    check_every_tier(q, k, v, **CHOICES[(2 * number + lengths[0]) % len(CHOICES)])


def test_every_pair_of_options(rng, half):
    batch, queries, keys = 2, 9, 37
    q, k, v = heads(rng, half, queries, keys, 16, 20, (batch,), 6, 2)
    choices = all_options(rng, half, batch, 6, queries, keys)
    for number, (first, second) in enumerate(itertools.combinations(choices, 2)):
        x, y = (choices[name][1:] for name in (first, second))
        check_every_tier(q, k, v, **{first: x[number % len(x)], second: y[number % len(y)]})


@pytest.mark.parametrize("queries", [1, 11])
@pytest.mark.parametrize("option", ["bias", "alibi_slopes", "sinks"])
def test_options_in_float32(rng, half, tier, option, queries):
    q, k, v = heads(rng, half, queries, 37, 16)
    wide = normal(rng, (4, queries, 37) if option == "bias" else 4, np.float32)
    result = transfuse.attention(q, k, v, config={"isa": tier}, **{option: wide})
    assert_accurate(result, q, k, v, **{option: wide})
    narrow = wide.astype(half)
    same = [transfuse.attention(q, k, v, config={"isa": tier}, **{option: x}) for x in (narrow, narrow.astype("f"))]
    np.testing.assert_array_equal(*same)
    assert (same[0] != result).any()
    other = next(x for x in HALVES if x != half)
    for wrong in (other, np.float64):
        with pytest.raises(TypeError, match=f"^attention: {option}: expected the dtype of q, {half}, or float32, got "):
            transfuse.attention(q, k, v, **{option: wide.astype(wrong)})


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(FLOATS, 2)), ids=str)
def test_mixed_dtypes_are_refused(first, second):
    arrays = {name: np.ones((5, 8), first) for name in "qkv"}
    for name in "kv":
        with pytest.raises(TypeError, match=f"^attention: {name}: expected the dtype of q, {first}, got {second}"):
            transfuse.attention(**(arrays | {name: arrays[name].astype(second)}))
    with pytest.raises(ValueError, match=f"^attention: out: expected dtype {first}, got {second}"):
        transfuse.attention(**arrays, out=np.ones((5, 8), second))


@pytest.mark.parametrize("queries", [2, 21])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(rng, half, tier, layout, queries):
    q, k, v = heads(rng, half, queries, 34, 18, 23, (2,), 4, 2)
    out = Placed((2, 4, queries, 23), half, layout)
    placed = [place(x, layout) for x in (q, k, v)]
    result, lse = transfuse.attention(*placed, out=out.array, config={"isa": tier}, return_lse=True)
    assert result is out.array
    Expected(q, k, v).check(result, lse)
    assert out.only_elements_written()


def test_bshd(rng, half):
    q, k, v = (x.swapaxes(1, 2) for x in heads(rng, half, 21, 34, 16, 24, (3,), 4, 2))
    result = transfuse.attention(q, k, v, layout="bshd", causal="lower_right")
    assert_accurate(result, q, k, v, layout="bshd", causal="lower_right")


@pytest.mark.parametrize("copied", [True, False])
def test_tensors(rng, half, copied):
    torch = pytest.importorskip("torch")
    arrays = heads(rng, half, 9, 13, 8, 6, (2,), 4, 2)
    tensors = [torch.from_numpy(x.astype(np.float32)).to(getattr(torch, half.name)) for x in arrays]
    if not copied:
        tensors = [torch.stack([x, x], dim=-1)[..., 0] for x in tensors]
    result = transfuse.attention(*tensors, bias=torch.zeros(13, dtype=tensors[0].dtype))
    assert type(result) is np.ndarray
    assert result.dtype == half
    assert_accurate(result, *arrays)


def test_protocols(rng):
    arrays = heads(rng, np.float16, 9, 13, 8)
    result = transfuse.attention(*[InterfaceProducer(x) for x in arrays])
    np.testing.assert_array_equal(result, transfuse.attention(*arrays))
    with pytest.raises(TypeError, match=r"^attention: q: .*V2"):  # no protocol of NumPy's can say bfloat16
        transfuse.attention(*[InterfaceProducer(x.astype(bfloat16)) for x in arrays])


def every_pattern(half):
    """All numbers of 16 bits, (256, 256)."""
    return np.arange(1 << 16, dtype=np.uint16).view(half).reshape(256, 256)


@pytest.mark.parametrize("layout", ["c", "fortran", "step", "misaligned"])
@pytest.mark.parametrize("queries", [1, 40])
def test_every_number_passes_through(half, tier, queries, layout):
    # A row of values for each head with a single key: the softmax of one key is 1. Both ways in, both ways out.
    v = place(every_pattern(half)[:, np.newaxis], layout)
    q, k = np.ones((256, queries, 8), half), np.ones((256, 1, 8), half)
    out = Placed((256, queries, 256), half, layout).array
    transfuse.attention(q, k, v, out=out, config={"isa": tier})
    np.testing.assert_array_equal(out.astype(np.float32), np.broadcast_to(v, out.shape).astype(np.float32))


@pytest.mark.parametrize("queries", [1, 40])
def test_results_are_rounded_to_the_nearest_and_ties_to_even(half, tier, queries):
    # The mean of two equal or neighbouring numbers: exact in float32, and then a tie.
    numbers = every_pattern(half).ravel()
    numbers = numbers[np.isfinite(numbers.astype(np.float32))]
    pairs = np.stack([numbers[:-1], numbers[1:]])
    largest = float(finfo(half).max) / 2
    pairs = pairs[:, np.abs(pairs.astype(np.float32)).max(axis=0) <= largest]
    mean = pairs.astype(np.float32).sum(axis=0) / 2
    mean = mean[: mean.size // 8 * 8]
    v = pairs[:, : mean.size].reshape(2, 8, -1).swapaxes(0, 1)
    result = transfuse.attention(np.zeros((8, queries, 4), half), np.ones((8, 2, 4), half), v, config={"isa": tier})
    expected = mean.astype(half).reshape(8, 1, -1)
    np.testing.assert_array_equal(result.astype(np.float32), np.broadcast_to(expected, result.shape).astype(np.float32))


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("spoilt", ["q", "k", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values(rng, half, tier, spoilt, value, queries):
    arrays = dict(zip("qkv", heads(rng, half, queries, 30, 16), strict=True))
    arrays[spoilt][0, 1, 0, 2] = value
    mask = np.ones((queries, 30), bool)
    for options in ({}, {"mask": mask}):
        result, lse = transfuse.attention(**arrays, **options, config={"isa": tier}, return_lse=True)
        Expected(**arrays, **options).check(result, lse)
    mask[:, 0] = False
    result, lse = transfuse.attention(**arrays, mask=mask, config={"isa": tier}, return_lse=True)
    Expected(**arrays, mask=mask).check(result, lse)
    assert spoilt == "q" or np.isfinite(result.astype(np.float32)).all()


def test_subnormal_operands_count(tier):
    least = np.float16(2**-24)
    q, k = np.full((1, 4), 1024, np.float16), np.array([[0] * 4, [1023 * least] * 4], np.float16)
    v = np.array([[0], [least]], np.float16)
    result, lse = transfuse.attention(q, k, v, scale=8.0, config={"isa": tier}, return_lse=True)
    Expected(q, k, v, scale=8.0).check(result, lse)
    assert result[0, 0] == least  # more than half of it
    assert lse > np.log(2) + 0.5


def test_large_numbers_do_not_overflow_on_the_way(half, tier):
    # Sums and scores beyond the range of float16; results within it.
    q = np.full((3, 64), 200, half)
    k, v = np.full((50, 64), 200, half), np.full((50, 8), 60000, half)
    result, lse = transfuse.attention(q, k, v, config={"isa": tier}, return_lse=True)
    np.testing.assert_array_equal(result, np.broadcast_to(v[:1], (3, 8)))
    np.testing.assert_allclose(lse, 320000 + np.log(50), rtol=1e-6)


@pytest.mark.parametrize("queries", [1, 5, 30])
def test_the_result_is_that_of_float32_rounded(rng, half, tier, queries):
    # What 16 bits change is where numbers lie, not how they are computed with.
    q, k, v = heads(rng, half, queries, 600, 40, 24, q_heads=4, kv_heads=2)
    wide = [x.astype(np.float32) for x in (q, k, v)]
    expected, expected_lse = transfuse.attention(*wide, config={"isa": tier}, return_lse=True)
    result, lse = transfuse.attention(q, k, v, config={"isa": tier}, return_lse=True)
    np.testing.assert_array_equal(lse, expected_lse)
    np.testing.assert_array_equal(result, expected.astype(half))
    assert lse.dtype == np.float32
