"""Bytes that a plan needs on each accelerator."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfuse.plan.result import Plan


def peaks(plan: "Plan") -> list[float]:
    """The most bytes on each accelerator.

    Weights stay; the output of an operation stays from its start until the last operation that reads it ends, on the
    operation's own accelerators. Both are divided evenly among the accelerators of a group.
    """
    lifetimes = _lifetimes(plan)
    held: list[list[tuple[float, float, float, float]]] = [[] for _ in range(plan.settings.resources)]
    weights = [0.0] * plan.settings.resources
    for operation in plan.graph.operations:
        assignment = plan.assignments[operation.name]
        turn = plan.period * assignment.replicas
        for number, accelerator in enumerate(assignment.accelerators):
            weights[accelerator] += operation.parameters / assignment.width
            if operation.memory:
                begin = plan.start(operation.name) + number // assignment.width * plan.period
                size = operation.memory / assignment.width
                held[accelerator].append((begin, lifetimes[operation.name], turn, size))
    return [fixed + _peak(intervals) for fixed, intervals in zip(weights, held, strict=True)]


def _lifetimes(plan: "Plan") -> dict[str, float]:
    last = {operation.name: plan.end(operation.name) for operation in plan.graph.operations}
    for edge in plan.graph.edges:
        last[edge.source] = max(last[edge.source], plan.end(edge.target))
    return {name: end - plan.start(name) for name, end in last.items()}


def _peak(intervals: list[tuple[float, float, float, float]]) -> float:
    """The fullest moment of intervals (start, length, turn, size) that repeat every turn."""
    if len({turn for _, _, turn, _ in intervals}) > 1 or any(turn <= 0 for _, _, turn, _ in intervals):
        return sum(size * _copies(length, turn) for _, length, turn, size in intervals)
    base = 0.0
    events: list[tuple[float, int, float]] = []
    for start, length, turn, size in intervals:
        turns = math.floor(length / turn + 1e-9)
        base += size * turns
        rest = max(0.0, length - turns * turn)
        if rest <= 1e-9 * turn:
            continue
        begin = start % turn
        events += [(begin, 1, size), ((begin + rest) % turn, 0, -size)]
        if begin + rest > turn:
            base += size
    level = highest = base
    for _, _, change in sorted(events):
        level += change
        highest = max(highest, level)
    return highest


def _copies(length: float, turn: float) -> int:
    return max(1, math.ceil(length / turn - 1e-9)) if turn > 0 else 1
