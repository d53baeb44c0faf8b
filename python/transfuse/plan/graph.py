"""Graphs of moldable operations: what is planned."""

import contextlib
import heapq
import json
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

LARGEST = 1e300  # of a number in a graph: sums stay finite


class GraphError(ValueError):
    """A graph, or a file of one, that makes no sense. The message names the operation or the place."""


@dataclass(frozen=True)
class Operation:
    """A moldable operation.

    Attributes
    ----------
    name : str
        Unique in its graph.
    times : mapping of int to float
        Seconds for one micro-batch on 1, 2, … accelerators. Widths may be missing; zero is a legal time.
    kind : str
        What operations of the same sort have in common; colours the Gantt chart.
    memory : float
        Bytes that one micro-batch in flight keeps, from the operation's start until its last consumer ends.
    parameters : float
        Bytes of weights, resident. Both are divided evenly among the accelerators of the operation.
    """

    name: str
    times: Mapping[int, float]
    kind: str = ""
    memory: float = 0.0
    parameters: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise GraphError(f"an operation's name must be a text that is not empty, got {self.name!r}")
        what = f"operation {self.name!r}"
        if not isinstance(self.times, Mapping):
            raise GraphError(f"{what}: times must be a mapping of width to seconds, got {self.times!r}")
        if not self.times:
            raise GraphError(f"{what}: there is no width at all in its times")
        times = {
            require_count(width, f"{what}: a width"): require_amount(time, f"{what}: the time at width {width}")
            for width, time in self.times.items()
        }
        object.__setattr__(self, "times", dict(sorted(times.items())))
        for name in ("memory", "parameters"):
            object.__setattr__(self, name, require_amount(getattr(self, name), f"{what}: {name}"))


