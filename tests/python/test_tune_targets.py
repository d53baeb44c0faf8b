"""What can be tuned: operations, callables, and the comparison of their outputs."""

import re
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16

import transfuse
from transfuse import _core
from transfuse.tune import Attention, Function, MatmulT, Space
from transfuse.tune.candidates import choose
from transfuse.tune.function import difference

CONSTANTS = Path(__file__).parents[2] / "src" / "core" / "constants.hpp"


@pytest.mark.parametrize(
    ("operation", "table", "sizes"),
    [
        ("matmul_t", "kMatmulTConstants", (1, 70, 80, 90)),
        ("attention", "kAttentionConstants", (1, 2, 2, 50, 60, 64, 0)),
    ],
)
def test_defaults_are_those_of_the_constants_table(operation, table, sizes):
    rows = CONSTANTS.read_text().split(f"{table}[] = {{")[1].split("\n};")[0]
    found = re.findall(r"\{Isa::(\w+), DType::(\w+),.*?\{(\.block.*?)\}", rows)
    assert len(found) == 6
    for isa, dtype, blocks in found:
        expected = {name: int(value) for name, value in re.findall(r"\.(\w+) = (\d+)", blocks)}
        assert _core.default_config(operation, isa, dtype, sizes) == expected


def test_few_queries_have_larger_blocks_of_keys():
    def block_kv(heads, queries, depth=64, isa="avx2", dtype="float32"):
        return _core.default_config("attention", isa, dtype, (1, heads, 2, queries, 5000, depth, 0))["block_kv"]

    assert [block_kv(2, 1), block_kv(2, 16), block_kv(32, 1), block_kv(8, 4)] == [1024, 512, 512, 512]
    assert [block_kv(2, 8), block_kv(2, 9), block_kv(8, 3), block_kv(28, 1)] == [1024, 512, 512, 512]
    assert block_kv(2, 1, dtype="bfloat16") == 1024
    assert block_kv(2, 17) == block_kv(34, 1) == block_kv(2, 1, depth=257) == block_kv(2, 1, isa="scalar") == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv", "avx2", "float32", ()), "operation: expected 'matmul_t' or 'attention', got 'conv'"),
        (("matmul_t", "sse", "float32", (1, 2, 3, 4)), "isa"),
        (("matmul_t", "avx2", "float16", (1, 2, 3, 4)), "dtype"),
        (("matmul_t", "avx2", "float32", (1, 2, 3)), "sizes"),
    ],
)
def test_defaults_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        _core.default_config(*arguments)


@pytest.mark.parametrize("heads", [1, 3, 16, 17])
@pytest.mark.parametrize("keys", [50, 3000])
def test_the_default_gives_the_bits_of_a_call_without_configuration(heads, keys):
    target = Attention(1, heads, 1, 64, keys=keys, kv_heads=1, threads=1)
    arrays = target._call.args
    expected = transfuse.attention(*arrays, num_threads=1)
    np.testing.assert_array_equal(target.prepare(target.default)(), expected)


def test_sizes_by_which_calls_look_up():
    assert MatmulT(2, 3, 4, batch=(5, 6)).sizes == (30, 2, 3, 4)
    assert MatmulT(2, 3, 4).sizes == (1, 2, 3, 4)
    target = Attention(1, 8, 1, 64, keys=100, kv_heads=2, causal=True)
    assert target.sizes == (1, 8, 2, 1, 100, 64, 1)


