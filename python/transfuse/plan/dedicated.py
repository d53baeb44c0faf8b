"""Every operation on accelerators of its own: exact, by trying the candidate periods."""

import bisect
import math

from transfuse.plan.durations import cost, message_costs
from transfuse.plan.graph import Graph
from transfuse.plan.settings import InfeasibleError, Place, Settings


def dedicate(graph: Graph, settings: Settings) -> tuple[list[Place], float]:
    """Places of each operation, and the least period.

    A period T needs, for each operation, the fewest accelerators q·⌈t(q)/T⌉ over its widths q, or without replication
    the least q with t(q) ≤ T. Only the values t(q)/r can be the least period; the number of accelerators falls as T
    grows, so that bisection finds it.

    Raises
    ------
    InfeasibleError
        There are fewer accelerators than operations, or the memory does not suffice.
    """
    p = settings.accelerators
    times = [
        {
            width: seconds + _transfers(graph, settings, i, width)
            for width, seconds in operation.times.items()
            if width <= p and _fits(operation.memory + operation.parameters, width, settings)
        }
        for i, operation in enumerate(graph.operations)
    ]
    for operation, found in zip(graph.operations, times, strict=True):
        if not found:
            raise InfeasibleError(f"operation {operation.name!r} does not fit the memory at any width")
    most = p if settings.replication else 1
    candidates = sorted({t / r for found in times for q, t in found.items() for r in range(1, max(2, most // q + 1))})
    if _needed(times, candidates[-1], most) > p:
        raise InfeasibleError(f"{len(times)} operations of their own need more than {p} accelerators")
    first = bisect.bisect_left(candidates, True, key=lambda period: _needed(times, period, most) <= p)
    period = candidates[first]
    numbers = iter(range(p))
    places = []
    for found in times:
        count, width = _fewest(found, period, most)
        places.append(Place(tuple(next(numbers) for _ in range(int(count))), width))
    return places, period


def _fits(size: float, width: int, settings: Settings) -> bool:
    return settings.memory is None or size / width <= settings.memory


def _transfers(graph: Graph, settings: Settings, i: int, width: int) -> float:
    if settings.cost_model != "transfer":
        return 0.0
    costs = message_costs(graph, settings)
    place = Place(tuple(range(width)), width)
    moved = [costs[u] for u in graph.predecessors[i]] + ([costs[i]] if graph.successors[i] else [])
    return sum(cost(message, place, settings) for message in moved)


def _fewest(times: dict[int, float], period: float, most: int) -> tuple[float, int]:
    """The fewest accelerators that keep up with the period, and the width."""
    found = (math.inf, 0)
    for width, seconds in times.items():
        replicas = math.ceil(seconds / period - 1e-12) if period > 0 else (1 if seconds == 0 else math.inf)
        if replicas <= most:
            found = min(found, (width * max(1, replicas), width))
    return found


def _needed(times: list[dict[int, float]], period: float, most: int) -> float:
    return sum(_fewest(found, period, most)[0] for found in times)
