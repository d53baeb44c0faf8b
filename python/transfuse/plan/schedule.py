"""From places and positions on the cylinder to start times: precedence costs latency, not period."""

import math
from collections.abc import Sequence

from transfuse.plan.durations import Arc, durations
from transfuse.plan.graph import Graph
from transfuse.plan.settings import Place, Settings
from transfuse.plan.stages import Partition

SLACK = 1e-9  # of a period: what rounding may take


def starts(
    graph: Graph, arcs: Sequence[Sequence[Arc]], positions: Sequence[float], circumferences: Sequence[float]
) -> list[float]:
    """The earliest start of each operation that is at its position modulo its circumference.

    Operation i may start at ``positions[i] + k·circumferences[i]``; the least integer k ≥ 0 is taken that lets it
    follow its arcs, along a topological order. An operation of circumference 0 starts as soon as it can.
    """
    found = [0.0] * len(positions)
    for i in graph.order:
        ready = max((found[u] + delay for u, delay in arcs[i]), default=0.0)
        length = circumferences[i]
        if length == 0:
            found[i] = ready
            continue
        found[i] = positions[i] + max(0, math.ceil((ready - positions[i]) / length - SLACK)) * length
    return found


def place_stages(partition: Partition, settings: Settings) -> list[Place]:
    """Accelerators for each stage, in order; CPUs have the numbers after them."""
    accelerators, cpus = iter(range(settings.accelerators)), iter(range(settings.accelerators, settings.resources))
    found: dict[int, Place] = {}
    for stage in partition.stages:
        option = stage.option
        numbers = (next(cpus),) if option.cpu else tuple(next(accelerators) for _ in range(option.accelerators))
        found.update(dict.fromkeys(stage.operations, Place(numbers, option.width)))
    return [found[i] for i in range(len(found))]


def schedule_blocks(
    graph: Graph, settings: Settings, places: Sequence[Place], period: float
) -> tuple[list[float], list[float]]:
    """Starts and durations if the operations that share accelerators run one after the other, in topological order.

    Each block starts when the operations before it let all of it run without a pause; under a memory limit only after
    all of the block before it, which bounds what is in flight as the rules of the stages assume.
    """
    times, arcs = durations(graph, settings, places)
    blocks: dict[tuple[int, ...], list[int]] = {}
    for i in graph.order:
        blocks.setdefault(places[i].accelerators, []).append(i)
    positions = [0.0] * len(times)
    circumferences = [period * place.replicas for place in places]
    found: dict[int, float] = {}
    last_end = 0.0
    for block in blocks.values():
        begin = last_end if settings.memory is not None else 0.0
        elapsed = 0.0
        for i in block:
            ready = max((found[u] + delay for u, delay in arcs[i] if u in found), default=0.0)
            begin = max(begin, ready - elapsed)
            elapsed += times[i]
        elapsed = 0.0
        for i in block:
            found[i] = begin + elapsed
            positions[i] = math.fmod(found[i], circumferences[i]) if circumferences[i] > 0 else 0.0
            elapsed += times[i]
        last_end = begin + elapsed
    return starts(graph, arcs, positions, circumferences), times