TARGETS = [
    MatmulT(60, 50, 70),
    MatmulT(1, 64, 64, batch=3, dtype="float64", threads=1),
    Attention(1, 4, 40, 16, causal=True),
    Attention(2, 4, 1, 16, keys=300, kv_heads=2, dtype="bfloat16"),
    Attention(1, 2, 10, 16, keys=30, causal=True, threads=3),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_configuration_agrees(target):
    candidates = choose(target.space(), target.default, target.effective)
    expected = np.array(target.prepare(target.default)())
    assert expected.any()
    for configuration in candidates.configurations:
        assert target.difference(target.prepare(configuration)(), expected) is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_configurations_that_count_as_the_same_give_the_same_bits(target):
    representatives = {}
    for point in target.space().configurations():
        configuration = target.default | point
        output = np.array(target.prepare(configuration)())
        key = str(target.effective(configuration))
        np.testing.assert_array_equal(output, representatives.setdefault(key, output))


def test_wisdom_does_not_change_what_is_tuned(tuned):
    target = MatmulT(70, 700, 70)
    default = np.array(target.prepare(target.default)())
    tuned.set_tuned("matmul_t", target.isa, "float32", (1, 70, 700, 70), {"block_k": 7})
    np.testing.assert_array_equal(target.prepare({})(), default)
    arrays = target._call.args
    assert (transfuse.matmul_t(*arrays) != default).any()


def test_inputs_are_read_only():
    assert not any(array.flags.writeable for array in MatmulT(3, 4, 5)._call.args)


def test_the_space_has_the_default_and_no_blocks_without_effect():
    target = MatmulT(1000, 100, 1000, threads=6)
    parameters = target.space().parameters
    assert parameters["threads"] == (1, 2, 4, 6)
    assert "block_k" not in parameters  # one block holds the whole depth
    assert {name: target.default[name] for name in ("block_m", "block_n")}.items() <= {
        "block_m": 256,
        "block_n": target.default["block_n"],
    }.items() or target.default["block_m"] in parameters["block_m"]
    decode = Attention(1, 8, 1, 64, keys=2048, kv_heads=2).space().parameters
    assert set(decode) == {"block_kv", "key_chunk", "threads"}
    assert "key_chunk" not in Attention(1, 1, 500, 64).space().parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatmulT(0, 4, 4), "m: expected at least 1, got 0"),
        (lambda: MatmulT(4, 4, 4, dtype="float16"), "dtype: expected one of float32, float64, got 'float16'"),
        (lambda: MatmulT(4, 4, 4, threads=0), "threads: expected at least 1, got 0"),
        (lambda: Attention(1, 3, 4, 4, kv_heads=2), "heads: expected a multiple of 2, got 3"),
        (lambda: Attention(1, 4, 4, 4, dtype="int8"), "dtype: expected one of float32, .*got 'int8'"),
    ],
)
def test_operations_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_defaults_of_a_callable():
    space = Space({"b": [1, 2], "a": [3, 4]})
    assert Function(lambda a, b: None).default_in(space) == {"b": 1, "a": 3}
    assert Function(lambda a=4, b=2, c=7: None).default_in(space) == {"b": 2, "a": 4}
    assert Function(lambda a=4, **more: None).default_in(space) == {"b": 1, "a": 3}
    assert Function(lambda a, b: None, {"a": 9, "b": 9}).default_in(space) == {"a": 9, "b": 9}
    assert Function(max).default_in(space) == {"b": 1, "a": 3}


@pytest.mark.parametrize(
    ("output", "expected", "message"),
    [
        (None, None, None),
        (1.0, 1.0 + 1e-9, None),
        (1.0, 1.1, "off by 0.1"),
        (np.float32([1, 2]), np.float32([1, 2.0001]), None),
        (np.float32([1, 2]), np.float32([1, 2.01]), "off by 0.01"),
        (np.float64([1, 2]), np.float32([1, 2.0001]), None),
        (np.ones(3, bfloat16), np.full(3, 1.05, np.float32), None),
        (np.ones(3), np.ones(4), r"expected the shape \(4,\), got \(3,\)"),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), None),
        (np.array([np.nan, 1]), np.array([1.0, 1]), "off by nan|not finite"),
        (np.array([1.0, 1]), np.array([np.inf, 1]), "not finite"),
        (np.array([-np.inf, 1]), np.array([np.inf, 1]), "not finite"),
        ([1.0, np.ones(2)], (1.0, np.ones(2)), None),
        ([1.0], (1.0, 2.0), "expected 2 outputs"),
        (None, 1.0, "expected float, got nothing"),
        (3, 3, None),
        (3, 4, "its numbers are others"),
        ("a", "b", "its numbers are others"),
        (1j, 1j + 1e-12, None),
        (np.zeros((0, 3)), np.zeros((0, 3)), None),
    ],
)
def test_difference(output, expected, message):
    found = difference(output, expected)
    assert found is None if message is None else re.search(message, found)
