"""The MatMul and Gemm node tests of ONNX, as many as (A·B)ᵀ can express."""

import importlib

import numpy as np
import pytest

import transfuse

onnx = pytest.importorskip("onnx")

# What remains of the suite, and why it cannot be said with matmul_t.
NOT_EXPRESSIBLE = {
    "test_matmul_1d_1d": "vectors: matmul_t takes matrices, as its result transposes them",
    "test_matmul_1d_3d": "a vector",
    "test_matmul_4d_1d": "a vector",
}
EXPECTED_COUNTS = {"MatMul": 4, "Gemm": 11}


def load_cases(operator):
    # Importing the module of an operator's cases registers them; its neighbours are hundreds, and warn.
    importlib.import_module(f"onnx.backend.test.case.node.{operator.lower()}")
    from onnx.backend.test.case.node import _NodeTestCases

    return {
        case.name: case
        for case in _NodeTestCases
        if [node.op_type for node in case.model.graph.node] == [operator] and not case.name.endswith("_expanded")
    }


CASES = {operator: load_cases(operator) for operator in EXPECTED_COUNTS}


def expressible(operator):
    return [case for name, case in CASES[operator].items() if name not in NOT_EXPRESSIBLE]


def matmul(a, b):
    return np.swapaxes(transfuse.matmul_t(a, b), -1, -2)


def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    """alpha·A'·B' + beta·C. The transpositions are views; C is a bias where it is one row."""
    a = alpha * a if alpha != 1 else a
    a = a.T if transA else a
    b = b.T if transB else b
    n = b.shape[1]
    bias = None
    if c is not None and c.size in (1, n) and c.shape in ((), (1,), (n,), (1, n)):
        bias, c = np.broadcast_to(beta * c, (1, n))[0].astype(a.dtype), None
    result = transfuse.matmul_t(a, b, bias=bias).T
    return result if c is None else result + beta * c


def check(case, function):
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in case.model.graph.node[0].attribute}
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        result = function(*(np.asarray(x) for x in inputs), **attributes)
        expected = np.asarray(outputs[0])
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=case.rtol, atol=case.atol, strict=True)


@pytest.mark.parametrize("case", expressible("MatMul"), ids=lambda case: case.name)
def test_matmul(case):
    check(case, matmul)


@pytest.mark.parametrize("case", expressible("Gemm"), ids=lambda case: case.name)
def test_gemm(case):
    check(case, gemm)


@pytest.mark.parametrize("case", expressible("Gemm") + expressible("MatMul"), ids=lambda case: case.name)
def test_with_the_smallest_blocks(case, monkeypatch):
    plain = transfuse.matmul_t
    for block in (1, 2, 3):
        config = {"block_m": block, "block_n": block, "block_k": block}
        monkeypatch.setattr(transfuse, "matmul_t", lambda a, b, c=config, **o: plain(a, b, config=c, **o))
        check(case, gemm if case.model.graph.node[0].op_type == "Gemm" else matmul)


def test_none_is_forgotten():
    # A release of ONNX with more cases fails here: count them, or say why they cannot be expressed.
    assert {operator: len(expressible(operator)) for operator in CASES} == EXPECTED_COUNTS
    assert set(NOT_EXPRESSIBLE) <= {name for cases in CASES.values() for name in cases}


@pytest.mark.parametrize("name", NOT_EXPRESSIBLE)
def test_the_others_are_refused(name):
    inputs = next(cases[name] for cases in CASES.values() if name in cases).data_sets[0][0]
    with pytest.raises(ValueError, match="expected at least 2 dimensions"):
        matmul(*inputs)
