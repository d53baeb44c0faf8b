"""The config argument and the registry of tuned configurations."""

import collections
import types

import numpy as np
import pytest
from layouts import Unchanged
from oracle import assert_accurate, normal
from processes import run_python

import transfuse


@pytest.fixture
def operands(rng, dtype):
    return {"a": normal(rng, (170, 50), dtype), "b": normal(rng, (50, 190), dtype)}  # enough work for several threads


def refuse(error, message, config):
    a, b, out = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), np.zeros((5, 3), np.float32)
    with Unchanged(a, b, out), pytest.raises(error, match=f"^matmul_t: config: {message}"):
        transfuse.matmul_t(a, b, out=out, config=config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"block_m": 1},
        {"block_n": 1},
        {"block_k": 1},
        {"block_m": 1, "block_n": 1, "block_k": 1},
        {"block_m": 17, "block_n": 5, "block_k": 3},
        {"block_m": 64, "block_n": 64, "block_k": 49},
        {"block_m": 1 << 20, "block_n": 1 << 20, "block_k": 1 << 14},
        {"block_m": np.int32(48), "threads": np.uint8(2)},
        {"threads": 10**30},
    ],
    ids=str,
)
def test_every_block_size_is_right(operands, tier, config):
    for num_threads in (None, 1, 3):
        result = transfuse.matmul_t(**operands, num_threads=num_threads, config=config | {"isa": tier})
        assert_accurate(result, **operands)


def test_block_k_decides_the_order_of_the_sum(operands):
    default = transfuse.matmul_t(**operands)
    assert (transfuse.matmul_t(**operands, config={"block_k": 7}) != default).any()
    for other in ({"block_m": 7}, {"block_n": 7}, {"threads": 2}):
        assert (transfuse.matmul_t(**operands, config=other) == default).all()


def test_isa_is_that_of_the_scope(operands, tier):
    with transfuse.isa(tier):
        expected = transfuse.matmul_t(**operands)
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, config={"isa": tier}), expected)


def test_isa_of_one_call_ends_with_it(operands, tier):
    before = transfuse.info()["isa"]
    transfuse.matmul_t(**operands, config={"isa": tier})
    assert transfuse.info()["isa"] == before


class Pairs(collections.abc.Mapping):
    """A mapping that is no dict."""

    def __init__(self, **pairs):
        self._pairs = pairs

    def __getitem__(self, key):
        return self._pairs[key]

    def __iter__(self):
        return iter(self._pairs)

    def __len__(self):
        return len(self._pairs)


@pytest.mark.parametrize("mapping", [Pairs, lambda **p: types.MappingProxyType(p), collections.OrderedDict])
def test_any_mapping(operands, mapping):
    expected = transfuse.matmul_t(**operands, config={"block_k": 7})
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, config=mapping(block_k=7)), expected)
    with pytest.raises(ValueError, match=r"config: expected the keys .*, got 'block'"):
        transfuse.matmul_t(**operands, config=mapping(block=2))


def test_a_config_is_not_changed(operands):
    config = {"block_k": 2, "isa": "scalar", "threads": 1}
    before = dict(config)
    transfuse.matmul_t(**operands, config=config)
    assert config == before


@pytest.mark.parametrize("key", ["block", "", "BLOCK_K", "block_q", "num_threads", "isa ", "block_k\0"])
def test_unknown_keys(key):
    keys = "'block_m', 'block_n', 'block_k', 'isa', 'threads'"
    refuse(ValueError, f"expected the keys {keys}, got '", {"block_k": 8, key: 1})


@pytest.mark.parametrize("key", [1, None, b"isa", ("isa",)])
def test_keys_of_another_type(key):
    refuse(TypeError, "key: expected a str, got ", {key: 1})


@pytest.mark.parametrize("config", [[], (), [("isa", "scalar")], "isa", 1, object(), {"isa"}, b""], ids=repr)
def test_no_mapping(config):
    refuse(TypeError, "expected a mapping or None, got ", config)


@pytest.mark.parametrize("name", ["block_m", "block_n", "block_k"])
@pytest.mark.parametrize("value", [0, -1, False, (1 << 20) + 1, 2**63, 10**30, -(10**30)])
def test_blocks_out_of_range(name, value):
    refuse(ValueError, rf"expected {name} in 1\.\.\.\d+, got ", {name: value})


