"""Attention in the benchmark: cases, costs, references, and that every form of every library is right."""

import numpy as np
import pytest
from attention_oracle import attention

from transfuse import bench
from transfuse.bench import libraries, operation
from transfuse.bench.attention import OPERATION, OPTIONS, Attention, parse
from transfuse.bench.attention_case import dense_bias, folded_shape
from transfuse.bench.dtypes import HALF, PLAIN

INSTALLED = [name for name in OPERATION.forms if operation.find(libraries.PATHS[name])().missing() is None]


@pytest.mark.parametrize(
    ("text", "case", "label"),
    [
        ("1x12x512x64", Attention(1, 12, 512, 64), "1×12×512×64"),
        ("2×3×4×5×6", Attention(2, 3, 4, 6, keys=5), "2×3×4×5×6"),
        ("1x1x9x8:causal", Attention(1, 1, 9, 8, option="causal"), "1×1×9×8, causal"),
        ("1x32/8x1x9x8", Attention(1, 32, 1, 8, keys=9, kv_heads=8), "1×32(8)×1×9×8"),
        ("1x1x9x8:window3", Attention(1, 1, 9, 8, option="window", window=3), "1×1×9×8, window 3"),
    ],
)
def test_parse(text, case, label):
    assert parse(text) == case
    assert case.label == label


@pytest.mark.parametrize(
    "text", ["", "1x2x3", "0x1x2x3", "1x2x3x4x5x6", "1x1x9x8:window", "1x1x9x8:causal3", "1x1x9x8:no", "1x4/0x9x8"]
)
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="sizes: expected BxHxLxD"):
        parse(text)


def test_heads_that_share_none():
    with pytest.raises(ValueError, match="sizes: expected a multiple of 3 heads"):
        parse("1x4/3x9x8")


@pytest.mark.parametrize("option", ["causal", "window16", "ragged"])
def test_queries_that_would_see_nothing(option):
    with pytest.raises(ValueError, match="sizes: expected at least as many keys as queries"):
        parse(f"1x1x128x64x64:{option}")


@pytest.mark.parametrize("option", OPTIONS)
def test_flops_count_the_pairs_that_are_seen(option):
    case = Attention(3, 2, 10, 8, option=option, window=4 if option == "window" else 0)
    pairs = sum(int(case.seen(sequence).sum()) for sequence in range(3))
    assert case.scores == 2 * pairs
    assert case.flops == 4 * 2 * pairs * 8


def test_ragged_lengths_are_those_of_caches():
    lengths = Attention(8, 1, 1, 8, keys=8192, option="ragged").lengths
    assert lengths[0] == 100
    assert lengths[-1] == 8192
    np.testing.assert_allclose(np.divide(lengths[1:], lengths[:-1]), 81.92 ** (1 / 7), rtol=0.01)


@pytest.mark.parametrize(("dtype", "stored", "rest"), [("float32", 4, 4), ("bfloat16", 2, 2), ("int8", 1, 4)])
def test_traffic_counts_what_is_stored(dtype, stored, rest):
    case = Attention(2, 4, 3, 8, keys=10, kv_heads=2, option="ragged")
    q = 2 * 4 * 3 * 8 * rest
    assert case.traffic(dtype) == (q + 2 * 2 * (3 + 10) * 8 * stored, q)


