"""Graphs from files: our JSON, and those of dnn-partitioning, Piper and PipeDream."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfuse.plan.graph import Edge, Graph, GraphError, Operation, require_amount, shortened, unique_names

VANILLA = "vanilla"  # Piper's name for an execution that stores its activations
PIPER_SIZES = {"memory": "memoryUsageA", "fixed": "memoryUsageB", "parameters": "parameterSize"}

_PIPEDREAM_LINE = re.compile(r"^(?P<id>\S+) -- (?P<description>.*) -- (?P<numbers>forward_compute_time=.*)$")


def load(path: str | Path) -> Graph:
    """Read a graph; which format it has is seen from its content.

    Parameters
    ----------
    path : str or Path
        Our JSON (``{"operations": [{"name", "kind", "times": {"1": 3.0}, "memory", "parameters"}], "edges": [{"source",
        "target", "bytes"}]}``), or an input of dnn-partitioning or Piper (JSON), or PipeDream's ``graph.txt``.

    Returns
    -------
    Graph
        In seconds, or in the file's unit of time for dnn-partitioning, which does not say which it is (milliseconds).
        `rules` keeps what only the planner that the file was made for understands.

    Raises
    ------
    GraphError
        The file is malformed; the message names the place.
    OSError
        It cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: not a text file: {error}") from None
    try:
        return loads(text)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def loads(text: str) -> Graph:
    """Read a graph from the text of a file; see `load`."""
    if _PIPEDREAM_LINE.match(text.lstrip().partition("\n")[0].rstrip()):
        return _pipedream(text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"neither JSON ({error}) nor a PipeDream graph") from None
    return from_dict(data)


def from_dict(data: Any) -> Graph:
    """A graph from the content of a JSON file; see `load`."""
    if not isinstance(data, dict):
        raise GraphError(f"expected a JSON object, got {type(data).__name__}")
    if "operations" in data:
        return _ours(data)
    nodes = _objects(data, "nodes")
    if any("TMPCs" in node for node in nodes):
        return _piper(data, nodes)
    return _dnn_partitioning(data, nodes)


def _ours(data: Mapping[str, Any]) -> Graph:
    rows = _objects(data, "operations")
    given = [_name(row, f"operation {i}") for i, row in enumerate(rows)]
    names = unique_names(given)
    operations = [
        Operation(
            name,
            {_width(key, name): time for key, time in _mapping(row, "times", f"operation {name!r}").items()},
            str(row.get("kind", "")),
            row.get("memory", 0.0),
            row.get("parameters", 0.0),
        )
        for name, row in zip(names, rows, strict=True)
    ]
    edges = [
        Edge(_get(row, "source", f"edge {i}"), _get(row, "target", f"edge {i}"), row.get("bytes", 0.0))
        for i, row in enumerate(_objects(data, "edges", required=False))
    ]
    for edge in edges:
        for name in (edge.source, edge.target):
            if name in given and name not in names:
                raise GraphError(
                    f"edge {edge.source!r} → {edge.target!r}: {name!r} is the name of several operations; write "
                    f"{name}#0 or {name}#1 for one of them"
                )
    return Graph(operations, edges, _rules(data.get("rules", {}), set(names)))


def _name(row: Mapping[str, Any], what: str) -> str:
    name = _get(row, "name", what)
    if not isinstance(name, str):
        raise GraphError(f"{what}: 'name' must be a text, got {name!r}")
    return name


RULES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "dnn-partitioning": {
        "accelerators": int,
        "cpus": int,
        "memory": (int, float),
        "transfer": dict,
        "cpu_times": dict,
        "colors": dict,
        "backward": list,
        "unsupported": list,
    },
    "piper": {
        "accelerators": int,
        "bandwidth": (int, float),
        "memory": (int, float),
        "micro_batches": int,
        "details": dict,
    },
    "pipedream": {"bandwidth": (int, float)},
}
"""What `Graph.rules` must hold for each published planner, by its ``format``."""


def _rules(rules: Any, names: set[str]) -> dict[str, Any]:
    """The rules of a file of ours that was made from a published planner's."""
    if not isinstance(rules, dict):
        raise GraphError(f"'rules' must be an object, got {type(rules).__name__}")
    expected = RULES.get(rules.get("format", ""), {}) if isinstance(rules.get("format", ""), str) else {}
    for key, kind in expected.items():
        value = _get(rules, key, "rules")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise GraphError(f"rules: {key!r} must be a {_named_type(kind)}, got {shortened(value)}")
        named = value if isinstance(value, (dict, list)) else ()
        unknown = [name for name in named if not isinstance(name, str) or name not in names]
        if unknown:
            raise GraphError(f"rules: {key!r} names {unknown[0]!r}, which is no operation")
    for key in ("bandwidth", "memory"):
        if key in rules:
            require_amount(rules[key], f"rules: {key!r}")
    for key in ("details", "cpu_times"):
        missing = names - set(rules[key]) if key in expected else set()
        if missing:
            raise GraphError(f"rules: {key!r} lacks operation {min(missing)!r}")
    return rules


