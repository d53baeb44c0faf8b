"""Graphs, and the files that they come from."""

import json
import pathlib

import numpy as np
import pytest

from transfuse.plan import Edge, Graph, GraphError, Operation, load

DATA = pathlib.Path(__file__).parents[1] / "data" / "planner"
OURS = {
    "operations": [
        {"name": "a", "kind": "norm", "times": {"1": 3.0, "2": 1.0}, "memory": 8, "parameters": 16},
        {"name": "b", "times": {"2": 1.5}},
    ],
    "edges": [{"source": "a", "target": "b", "bytes": 1024}],
}


def test_order_and_neighbours():
    graph = Graph([Operation(name, {1: 1.0}) for name in "cba"], [Edge("a", "b"), Edge("b", "c")])
    assert [operation.name for operation in graph.sorted()] == ["a", "b", "c"]
    assert graph.predecessors[graph.index["c"]] == [graph.index["b"]]


def test_parallel_edges_are_merged():
    graph = Graph([Operation("a", {1: 1.0}), Operation("b", {1: 1.0})], [Edge("a", "b", 1.0), Edge("a", "b", 5.0)])
    assert graph.edges == (Edge("a", "b", 5.0),)


def test_zero_times_and_missing_widths_are_legal():
    graph = Graph([Operation("a", {4: 0.0})])
    assert graph.operations[0].times == {4: 0.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Operation("op7", {}), "'op7'.*no width"),
        (lambda: Operation("op7", {1: -1.0}), "'op7'.*width 1.*-1.0"),
        (lambda: Operation("op7", {2: float("nan")}), "'op7'.*width 2.*nan"),
        (lambda: Operation("op7", {2: float("inf")}), "'op7'.*inf"),
        (lambda: Operation("op7", {0: 1.0}), "'op7'.*got 0"),
        (lambda: Operation("op7", {1.5: 1.0}), r"'op7'.*1\.5"),
        (lambda: Operation("op7", {1: 1.0}, memory=-1), "'op7': memory"),
        (lambda: Operation("op7", {1: 1.0}, parameters=float("nan")), "'op7': parameters"),
        (lambda: Operation("op7", {1: 10**400}), "'op7'.*an integer of 1329 bits"),
        (lambda: Operation("op7", [1.0, 2.0]), "'op7'.*mapping"),
        (lambda: Operation("", {1: 1.0}), "name"),
        (lambda: Graph(["op7"]), "type Operation, got 'op7'"),
        (lambda: Graph([Operation("op7", {1: 1.0})], [("op7", "op8")]), "type Edge"),
        (lambda: Graph([]), "at least one"),
        (lambda: Graph([Operation("op7", {1: 1.0})] * 2), "'op7' is there twice"),
        (lambda: Graph([Operation("op7", {1: 1.0})], [Edge("op7", "op8")]), "no operation 'op8'"),
        (lambda: Graph([Operation("op7", {1: 1.0})], [Edge("op7", "op7")]), "'op7' reads its own"),
        (
            lambda: Graph([Operation(n, {1: 1.0}) for n in "ab"], [Edge("a", "b", float("nan"))]),
            "'a' → 'b': bytes",
        ),
        (
            lambda: Graph([Operation(n, {1: 1.0}) for n in "abcd"], [Edge(*e) for e in ("ab", "bc", "cb", "cd")]),
            "cycle: b → c → b|cycle: c → b → c",
        ),
    ],
)
def test_errors_name_the_operation(make, message):
    with pytest.raises(GraphError, match=message):
        make()


def test_numbers_of_numpy_are_numbers():
    operation = Operation("a", {np.int64(2): np.float32(0.5)}, memory=np.float64(3))
    assert operation == Operation("a", {2: 0.5}, memory=3.0)
    assert type(next(iter(operation.times))) is int


def test_our_json(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(OURS))
    graph = load(path)
    assert graph.operations[0] == Operation("a", {1: 3.0, 2: 1.0}, "norm", 8, 16)
    assert graph.edges == (Edge("a", "b", 1024),)
    graph.to_json(path)
    assert load(path) == graph


def test_repeated_names_are_numbered(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"operations": [{"name": name, "times": {"1": 1}} for name in ("x", "y", "x")]}))
    assert [operation.name for operation in load(path).operations] == ["x#0", "y", "x#1"]


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("*/**/*.json")) + sorted(DATA.glob("*/*graph.txt")), ids=lambda p: p.name
)
def test_published_files(path, tmp_path):
    graph = load(path)
    assert len({operation.name for operation in graph.operations}) == len(graph.operations) > 30
    copy = tmp_path / "copy.json"
    graph.to_json(copy)
    assert load(copy) == graph
    assert load(copy).rules == graph.rules


def test_piper_names_and_widths():
    graph = load(DATA / "piper" / "bert32a100.json")
    layers = [operation for operation in graph.operations if operation.kind == "ParallelTransformerLayer"]
    assert [layer.name for layer in layers[:2]] == ["ParallelTransformerLayer#0", "ParallelTransformerLayer#1"]
    assert layers[0].times == {1: 0.030492, 2: 0.018696, 4: pytest.approx(0.011928), 8: pytest.approx(0.009396)}