def test_a_quantised_cache_stores_its_inputs_exactly(rng):
    made = OPERATION.inputs(Attention(2, 4, 1, 8, keys=50), "int8", rng)
    for x in (made["k"], made["v"]):
        largest = np.abs(x).max(axis=-1, keepdims=True)
        steps = x / (largest / np.float32(127))
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert len(np.unique(largest)) == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_reference(option, rng):
    case = Attention(2, 4, 9, 8, keys=13, kv_heads=2, option=option, window=4 if option == "window" else 0)
    inputs = {name: x.astype(np.float64) for name, x in OPERATION.inputs(case, "float32", rng).items()}
    options = {
        "causal": {"causal": "lower_right"},
        "window": {"causal": "lower_right", "window": (3, 0)},
        "ragged": {"causal": "lower_right", "kv_lengths": np.array(case.lengths)},
        "padding": {"kv_lengths": np.array(case.lengths)},
        "bias": {"bias": inputs.get("bias")},
        "alibi": {"alibi_slopes": 2.0 ** -np.array([2.0, 4.0, 6.0, 8.0])},
        "softcap": {"softcap": 50.0},
    }
    expected, _, _ = attention(inputs["q"], inputs["k"], inputs["v"], **options.get(option, {}))
    result, tolerance = OPERATION.reference(case, inputs, "float32")
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert 0 < tolerance < 1e-4


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("option", ["causal", "window", "padding", "ragged", "alibi"])
def test_a_matrix_instead_of_an_option(option, fold, rng):
    case = Attention(2, 4, 9, 8, keys=13, kv_heads=2, option=option, window=4 if option == "window" else 0)
    made = {name: x.astype(np.float64) for name, x in OPERATION.inputs(case, "float32", rng).items()}
    expected, _ = OPERATION.reference(case, made, "float32")
    q, k, v = made["q"], made["k"], made["v"]
    if fold:
        q = q.reshape(folded_shape(case))
    else:
        k, v = (np.repeat(x, case.group, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8) + dense_bias(case, "float64", fold=fold)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result = weights @ v / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, atol=1e-12)


CASES = [Attention(2, 4, 33, 16, option=option, window=5 if option == "window" else 0) for option in OPTIONS]
CASES += [Attention(2, 4, 33, 16, kv_heads=2, option=option) for option in ("", "bias", "alibi", "causal")]
CASES += [Attention(1, 2, 9, 8, keys=21, option="causal")]
CACHES = [
    Attention(2, 4, 1, 16, keys=133, kv_heads=2),
    Attention(2, 4, 1, 16, keys=133),
    Attention(1, 4, 3, 16, keys=133, kv_heads=2, option="causal"),
    Attention(3, 4, 1, 16, keys=133, kv_heads=2, option="ragged"),
    Attention(3, 4, 3, 16, keys=133, kv_heads=2, option="ragged"),
]
COVERED = {"transfuse": OPERATION.dtypes, "numpy": PLAIN, "torch": (*PLAIN, *HALF), "jax": (*PLAIN, "bfloat16")}
COVERED |= {"numba": PLAIN, "cython": PLAIN, "onnxruntime": ("float32", "float16", "int8")}


def check(cases, dtypes):
    """Measure a round of every form, which must be right."""
    settings = bench.Settings(seconds=0.001, rounds=1, repetitions=1)
    report = bench.run("attention", cases, dtypes=dtypes, threads=[1], settings=settings)
    assert set(report.absent) == set(OPERATION.forms) - set(INSTALLED)
    for line in report.lines:
        for entry in line.entries:
            if entry.library == "jax" and line.dtype == "float64":  # its softmax is float32
                continue
            assert entry.state in ("measured", "left"), (line.label, line.dtype, entry)
            assert entry.error <= line.tolerance, (line.label, line.dtype, entry)
    return report


def test_every_form_is_right():
    report = check(CASES, PLAIN)
    assert {entry.library for entry in report.lines[0].entries} == set(INSTALLED)


def test_every_form_on_a_cache_is_right():
    report = check(CACHES, OPERATION.dtypes)
    for line in report.lines:
        if line.sizes[0] == 1 or line.sizes[2] == 1:
            covered = {name for name, dtypes in COVERED.items() if line.dtype in dtypes}
            compiled = {"numba", "cython"} if "," in line.label else set()  # which have no mask but the causal one
            assert {entry.library for entry in line.entries} == (covered - compiled) & set(INSTALLED)


@pytest.mark.parametrize("library", INSTALLED)
def test_statements_differ(library):
    for case in [*CASES, *CACHES]:
        statements = [form.statement for form in OPERATION.forms[library](case)]
        assert len(set(statements)) == len(statements)


def test_suites_name_their_goals():
    assert set(OPERATION.suites) == {"default", "options", "full", "demo", "decode", "models"}
    for suite, goals in OPERATION.goals.items():
        assert {case for goal in goals for case in goal.cases} == set(OPERATION.suites[suite])
    for cases in OPERATION.suites.values():
        assert len({case.label for case in cases}) == len(cases), "lines are found by their labels"
