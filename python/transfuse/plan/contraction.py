"""Units that must stay together: dnn-partitioning's colocation and contractions."""

from collections.abc import Iterable

from transfuse.plan.graph import Graph

FREE = 1e-6  # a node that takes less is free, in dnn-partitioning's eyes


class Partition:
    """Disjoint sets (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, i: int) -> int:
        """What stands for the set of `i`."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make one set of two."""
        self._parent[self.find(i)] = self.find(j)


def singletons(graph: Graph) -> tuple[list[list[int]], list[list[int]]]:
    """Every operation a unit: the units' operations, and the units that each one follows."""
    return [[i] for i in range(len(graph.operations))], graph.predecessors


def colocated(graph: Graph) -> tuple[list[list[int]], list[list[int]]]:
    """The units of dnn-partitioning's throughput-dp: their operations, and the units that each one follows.

    Operations of a colour are one unit. Only forward operations order the units; one that has only backward operations
    is ordered by their mirrored edges. What then lies on a cycle is one unit, and a free unit with one neighbour
    joins it.
    """
    rules = graph.rules
    n = len(graph.operations)
    sets = Partition(n)
    first: dict[object, int] = {}
    for name, color in rules["colors"].items():
        i = graph.index[name]
        sets.join(i, first.setdefault(color, i))
    backward = [False] * n
    for name in rules["backward"]:
        backward[graph.index[name]] = True
    pairs = [(graph.index[e.source], graph.index[e.target]) for e in graph.edges]
    has_forward = {sets.find(i) for i in range(n) if not backward[i]}
    order = [(u, v) for u, v in pairs if not backward[u] and not backward[v]]
    order += [
        (v, u) for u, v in pairs if backward[u] and backward[v] and not {sets.find(u), sets.find(v)} <= has_forward
    ]
    _join_cycles(sets, order, n)
    _join_free_leaves(graph, sets, order, pairs, backward)

    roots = list(dict.fromkeys(sets.find(i) for i in graph.order))
    number = {root: unit for unit, root in enumerate(roots)}
    units: list[list[int]] = [[] for _ in roots]
    for i in graph.order:
        units[number[sets.find(i)]].append(i)
    before: list[set[int]] = [set() for _ in roots]
    for u, v in order:
        a, b = number[sets.find(u)], number[sets.find(v)]
        if a != b:
            before[b].add(a)
    return units, [sorted(found) for found in before]


def _join_cycles(sets: Partition, order: Iterable[tuple[int, int]], n: int) -> None:
    """Join what reaches each other (reachability as bit masks; the graphs are small)."""
    order = list(order)
    reach = {sets.find(i): 1 << sets.find(i) for i in range(n)}
    changed = True
    while changed:
        changed = False
        for u, v in order:
            a, b = sets.find(u), sets.find(v)
            if reach[b] & ~reach[a]:
                reach[a] |= reach[b]
                changed = True
    roots = list(reach)
    for a in roots:
        for b in roots:
            if a < b and reach[a] >> b & 1 and reach[b] >> a & 1:
                sets.join(a, b)


def _join_free_leaves(
    graph: Graph, sets: Partition, order: list[tuple[int, int]], pairs: list[tuple[int, int]], backward: list[bool]
) -> None:
    costs = [operation.times[1] + graph.rules["cpu_times"].get(operation.name, 0.0) for operation in graph.operations]
    while True:
        forward_cost: dict[int, float] = {}
        backward_cost: dict[int, float] = {}
        for i, cost in enumerate(costs):
            table = backward_cost if backward[i] else forward_cost
            table[sets.find(i)] = table.get(sets.find(i), 0.0) + cost
        neighbours: dict[int, set[int]] = {sets.find(i): set() for i in range(len(costs))}
        for u, v in order:
            a, b = sets.find(u), sets.find(v)
            if a != b:
                neighbours[a].add(b)
                neighbours[b].add(a)
        tied = {sets.find(i) for u, v in pairs if backward[u] != backward[v] for i in (u, v) if not backward[i]}
        leaf = next(
            (
                root
                for root, around in neighbours.items()
                if len(around) == 1
                and root not in tied
                and forward_cost.get(root, 0.0) < FREE
                and backward_cost.get(root, 0.0) < FREE
            ),
            None,
        )
        if leaf is None:
            return
        sets.join(leaf, next(iter(neighbours[leaf])))
