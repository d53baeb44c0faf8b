"""How long an operation holds its accelerators: its work, and the transfers that its places cause."""

from collections.abc import Mapping, Sequence

from transfuse.plan.graph import Graph
from transfuse.plan.rules import output_sizes
from transfuse.plan.settings import Place, Settings

Arc = tuple[int, float]
"""An operation that must have started (its position), and how long before."""


def durations(graph: Graph, settings: Settings, places: Sequence[Place]) -> tuple[list[float], list[list[Arc]]]:
    """Seconds that each operation holds its accelerators, and the arcs between operations that this means.

    Arcs are those of the graph, from the start of a producer, and one from the operation that receives an output for
    all on its accelerators to each of the others.
    """
    if settings.cost_model in ("transfer", "dnn-partitioning"):
        found, received = _with_messages(graph, settings, places)
    else:
        found, received = _work(graph, settings, places), {}
    arcs = [[(u, found[u]) for u in before] for before in graph.predecessors]
    for first, readers, seconds in received.values():
        for reader in readers:
            arcs[reader].append((first, seconds[first]))
    return found, arcs


def _work(graph: Graph, settings: Settings, places: Sequence[Place]) -> list[float]:
    found = [operation.times[place.width] for operation, place in zip(graph.operations, places, strict=True)]
    if settings.cost_model == "pipedream":
        assert settings.bandwidth is not None
        for i, place in enumerate(places):
            r = place.replicas
            found[i] += 4 * (r - 1) * graph.operations[i].parameters / (settings.bandwidth * r)
    if settings.cost_model == "piper":
        _add_piper(graph, settings, places, found)
    return found


def _add_piper(graph: Graph, settings: Settings, places: Sequence[Place], found: list[float]) -> None:
    bandwidth, details = settings.bandwidth, graph.rules["details"]
    assert bandwidth is not None
    for edge in graph.edges:
        u, v = graph.index[edge.source], graph.index[edge.target]
        if places[u] != places[v]:
            sent = details[edge.source][str(places[u].width)]["sync_out"].get(edge.target, 0.0)
            received = details[edge.target][str(places[v].width)]["sync_in"].get(edge.source, 0.0)
            found[u] += 2 * (edge.bytes + sent) / bandwidth
            found[v] += 2 * (edge.bytes + received) / bandwidth
    for operation, (i, place) in zip(graph.operations, enumerate(places), strict=True):
        weights = details[operation.name][str(place.width)]["parameters"]
        found[i] += 4 * (place.replicas - 1) * weights / graph.rules["micro_batches"] / bandwidth


Received = Mapping[tuple[int, tuple[int, ...]], tuple[int, list[int], list[float]]]


def _with_messages(graph: Graph, settings: Settings, places: Sequence[Place]) -> tuple[list[float], Received]:
    """Once per output that leaves its accelerators, once per set of accelerators that reads it."""
    found = _work(graph, settings, places)
    costs = message_costs(graph, settings)
    receiving = [0.0] * len(found)
    received: dict[tuple[int, tuple[int, ...]], tuple[int, list[int], list[float]]] = {}
    if settings.cost_model == "dnn-partitioning":
        for i, place in enumerate(places):
            if place.accelerators[0] >= settings.accelerators:
                found[i] = graph.rules["cpu_times"][graph.operations[i].name]
    for v in graph.order:
        for u in graph.predecessors[v]:
            if places[u].accelerators == places[v].accelerators:
                continue
            key = (u, places[v].accelerators)
            if key in received:
                received[key][1].append(v)
            else:
                received[key] = (v, [], receiving)
                receiving[v] += cost(costs[u], places[v], settings)
    for u, after in enumerate(graph.successors):
        if any(places[v].accelerators != places[u].accelerators for v in after):
            found[u] += cost(costs[u], places[u], settings)
    return [a + b for a, b in zip(found, receiving, strict=True)], received


def message_costs(graph: Graph, settings: Settings) -> list[tuple[float, float]]:
    """For each operation's output: seconds that do not depend on the width, and seconds at width 1 that do."""
    if settings.cost_model == "dnn-partitioning":
        return [(graph.rules["transfer"].get(operation.name, 0.0), 0.0) for operation in graph.operations]
    assert settings.bandwidth is not None
    return [(settings.link_latency, size / settings.bandwidth) for size in output_sizes(graph)]


def cost(message: tuple[float, float], place: Place, settings: Settings) -> float:
    """Seconds that one side of a transfer takes; CPUs pay nothing."""
    if place.accelerators[0] >= settings.accelerators:
        return 0.0
    return message[0] + message[1] / place.width