def _named_type(kind: type | tuple[type, ...]) -> str:
    return {int: "whole number", dict: "mapping (JSON object)", list: "list"}.get(kind, "number")  # type: ignore[arg-type]


def _dnn_partitioning(data: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Graph:
    names = _named(nodes)
    operations = []
    for row in nodes:
        what = f"node {row['id']}"
        operations.append(
            Operation(
                names[row["id"]],
                {1: _get(row, "fpgaLatency", what)},
                kind=re.sub(r"[\d.]+", "", str(row.get("name", ""))),
                memory=row.get("size", 0.0),
            )
        )
    costs: dict[str, float] = {}
    edges = []
    for source, target, row in _edges(data, names):
        cost = require_amount(_get(row, "cost", f"edge {source} → {target}"), f"edge {source} → {target}: cost")
        if abs(costs.setdefault(source, cost) - cost) > 1e-6:
            raise GraphError(f"operation {source!r} has edges of different costs")
        edges.append(Edge(source, target, row.get("size", 0.0)))
    cpu_times = {
        names[row["id"]]: require_amount(_get(row, "cpuLatency", f"node {row['id']}"), f"node {row['id']}: cpuLatency")
        for row in nodes
    }
    rules = {
        "format": "dnn-partitioning",
        "accelerators": _integer(data, "maxFPGAs"),
        "cpus": _integer(data, "maxCPUs"),
        "memory": require_amount(_get(data, "maxSizePerFPGA", "file"), "maxSizePerFPGA"),
        "transfer": costs,
        "cpu_times": cpu_times,
        "colors": {names[row["id"]]: str(row["colorClass"]) for row in nodes if "colorClass" in row},
        "backward": [names[row["id"]] for row in nodes if row.get("isBackwardNode")],
        "unsupported": [names[row["id"]] for row in nodes if not row.get("supportedOnFpga", True)],
    }
    return Graph(operations, edges, rules)


def _piper(data: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Graph:
    names = _named(nodes)
    operations = []
    details: dict[str, dict[str, Any]] = {}
    for row in nodes:
        name = names[row["id"]]
        versions = {
            _width(key, name): _vanilla(found, f"operation {name!r}, width {key}")
            for key, found in _mapping(row, "TMPCs", f"operation {name!r}").items()
        }
        if not versions:
            raise GraphError(f"operation {name!r}: there is no width at all in its TMPCs")
        first = versions[min(versions)]
        operations.append(
            Operation(
                name,
                {width: _get(found, "timePerSample", f"operation {name!r}") for width, found in versions.items()},
                str(row.get("name", "")),
                first.get("memoryUsageA", 0.0),
                first.get("parameterSize", 0.0),
            )
        )
        details[name] = {
            str(width): {
                **{
                    key: require_amount(found.get(field, 0.0), f"operation {name!r}, width {width}: {field}")
                    for key, field in PIPER_SIZES.items()
                },
                "sync_in": _by_name(found, "syncTimeFw", names),
                "sync_out": _by_name(found, "syncTimeBw", names),
            }
            for width, found in versions.items()
        }
    edges = [
        Edge(source, target, _get(row, "communicationCost", f"edge {source} → {target}"))
        for source, target, row in _edges(data, names)
    ]
    rules = {
        "format": "piper",
        "accelerators": _integer(data, "maxDevices"),
        "bandwidth": require_amount(_get(data, "bandwidth", "file"), "bandwidth"),
        "memory": require_amount(_get(data, "maxMemoryPerDevice", "file"), "maxMemoryPerDevice"),
        "micro_batches": _integer(data, "mbsInBatch"),
        "details": details,
    }
    return Graph(operations, edges, rules)


def _vanilla(versions: Any, what: str) -> dict[str, Any]:
    """The version without recomputation, or the only one."""
    if not isinstance(versions, list) or not all(isinstance(version, dict) for version in versions) or not versions:
        raise GraphError(f"{what}: expected a list of versions")
    found: dict[str, Any] = next((version for version in versions if version.get("id") == VANILLA), versions[0])
    return found


def _by_name(version: Mapping[str, Any], key: str, names: Mapping[Any, str]) -> dict[str, float]:
    by_id = {str(number): name for number, name in names.items()}
    found = {}
    for number, size in _mapping(version, key, "version").items():
        if number not in by_id:
            raise GraphError(f"{key}: there is no node {number}")
        found[by_id[number]] = require_amount(size, f"{key} of node {number}")
    return found


def _pipedream(text: str) -> Graph:
    rows: dict[str, tuple[str, dict[str, float]]] = {}
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if line.startswith("\t"):
            ends = line.strip().split(" -- ")
            if len(ends) != 2 or any(end not in rows for end in ends):
                raise GraphError(f"line {number}: an edge of two known nodes was expected, got {line.strip()!r}")
            pairs.append((ends[0], ends[1]))
            continue
        match = _PIPEDREAM_LINE.match(line.rstrip())
        if not match:
            raise GraphError(f"line {number}: neither a node nor an edge: {line.strip()!r}")
        rows[match["id"]] = (match["description"], _pipedream_numbers(match["numbers"], number))
    # The input is data, no work; and what only takes a tuple's element apart is none either, unless something reads it.
    sources = {source for source, _ in pairs}
    targets = {target for _, target in pairs}
    inputs = {
        name for name, (description, _) in rows.items() if name not in targets and description.startswith("Input")
    }
    unread = {name for name, (what, _) in rows.items() if name not in sources and what.startswith("__getitem__")}
    kept = [name for name in rows if name not in inputs | unread]
    operations = [
        Operation(
            name,
            {1: (rows[name][1]["forward_compute_time"] + rows[name][1]["backward_compute_time"]) / 1000},
            rows[name][0].partition("(")[0],
            rows[name][1]["activation_size"],
            rows[name][1]["parameter_size"],
        )
        for name in kept
    ]
    edges = [Edge(a, b, rows[a][1]["activation_size"]) for a, b in pairs if a in kept and b in kept]
    return Graph(operations, edges, {"format": "pipedream", "bandwidth": 1e9})


def _pipedream_numbers(text: str, number: int) -> dict[str, float]:
    found = {}
    for part in text.partition(" -- ")[0].split(", "):
        key, _, value = part.partition("=")
        try:
            found[key] = sum(float(one) for one in value.strip("[]").split("; "))
        except ValueError:
            raise GraphError(f"line {number}: {key} is no number: {value!r}") from None
    for key in ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size"):
        require_amount(found.get(key), f"line {number}: {key}")
    return found


def _objects(data: Mapping[str, Any], key: str, required: bool = True) -> list[dict[str, Any]]:
    rows = data.get(key, None if required else [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GraphError(f"{key!r} must be a list of objects")
    return rows


def _get(row: Mapping[str, Any], key: str, what: str) -> Any:
    if key not in row:
        raise GraphError(f"{what}: {key!r} is missing")
    return row[key]


def _mapping(row: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    found = _get(row, key, what)
    if not isinstance(found, dict):
        raise GraphError(f"{what}: {key!r} must be an object")
    return found


def _width(text: str, name: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise GraphError(f"operation {name!r}: widths must be integers from 1 on, got {text!r}")
    return int(text)


def _integer(data: Mapping[str, Any], key: str) -> int:
    value = _get(data, key, "file")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GraphError(f"{key} must be an integer from 0 on, got {value!r}")
    return value


def _named(nodes: list[dict[str, Any]]) -> dict[Any, str]:
    """Unique names by id."""
    ids = [_get(row, "id", f"node {i}") for i, row in enumerate(nodes)]
    for i, one in enumerate(ids):
        if not isinstance(one, (int, str)):
            raise GraphError(f"node {i}: 'id' must be a number or a text, got {one!r}")
    repeated = [one for one, count in Counter(map(str, ids)).items() if count > 1]
    if repeated:
        raise GraphError(f"two nodes have the same id {repeated[0]}")
    texts = (str(row.get("name") or f"node{row['id']}") for row in nodes)
    return dict(zip(ids, unique_names(texts), strict=True))


def _edges(data: Mapping[str, Any], names: Mapping[Any, str]) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for i, row in enumerate(_objects(data, "edges", required=False)):
        ends = [_get(row, key, f"edge {i}") for key in ("sourceId", "destId")]
        for end in ends:
            if not isinstance(end, (int, str)) or end not in names:
                raise GraphError(f"edge {i}: there is no node {end!r}")
        found.append((names[ends[0]], names[ends[1]], row))
    return found