@pytest.mark.parametrize("name", ["block_m", "block_n", "block_k", "threads"])
@pytest.mark.parametrize("value", [None, 1.0, 64.5, "64", [64]])
def test_numbers_of_another_type(name, value):
    refuse(TypeError, f"{name}: expected an int, got ", {name: value})


@pytest.mark.parametrize("value", [0, -3])
def test_threads_out_of_range(value):
    refuse(ValueError, "threads: expected at least 1, got ", {"threads": value})


@pytest.mark.parametrize("value", ["sse2", "", "AVX2", "neon", "scalar\0"])
def test_unknown_tiers(value):
    refuse(ValueError, r"isa: expected a tier that this machine can run \(scalar.*\), got ", {"isa": value})


@pytest.mark.parametrize("value", [None, 2, b"avx2"])
def test_tiers_of_another_type(value):
    refuse(TypeError, "isa: expected a str, got ", {"isa": value})


def test_faults_count_even_where_num_threads_wins():
    with pytest.raises(ValueError, match="config: threads"):
        transfuse.matmul_t(np.ones((2, 2)), np.ones((2, 2)), num_threads=1, config={"threads": 0})


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ("num_threads=1", 1),
        ("num_threads=3", 3),
        ("config={'threads': 3}", 3),
        ("config={'threads': 3}, num_threads=1", 1),
        ("config={'threads': 1}, num_threads=3", 3),
    ],
)
def test_threads_that_work(options, threads):
    # The pool of OpenMP keeps the threads that a call has used, so they can be counted afterwards.
    program = f"""
        import os
        import numpy as np, transfuse
        before = len(os.listdir("/proc/self/task"))
        a = np.ones((400, 400), np.float32)
        transfuse.matmul_t(a, a, {options})
        print(1 + len(os.listdir("/proc/self/task")) - before)
    """
    assert run_python(program).stdout.strip() == str(threads)


def test_a_tuned_configuration_is_used(tuned, operands, dtype):
    default = transfuse.matmul_t(**operands)
    explicit = transfuse.matmul_t(**operands, config={"block_k": 7})
    assert (explicit != default).any()
    current = transfuse.info()["isa"]["current"]
    tuned.set_tuned("matmul_t", current, dtype.name, (1, 170, 50, 190), {"block_k": 7})
    np.testing.assert_array_equal(transfuse.matmul_t(**operands), explicit)
    # What the caller says wins, and the rest of the tuned values stays.
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, config={"block_m": 8}), explicit)
    given = transfuse.matmul_t(**operands, config={"block_k": 5})
    tuned.clear_tuned()
    np.testing.assert_array_equal(transfuse.matmul_t(**operands), default)
    np.testing.assert_array_equal(transfuse.matmul_t(**operands, config={"block_k": 5}), given)


def test_tuned_configurations_are_found_by_bucket(tuned):
    key = ("matmul_t", "scalar", "float32")
    assert tuned.find_tuned(*key, (1, 100, 100, 100)) is None
    tuned.set_tuned(*key, (1, 100, 100, 100), {"block_m": 32, "block_k": 64})
    assert tuned.find_tuned(*key, (1, 64, 127, 100)) == {"block_m": 32, "block_k": 64}
    assert tuned.find_tuned(*key, (1, 255, 100, 63)) == {"block_m": 32, "block_k": 64}  # two octaves from it
    assert tuned.find_tuned(*key, (1, 512, 100, 100)) is None
    assert tuned.find_tuned(*key, (2, 128, 128, 100)) is None
    assert tuned.find_tuned("matmul_t", "scalar", "float64", (1, 100, 100, 100)) is None
    tuned.set_tuned(*key, (1, 100, 100, 100), {"block_n": 5})
    assert tuned.find_tuned(*key, (1, 100, 100, 100)) == {"block_n": 5}
    tuned.clear_tuned()
    assert tuned.find_tuned(*key, (1, 100, 100, 100)) is None