@dataclass(frozen=True)
class Edge:
    """`target` reads `bytes` bytes that `source` writes."""

    source: str
    target: str
    bytes: float = 0.0


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph of moldable operations.

    Attributes
    ----------
    operations : sequence of Operation
    edges : sequence of Edge
        Parallel edges are merged; the larger number of bytes counts.
    rules : mapping
        What a published planner's file says beyond this (its format, bandwidth, colocation, …); see
        `transfuse.plan.load`.

    Raises
    ------
    GraphError
        Two operations of one name, an edge to an unknown operation or to itself, a negative number of bytes, a cycle.

    Examples
    --------
    >>> from transfuse.plan import Edge, Graph, Operation
    >>> graph = Graph([Operation("a", {1: 3.0, 2: 2.0}), Operation("b", {1: 1.0})], [Edge("a", "b", 1e6)])
    >>> [operation.name for operation in graph.sorted()]
    ['a', 'b']
    """

    operations: Sequence[Operation]
    edges: Sequence[Edge] = ()
    rules: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if not self.operations:
            raise GraphError("a graph needs at least one operation")
        names: set[str] = set()
        for operation in self.operations:
            if not isinstance(operation, Operation):
                raise GraphError(f"operations must be of type Operation, got {operation!r}")
            if operation.name in names:
                raise GraphError(f"operation {operation.name!r} is there twice")
            names.add(operation.name)
        merged: dict[tuple[str, str], float] = {}
        for edge in self.edges:
            if not isinstance(edge, Edge):
                raise GraphError(f"edges must be of type Edge, got {edge!r}")
            for name in (edge.source, edge.target):
                if not isinstance(name, str) or name not in names:
                    raise GraphError(f"edge {edge.source!r} → {edge.target!r}: there is no operation {name!r}")
            if edge.source == edge.target:
                raise GraphError(f"operation {edge.source!r} reads its own output")
            size = require_amount(edge.bytes, f"edge {edge.source!r} → {edge.target!r}: bytes")
            key = (edge.source, edge.target)
            merged[key] = max(merged.get(key, 0.0), size)
        object.__setattr__(self, "edges", tuple(Edge(*key, size) for key, size in merged.items()))
        self._require_acyclic()

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each operation's name in `operations`."""
        return {operation.name: i for i, operation in enumerate(self.operations)}

    @cached_property
    def successors(self) -> list[list[int]]:
        """Positions of the operations that read each one's output."""
        found: list[list[int]] = [[] for _ in self.operations]
        for edge in self.edges:
            found[self.index[edge.source]].append(self.index[edge.target])
        return found

    @cached_property
    def predecessors(self) -> list[list[int]]:
        """Positions of the operations whose output each one reads."""
        found: list[list[int]] = [[] for _ in self.operations]
        for edge in self.edges:
            found[self.index[edge.target]].append(self.index[edge.source])
        return found

    @cached_property
    def order(self) -> list[int]:
        """A topological order of the positions; among the free ones the first in the file comes first."""
        missing = [len(before) for before in self.predecessors]
        free = [i for i, count in enumerate(missing) if count == 0]
        order = []
        while free:
            i = heapq.heappop(free)
            order.append(i)
            for j in self.successors[i]:
                missing[j] -= 1
                if missing[j] == 0:
                    heapq.heappush(free, j)
        return order

    def _require_acyclic(self) -> None:
        if len(self.order) == len(self.operations):
            return
        left = set(range(len(self.operations))) - set(self.order)
        i = min(left)
        seen: list[int] = []
        while i not in seen:
            seen.append(i)
            i = next(j for j in self.predecessors[i] if j in left)
        cycle = [self.operations[j].name for j in reversed(seen[seen.index(i) :])]
        raise GraphError(f"the graph has a cycle: {' → '.join([*cycle, cycle[0]])}")

    def sorted(self) -> list[Operation]:
        """The operations in topological order."""
        return [self.operations[i] for i in self.order]

    def scaled(self, factor: float) -> "Graph":
        """The same graph with every time multiplied (times only; not the data of a published planner)."""
        return Graph(
            [
                Operation(o.name, {q: t * factor for q, t in o.times.items()}, o.kind, o.memory, o.parameters)
                for o in self.operations
            ],
            self.edges,
        )

    def repeated(self, copies: int) -> "Graph":
        """`copies` disjoint copies of the graph, named ``name@1``, ``name@2``, …, and the first as it is."""

        def name(text: str, copy: int) -> str:
            return f"{text}@{copy}" if copy else text

        return Graph(
            [
                Operation(name(o.name, copy), o.times, o.kind, o.memory, o.parameters)
                for copy in range(copies)
                for o in self.operations
            ],
            [Edge(name(e.source, copy), name(e.target, copy), e.bytes) for copy in range(copies) for e in self.edges],
        )

    def to_dict(self) -> dict[str, Any]:
        """The graph as `transfuse.plan.load` reads it from JSON."""
        found: dict[str, Any] = {
            "operations": [
                {
                    "name": o.name,
                    "kind": o.kind,
                    "times": {str(width): time for width, time in o.times.items()},
                    "memory": o.memory,
                    "parameters": o.parameters,
                }
                for o in self.operations
            ],
            "edges": [{"source": e.source, "target": e.target, "bytes": e.bytes} for e in self.edges],
        }
        if self.rules:
            found["rules"] = dict(self.rules)
        return found

    def to_json(self, path: str | Path) -> None:
        """Write the graph to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def require_amount(value: object, what: str) -> float:
    """A finite number from zero on; GraphError otherwise."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            amount = float(value)
            if 0 <= amount <= LARGEST:
                return amount
    raise GraphError(f"{what} must be a finite number from 0 on, got {shortened(value)}")


def shortened(value: object) -> str:
    """What came instead, in a line of an error message."""
    text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) and value > 1 << 64 else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def require_count(value: object, what: str) -> int:
    """An integer from one on; GraphError otherwise."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1:
        return int(value)
    raise GraphError(f"{what} must be an integer from 1 on, got {shortened(value)}")


def unique_names(names: Iterable[str]) -> list[str]:
    """Names that a file repeats become ``name#0``, ``name#1``, …

    >>> unique_names(["layer", "head", "layer"])
    ['layer#0', 'head', 'layer#1']
    """
    names = list(names)
    given = set(names)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    counts = dict.fromkeys(repeated, 0)
    found = []
    for name in names:
        unique = name
        while name in repeated and unique in given:
            unique = f"{name}#{counts[name]}"
            counts[name] += 1
        given.add(unique)
        found.append(unique)
    return found
