"""What a file of wisdom may contain: faults are said, and nothing raises or is applied out of range."""

import copy
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wisdom_cases import current_tier, made, record, text

from transfuse import _core, _wisdom
from transfuse.tune import Wisdom
from transfuse.tune.wisdom import document


def read(path, contents):
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return _wisdom.read(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wisdom.json"


WHOLE = {
    "empty": (b"", "not JSON"),
    "truncated": (text(*made(block_k=7)).encode()[:-20], "not JSON"),
    "binary": (b"\x00\xff\xfe", "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"schema":' * 100_000, "nested too deeply"),
    "huge": (b" " * (_wisdom.LARGEST_FILE + 1), "larger than 4 MiB"),
    "huge integer": (b'{"schema": 1' + b"0" * 10_000 + b"}", "not JSON"),
    "a list": (b"[]", "not a file of wisdom"),
    "another object": (b"{}", "not a file of wisdom"),
    "newer schema": (b'{"schema": 2, "entries": []}', "schema 2, expected 1"),
    "schema of another type": (b'{"schema": true, "entries": []}', "schema True, expected 1"),
    "schema as text": (b'{"schema": "\\u001b[31m1", "entries": []}', r"schema '\x1b[31m1', expected 1"),
    "no entries": (b'{"schema": 1}', "entries: expected a list, got None"),
    "entries of another type": (b'{"schema": 1, "entries": {"a": 1}}', "entries: expected a list, got dict"),
}


@pytest.mark.parametrize(("contents", "reason"), WHOLE.values(), ids=WHOLE)
def test_files_that_cannot_be_used(path, contents, reason):
    reading = read(path, contents)
    assert reading.entries == []
    assert reading.unusable
    assert str(path) in reading.problem(path)
    assert reason in reading.problem(path)
    with pytest.warns(RuntimeWarning, match="is ignored") as caught:
        assert len(Wisdom.load(path)) == 0
    assert len(caught) == 1
    assert caught[0].filename == __file__


PARTS = {
    "block out of range": ({"parameters": {"block_k": 99999999}}, r"block_k in 1...16384, got 99999999"),
    "block 0": ({"parameters": {"block_k": 0}}, "block_k in 1...16384, got 0"),
    "negative block": ({"parameters": {"block_k": -3}}, "block_k: expected an integer"),
    "huge block": ({"parameters": {"block_k": 10**400}}, "got a huge integer"),
    "block as float": ({"parameters": {"block_k": 7.0}}, "block_k: expected an integer"),
    "NaN": ({"parameters": {"block_k": float("nan")}}, "got nan"),
    "bool": ({"parameters": {"block_k": True}}, "got True"),
    "unknown parameter": ({"parameters": {"block_z": 7}}, "block_z"),
    "unprintable parameter": ({"parameters": {"\ud800\x1b": 7}}, "printable"),
    "long parameter": ({"parameters": {"x" * 10_000: 7}}, "xxx..."),
    "isa as parameter": ({"parameters": {"isa": 1}}, "isa"),
    "threads as parameter": ({"parameters": {"threads": 1}}, "neither"),
    "parameters of another type": ({"parameters": [1]}, "parameters: expected a dict, got list"),
    "no threads": ({"threads": None}, "threads"),
    "threads 0": ({"threads": 0}, "threads"),
    "huge threads": ({"threads": 2**63}, "threads"),
    "sizes too few": ({"sizes": [1, 2]}, "got 2 numbers"),
    "sizes negative": ({"sizes": [1, 2, 3, -4]}, "sizes"),
    "sizes as text": ({"sizes": "1234"}, "sizes"),
    "sizes nested": ({"sizes": [[1], 2, 3, 4]}, "sizes"),
    "operation": ({"operation": "softmax"}, "operation"),
    "operation of another type": ({"operation": 1}, "operation"),
    "unprintable operation": ({"operation": "\ud800"}, "operation"),
    "dtype": ({"dtype": "int8"}, "dtype"),
    "seconds": ({"seconds": float("inf")}, "seconds"),
    "when": ({"when": "today"}, "when"),
    "when no calendar reaches": ({"when": 1e17}, "when: expected seconds, got 1e+17"),
    "machine": ({"machine": "mine"}, "machine"),
    "empty machine": ({"machine": {}}, "cpu"),
}


@pytest.mark.parametrize(("replaced", "reason"), PARTS.values(), ids=PARTS)
def test_entries_that_cannot_be_used(path, replaced, reason):
    wisdom = made(block_k=7)
    contents = document(wisdom)
    contents["entries"].insert(0, contents["entries"][0] | replaced)
    reading = read(path, json.dumps(contents))
    assert reading.entries == list(wisdom)
    assert not reading.unusable
    [fault] = reading.faults
    assert fault.startswith("entry 0: ")
    assert reason in fault
    assert len(fault) <= 300
    assert fault.isprintable()


def test_only_some_faults_are_said(path):
    wisdom = Wisdom()
    for threads in range(1, 8):
        record(wisdom, {"block_k": 7}, threads=threads)
    problem = read(path, text(*wisdom, sizes=[])).problem(path)
    assert "entry 2" in problem
    assert "entry 3" not in problem
    assert "and 4 more" in problem


def test_unknown_fields_are_left_alone(path):
    wisdom = made(block_k=7)
    assert read(path, text(*wisdom, comment={"a": [1, 2]})) == (list(wisdom), [], False)


def test_a_tier_that_does_not_run_here_is_not_used(path, tuned):
    reading = read(path, text(*made(block_k=7), isa="sse4"))
    assert reading.faults == []
    assert _wisdom.apply(reading.entries) == 0


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "broken link", "loop", "null byte"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "wisdom.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = path.parent.joinpath("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "null byte":
        path = tmp_path / "a\0b"
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nothing")
    reading = _wisdom.read(path)
    assert reading.unusable
    assert reading.faults


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(1, 1 << 21),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(["block_m", "block_n", "block_k", "block_q", "block_kv", "key_chunk", "threads", "isa", ""])
likely = {
    "operation": st.sampled_from(["matmul_t", "attention", ""]),
    "isa": st.sampled_from(_core.available_isas()),
    "dtype": st.sampled_from(["float32", "float64", "bfloat16", "int8"]),
    "sizes": st.lists(st.integers(-1, 1 << 64), max_size=8) | st.lists(st.integers(0, 2000), min_size=4, max_size=4),
    "threads": st.integers(-1, 1 << 40),
    "parameters": st.dictionaries(names, st.integers(-1, 1 << 21) | json_values, max_size=3),
}


@st.composite
def mutated(draw):
    """The text of a valid file in which some fields are others."""
    wisdom = made(block_k=7, block_m=20)
    record(wisdom, {"block_q": 8}, operation="attention", dtype="int8", sizes=(1, 8, 2, 512, 512, 64, 1))
    contents = copy.deepcopy(document(wisdom))
    for entry in contents["entries"]:
        entry["when"] = 1.0  # the same in every run
        for name in draw(st.lists(st.sampled_from(sorted(entry)), max_size=3, unique=True)):
            entry[name] = draw(likely.get(name, json_values) | json_values)
    if draw(st.booleans()):
        contents[draw(st.sampled_from(["schema", "entries"]))] = draw(json_values)
    result = json.dumps(contents).encode()
    cut = draw(st.integers(0, len(result)) | st.just(len(result)))
    return result[:cut]


def within_range(entry):
    ranges = {"block_m": 20, "block_n": 20, "block_k": 14, "block_q": 20, "block_kv": 20, "key_chunk": 20}
    return all(1 <= value <= 1 << ranges[name] for name, value in entry.parameters.items())


@pytest.mark.parametrize(
    "contents",
    [st.binary(max_size=200), json_values.map(json.dumps).map(str.encode), mutated()],
    ids=["bytes", "json", "mutated"],
)
def test_no_contents_raise_or_are_applied_out_of_range(tmp_path, tuned, contents):
    path = tmp_path / "wisdom.json"

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(contents)
    def check(contents):
        reading = read(path, contents)
        own = [entry for entry in reading.entries if entry.applies()]
        assert all(within_range(entry) for entry in own)
        assert _wisdom.apply(reading.entries) == len(own)
        for entry in own:
            assert tuned.find_tuned(entry.operation, entry.isa, entry.dtype, entry.sizes, entry.threads) is not None
        assert reading.problem(path) is None or reading.problem(path).isprintable()
        for entry in reading.entries:
            assert json.loads(text(entry))["entries"][0]["machine"]["cpu"] == entry.machine.cpu
        tuned.clear_tuned()

    check()


def test_the_fuzz_reaches_the_registry(tmp_path, tuned):
    assert _wisdom.apply(read(tmp_path / "wisdom.json", text(*made(block_k=7))).entries) == 1
    assert tuned.find_tuned("matmul_t", current_tier(), "float32", (1, 60, 400, 50)) == {"block_k": 7}
