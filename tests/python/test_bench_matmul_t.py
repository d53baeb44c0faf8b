"""The declaration of (A·B)ᵀ: its cases, and that every form of every library gives the right result."""

import numpy as np
import pytest

import transfuse
from transfuse import bench
from transfuse.bench import libraries, matmul_t, operation
from transfuse.bench.matmul_t import NODE, MatmulT, parse

OPERATION = matmul_t.OPERATION
INSTALLED = [
    name
    for name, path in libraries.PATHS.items()
    if name in OPERATION.forms and operation.find(path)().missing() is None
]


@pytest.mark.parametrize(
    ("text", "case", "label"),
    [
        ("64", MatmulT(64, 64, 64), "64³"),
        ("128x1x1024", MatmulT(128, 1, 1024), "128×1×1024"),
        ("2×3×4", MatmulT(2, 3, 4), "2×3×4"),
        ("96x64x32x16", MatmulT(64, 32, 16, (96,)), "96×(64×32×16)"),
        ("2x3x4x5x6", MatmulT(4, 5, 6, (2, 3)), "2×3×(4×5×6)"),
    ],
)
def test_sizes(text, case, label):
    assert parse(text) == case
    assert case.label == label


@pytest.mark.parametrize("text", ["0", "-4", "4x4", "axb", "", "4x0x4", "1.5", "4x4x", "x4", "4 4 4", "1e3"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="sizes: expected N, MxKxN or BxMxKxN, each at least 1, got"):
        parse(text)


@pytest.mark.parametrize(
    ("options", "label", "transposed"),
    [
        ({"layout": "a"}, "6×9×7, A transposed", (True, False)),
        ({"layout": "b"}, "6×9×7, B transposed", (False, True)),
        ({"layout": "ab"}, "6×9×7, both transposed", (True, True)),
        ({"layout": "heads"}, "6×9×7, head slices", (False, True)),
    ],
)
def test_layouts(options, label, transposed, rng):
    case = MatmulT(6, 9, 7, **options)
    inputs = OPERATION.inputs(case, "float32", rng)
    assert case.label == label
    assert (inputs["a"].shape, inputs["b"].shape) == ((6, 9), (9, 7))
    assert tuple(x.strides[0] == x.itemsize for x in inputs.values()) == transposed
    if case.layout == "heads":
        assert inputs["a"].strides == (matmul_t.HEADS * 9 * 4, 4)


def test_a_shared_operand_has_no_batch(rng):
    case = MatmulT(6, 9, 7, (3,), shared="a")
    inputs = OPERATION.inputs(case, "float32", rng)
    assert case.label == "3×(6×9×7), one A"
    assert (inputs["a"].shape, inputs["b"].shape) == ((6, 9), (3, 9, 7))
    assert case.traffic("float32") == (4 * (6 * 9 + 3 * 9 * 7), 4 * 3 * 7 * 6)


def test_activation(rng):
    case = MatmulT(6, 9, 7, activation="gelu")
    inputs = OPERATION.inputs(case, "float64", rng)
    assert case.label == "6×9×7, bias, gelu"
    result, _ = OPERATION.reference(case, inputs, "float64")
    bias = np.ascontiguousarray(inputs["bias"])
    np.testing.assert_allclose(
        result, transfuse.matmul_t(inputs["a"], inputs["b"], bias=bias, activation="gelu"), rtol=1e-12, atol=1e-13
    )


def test_cost():
    case = MatmulT(2, 3, 5, (7,))
    assert case.flops == 2 * 7 * 2 * 3 * 5
    assert case.traffic("float32") == (4 * 7 * (2 * 3 + 3 * 5), 4 * 7 * 2 * 5)
    assert case.sizes == (7, 2, 3, 5)


def test_the_node_has_the_ranks_of_the_graph():
    inputs = OPERATION.inputs(NODE, "float32", np.random.default_rng(0))
    assert inputs["a"].shape == (1, 128, 1)
    assert inputs["b"].shape == (1, 1, 1024)
    assert OPERATION.output_shape(NODE) == (1, 1024, 128)


def test_suites():
    squares = [case.m for case in OPERATION.suites["squares"]]
    assert squares == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert set(OPERATION.suites["squares"]) | set(OPERATION.suites["rectangles"]) == set(OPERATION.suites["default"])
    assert NODE in OPERATION.suites["demo"]


def test_cases_of():
    assert bench.cases_of("matmul-t") == list(OPERATION.suites["default"])
    assert bench.cases_of("matmul-t", sizes=["3"]) == [MatmulT(3, 3, 3)]
    assert bench.cases_of("matmul-t", sizes=["3"], suite="demo") == [*OPERATION.suites["demo"], MatmulT(3, 3, 3)]
    with pytest.raises(ValueError, match="suite: expected one of default, squares, rectangles, full, demo, got 'all'"):
        bench.cases_of("matmul-t", suite="all")
    with pytest.raises(ValueError, match="operation: expected one of matmul-t, attention, got 'matmul'"):
        bench.cases_of("matmul")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reference(dtype, rng):
    case = MatmulT(3, 40, 5, (2,))
    inputs = OPERATION.inputs(case, dtype, rng)
    doubles = {name: array.astype(float) for name, array in inputs.items()}
    result, tolerance = OPERATION.reference(case, doubles, dtype)
    np.testing.assert_allclose(result, np.einsum("imk,ikn->inm", doubles["a"], doubles["b"]), rtol=1e-13)
    eps = np.finfo(dtype).eps
    assert 10 * eps < tolerance < 1000 * eps


def test_every_form_is_right():
    # A few odd shapes; what a library gets wrong, or refuses, would be in `state`.
    options = [MatmulT(6, 9, 7, layout=layout) for layout in matmul_t.LAYOUTS if layout]
    options += [MatmulT(6, 9, 7, (3,), shared=operand) for operand in ("a", "b")]
    options += [MatmulT(6, 9, 7, activation=activation) for activation in ("gelu", "silu")]
    report = bench.run(
        "matmul-t",
        ["1", "5x1x7", "1x9x4", "6x3x1", "67x130x35", "3x5x7x9", "2x1x5x6", "2x3x4x5x6", *options],
        dtypes=["float32", "float64"],
        threads=[2] if libraries.default_threads() > 1 else [1],
        settings=bench.Settings(seconds=0.001, rounds=1, repetitions=1),
    )
    assert set(report.absent) == set(OPERATION.forms) - set(INSTALLED)
    for line in report.lines:
        if "," not in line.label:  # no options
            assert {entry.library for entry in line.entries} == set(INSTALLED)
        for entry in line.entries:
            assert entry.state in ("measured", "left"), (line.label, line.dtype, entry)
            assert entry.error <= line.tolerance
    forms = {entry.statement for line in report.lines for entry in line.entries}
    assert any("activation='gelu'" in form for form in forms)
    assert {"np.multiply(b_t, a_t, out=out)", "torch.mv(b_t, a_row, out=out_row)", "torch.bmm(b_t, a_t)"} <= forms
