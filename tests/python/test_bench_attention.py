"""Attention in the benchmark: cases, costs, references, and that every form of every library is right."""

import numpy as np
import pytest
from attention_oracle import attention

from transfuse import bench
from transfuse.bench import libraries, operation
from transfuse.bench.attention import OPERATION, OPTIONS, Attention, parse

INSTALLED = [name for name in OPERATION.forms if operation.find(libraries.PATHS[name])().missing() is None]


@pytest.mark.parametrize(
    ("text", "case", "label"),
    [
        ("1x12x512x64", Attention(1, 12, 512, 64), "1×12×512×64"),
        ("2×3×4×5×6", Attention(2, 3, 4, 6, keys=5), "2×3×4×5×6"),
        ("1x1x9x8:causal", Attention(1, 1, 9, 8, option="causal"), "1×1×9×8, causal"),
        ("1x1x9x8:window3", Attention(1, 1, 9, 8, option="window", window=3), "1×1×9×8, window 3"),
    ],
)
def test_parse(text, case, label):
    assert parse(text) == case
    assert case.label == label


@pytest.mark.parametrize(
    "text", ["", "1x2x3", "0x1x2x3", "1x2x3x4x5x6", "1x1x9x8:window", "1x1x9x8:causal3", "1x1x9x8:no"]
)
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="sizes: expected BxHxLxD"):
        parse(text)


@pytest.mark.parametrize("option", ["causal", "window16"])
def test_queries_that_would_see_nothing(option):
    with pytest.raises(ValueError, match="sizes: expected at least as many keys as queries"):
        parse(f"1x1x128x64x64:{option}")


@pytest.mark.parametrize("option", OPTIONS)
def test_flops_count_the_pairs_that_are_seen(option):
    case = Attention(3, 2, 10, 8, option=option, window=4 if option == "window" else 0)
    pairs = sum(int((case.seen & (np.arange(10) < length)).sum()) for length in case.lengths)
    assert case.scores == 2 * pairs
    assert case.flops == 4 * 2 * pairs * 8


@pytest.mark.parametrize("option", OPTIONS)
def test_reference(option, rng):
    case = Attention(2, 4, 9, 8, keys=13, kv_heads=2, option=option, window=4 if option == "window" else 0)
    inputs = {name: x.astype(np.float64) for name, x in OPERATION.inputs(case, np.dtype("float32"), rng).items()}
    options = {
        "causal": {"causal": "lower_right"},
        "window": {"causal": "lower_right", "window": (3, 0)},
        "padding": {"kv_lengths": np.array(case.lengths)},
        "bias": {"bias": inputs.get("bias")},
        "alibi": {"alibi_slopes": 2.0 ** -np.array([2.0, 4.0, 6.0, 8.0])},
        "softcap": {"softcap": 50.0},
    }
    expected, _, _ = attention(inputs["q"], inputs["k"], inputs["v"], **options.get(option, {}))
    result, tolerance = OPERATION.reference(case, inputs, np.dtype("float32"))
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert 0 < tolerance < 1e-4


def test_every_form_is_right():
    cases = [Attention(2, 4, 33, 16, option=option, window=5 if option == "window" else 0) for option in OPTIONS]
    cases += [Attention(2, 4, 33, 16, kv_heads=2), Attention(1, 2, 9, 8, keys=21, option="causal")]
    report = bench.run(
        "attention",
        cases,
        dtypes=["float32", "float64"],
        threads=[1],
        settings=bench.Settings(seconds=0.001, rounds=1, repetitions=1),
    )
    assert set(report.absent) == set(OPERATION.forms) - set(INSTALLED)
    for line in report.lines:
        for entry in line.entries:
            # ONNX Runtime refuses float64, and JAX's softmax is float32.
            unsupported = entry.library in ("onnxruntime", "jax") and line.dtype == "float64"
            assert unsupported or entry.state in ("measured", "left"), (line.label, line.dtype, entry)
            assert unsupported or entry.error <= line.tolerance, (line.label, line.dtype, entry)
    plain = {entry.library for entry in report.lines[0].entries}
    assert plain == set(INSTALLED)


def test_suites_name_their_goals():
    assert set(OPERATION.suites) == {"default", "options", "full", "demo"}
    assert {case for goal in OPERATION.goals["full"] for case in goal.cases} == set(OPERATION.suites["full"])