def test_tuned_configurations_of_attention(tuned):
    key = ("attention", "scalar", "bfloat16", (1, 8, 2, 512, 512, 64, 1))
    tuned.set_tuned(*key, {"block_q": 32, "block_kv": 64, "key_chunk": 128}, 2)
    assert tuned.find_tuned(*key, threads=8) == {"block_q": 32, "block_kv": 64, "key_chunk": 128}
    tuned.set_tuned(*key, {"block_q": 16, "block_kv": 8}, threads=8)
    assert tuned.find_tuned(*key, 8) == {"block_q": 16, "block_kv": 8}
    assert tuned.find_tuned(*key, 1) == {
        "block_q": 32,
        "block_kv": 8,
    }  # what affects rounding does not depend on threads
    assert tuned.find_tuned("matmul_t", "scalar", "float32", (1, 8, 2, 512)) is None
    tuned.clear_tuned()
    assert tuned.find_tuned(*key) is None


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_attention_uses_the_entry_of_its_dtype(tuned, rng, name):
    q, k, v = (normal(rng, (2, 100, 32), np.float64).astype(name) for _ in range(3))
    default = transfuse.attention(q, k, v, return_lse=True)
    explicit = transfuse.attention(q, k, v, return_lse=True, config={"block_kv": 16})
    assert (explicit[1] != default[1]).any()
    tier = transfuse.info()["isa"]["current"]
    others = {"float32", "float64", "float16", "bfloat16", "int8"} - {name}
    for other in others:
        tuned.set_tuned("attention", tier, other, (1, 2, 2, 100, 100, 32, 0), {"block_kv": 16})
    np.testing.assert_array_equal(transfuse.attention(q, k, v, return_lse=True)[1], default[1])
    tuned.set_tuned("attention", tier, name, (1, 2, 2, 100, 100, 32, 0), {"block_kv": 16})
    np.testing.assert_array_equal(transfuse.attention(q, k, v, return_lse=True)[1], explicit[1])


def test_several_tuned_configurations_at_once(tuned):
    key = ("matmul_t", "scalar", "float32")
    entries = [(*key, (1, 1, 1, 1), {"block_k": 5}, 1), (*key, (1, 64, 64, 64), {"block_k": 0}, 1)]
    with pytest.raises(ValueError, match="block_k"):
        tuned.set_all_tuned(entries)
    assert tuned.find_tuned(*key, (1, 1, 1, 1)) is None
    tuned.set_all_tuned([*entries[:1], (*key, (1, 64, 64, 64), {"block_k": 6}, 1)])
    assert tuned.find_tuned(*key, (1, 1, 1, 1)) == {"block_k": 5}
    assert tuned.find_tuned(*key, (1, 64, 64, 64)) == {"block_k": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attend", "scalar", "float32", (1, 1, 1, 1), {}), "operation"),
        (("matmul_t", "sse", "float32", (1, 1, 1, 1), {}), "isa"),
        (("matmul_t", "scalar", "int8", (1, 1, 1, 1), {}), "dtype"),
        (("matmul_t", "scalar", "float16", (1, 1, 1, 1), {}), "dtype"),
        (("matmul_t", "scalar", "float32", (1, -1, 1, 1), {}), "sizes"),
        (("matmul_t", "scalar", "float32", (1, 1, 1), {}), r"sizes: expected \(batch, m, k, n\), got 3 numbers"),
        (("attention", "scalar", "float32", (1, 1, 1, 1), {}), "sizes: .*causal"),
        (("attention", "scalar", "float32", (1, 1, 1, 1, 1, 1, 2), {}), r"sizes: .* 0\.\.\.1, got 2"),
        (("matmul_t", "scalar", "float32", (1, 1, 1, 1), {}, 0), "threads"),
        (("matmul_t", "scalar", "float32", (1, 1, 1, 1), {"threads": 2}), "neither 'isa' nor 'threads'"),
        (("matmul_t", "scalar", "float32", (1, 1, 1, 1), {"isa": "scalar"}), "neither 'isa' nor 'threads'"),
        (("matmul_t", "scalar", "float32", (1, 1, 1, 1), {"block_k": 0}), "config"),
        (("matmul_t", "scalar", "float32", (1, 1, 1, 1), {"block": 1}), "config"),
    ],
)
def test_tuned_configurations_are_checked(tuned, arguments, message):
    for function in (tuned.set_tuned, tuned.check_tuned):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
    assert tuned.find_tuned("matmul_t", "scalar", "float32", (1, 1, 1, 1)) is None