def test_pipedream_leaves_out_the_input():
    graph = load(DATA / "pipedream" / "vgg16_graph.txt")
    assert len(graph.operations) == 40
    assert graph.operations[graph.index["node4"]].times == {1: pytest.approx((46.201 + 113.330) / 1000)}


PIPER_RULES = {"format": "piper", "accelerators": 2, "bandwidth": 1, "memory": 1, "micro_batches": 1}


def _without(key):
    data = json.loads(json.dumps(OURS))
    del data["operations"][1][key]
    return data


MALFORMED = {
    "empty": ("", "neither JSON"),
    "no JSON": ("{", "neither JSON"),
    "a list": ("[]", "expected a JSON object"),
    "nothing known": ("{}", "'nodes' must be a list"),
    "operations of a wrong type": ('{"operations": 3}', "'operations' must be a list"),
    "no times": (json.dumps(_without("times")), "'b': 'times' is missing"),
    "no name": (json.dumps(_without("name")), "operation 1: 'name' is missing"),
    "a width that is none": (json.dumps({"operations": [{"name": "a", "times": {"x": 1}}]}), "'a'.*'x'"),
    "a time that is none": (json.dumps({"operations": [{"name": "a", "times": {"1": "soon"}}]}), "'a'.*'soon'"),
    "a NaN": ('{"operations": [{"name": "a", "times": {"1": NaN}}]}', "'a'.*nan"),
    "a width with a leading zero": ('{"operations": [{"name": "a", "times": {"1": 1, "01": 2}}]}', "'a'.*'01'"),
    "a name that is none": (
        '{"operations": [{"name": null, "times": {"1": 1}}]}',
        "operation 0: 'name' must be a text",
    ),
    "lists in lists": ("[" * 200_000, "neither JSON"),
    "an endless number": (f'{{"operations": {"9" * 5000}}}', "neither JSON"),
    "an edge of a list": (json.dumps({**OURS, "edges": [{"source": [], "target": "a"}]}), "no operation \\[\\]"),
    "an edge of a repeated name": (
        json.dumps({**OURS, "operations": OURS["operations"] + OURS["operations"][:1]}),
        "'a' is the name of several operations",
    ),
    "rules without what they need": (json.dumps({**OURS, "rules": {"format": "piper"}}), "rules: 'accelerators'"),
    "rules of a wrong type": (
        json.dumps({**OURS, "rules": {"format": "pipedream", "bandwidth": "fast"}}),
        "rules: 'bandwidth' must be a number, got 'fast'",
    ),
    "rules for other operations": (
        json.dumps({**OURS, "rules": {**PIPER_RULES, "details": {"a": {}, "z": {}}}}),
        "rules: 'details' names 'z'",
    ),
    "rules for too few operations": (
        json.dumps({**OURS, "rules": {**PIPER_RULES, "details": {"a": {}}}}),
        "rules: 'details' lacks operation 'b'",
    ),
    "an id that is none": (json.dumps({"nodes": [{"id": [1], "fpgaLatency": 1}], "edges": []}), "node 0: 'id'"),
    "piper with a size that is none": (
        json.dumps(
            {
                "nodes": [
                    {"id": 1, "name": "n", "TMPCs": {"1": [{"id": "vanilla", "timePerSample": 1, "memoryUsageB": "x"}]}}
                ]
            }
        ),
        "'n', width 1: memoryUsageB",
    ),
    "an edge without target": (json.dumps({**OURS, "edges": [{"source": "a"}]}), "edge 0: 'target'"),
    "an edge to nowhere": (json.dumps({**OURS, "edges": [{"source": "a", "target": "z"}]}), "no operation 'z'"),
    "dnn-partitioning without times": (
        json.dumps({"nodes": [{"id": 5, "name": "n"}], "edges": [], "maxFPGAs": 1}),
        "node 5: 'fpgaLatency'",
    ),
    "two nodes of one id": (json.dumps({"nodes": [{"id": 5}, {"id": 5}], "edges": []}), "same id"),
    "piper without versions": (
        json.dumps({"nodes": [{"id": 1, "name": "n", "TMPCs": {"1": []}}], "edges": []}),
        "'n', width 1: expected a list",
    ),
    "piper without widths": (
        json.dumps({"nodes": [{"id": 1, "name": "n", "TMPCs": {}}], "edges": []}),
        "'n'.*no width",
    ),
    "pipedream with a broken line": (
        "node1 -- ReLU -- forward_compute_time=1, backward_compute_time=1, activation_size=1, parameter_size=1\nwhat\n",
        "line 2",
    ),
    "pipedream with a broken number": (
        "node1 -- ReLU -- forward_compute_time=x, backward_compute_time=1, activation_size=1, parameter_size=1",
        "line 1: forward_compute_time",
    ),
    "pipedream with an unknown node": (
        "node1 -- ReLU -- forward_compute_time=1, backward_compute_time=1, activation_size=1, parameter_size=1\n"
        "\tnode1 -- node2",
        "line 2",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name, tmp_path):
    text, message = MALFORMED[name]
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(GraphError, match=message):
        load(path)


def test_byte_order_mark(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(OURS), encoding="utf-8-sig")
    assert len(load(path).operations) == 2


def test_binary_file(tmp_path):
    path = tmp_path / "graph.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphError, match="not a text file"):
        load(path)
