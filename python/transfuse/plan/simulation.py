"""Event-driven execution of a plan."""

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfuse.plan.settings import integer, is_finite

if TYPE_CHECKING:
    from transfuse.plan.result import Assignment, Plan


@dataclass(frozen=True)
class Simulation:
    """What an execution showed.

    Attributes
    ----------
    throughput : float
        Micro-batches per second in the steady state: without the first and the last ones, while the pipeline fills and
        drains.
    utilisation : list of float
        Share of the steady state in which each accelerator was busy.
    in_flight : int
        The most micro-batches that had started and not ended.
    makespan : float
        From the first start to the last end.
    latency : float
        Mean over the micro-batches, in seconds.
    """

    throughput: float
    utilisation: list[float]
    in_flight: int
    makespan: float
    latency: float


def simulate(plan: "Plan", n: int, *, jitter: float = 0.0, seed: int = 0) -> Simulation:
    """Execute `n` micro-batches, one released every period.

    An operation starts at its planned time, or as soon after as its inputs are there and its accelerators have finished
    what the plan puts before it.

    Parameters
    ----------
    plan : Plan
    n : int
        At least 2.
    jitter : float
        Standard deviation of each duration, as a share of it; the factor is lognormal, with mean 1.
    seed : int

    Returns
    -------
    Simulation
    """
    integer("n", n, 2)
    if not is_finite(jitter) or jitter < 0:
        raise ValueError(f"jitter must be a finite number from 0 on, got {jitter!r}")
    operations = plan.graph.sorted()
    rank = {operation.name: i for i, operation in enumerate(operations)}
    assigned = [plan.assignments[operation.name] for operation in operations]
    count = len(operations)
    durations = np.tile([found.duration for found in assigned], (n, 1))
    if jitter:
        spread = math.sqrt(math.log1p(jitter**2))
        durations *= np.random.default_rng(seed).lognormal(-(spread**2) / 2, spread, durations.shape)
    planned = [found.offset + found.shift * plan.period for found in assigned]

    after: list[list[int]] = [[] for _ in operations]
    waiting = np.zeros((n, count), np.int64)
    for edge in plan.graph.edges:
        after[rank[edge.source]].append(rank[edge.target])
        waiting[:, rank[edge.target]] += 1
    queues = _queues(plan, planned, assigned, n)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for queue in queues:
        for job, then in itertools.pairwise(queue):
            following.setdefault(job, []).append(then)
            waiting[then] += 1

    starts = np.array(planned) + plan.period * np.arange(n)[:, None]
    events = [(starts[job], job) for job in np.ndindex(n, count) if waiting[job] == 0]
    heapq.heapify(events)
    while events:
        start, (batch, i) = heapq.heappop(events)
        end = start + durations[batch, i]
        for job in [(batch, j) for j in after[i]] + following.get((batch, i), []):
            starts[job] = max(starts[job], end)
            waiting[job] -= 1
            if waiting[job] == 0:
                heapq.heappush(events, (starts[job], job))
    return _measured(plan, starts, durations, assigned)


def _queues(plan: "Plan", planned: list[float], assigned: "list[Assignment]", n: int) -> list[list[tuple[int, int]]]:
    """The jobs (micro-batch, operation) of each accelerator in the plan's order."""
    queues: list[list[tuple[float, int, int]]] = [[] for _ in range(plan.settings.resources)]
    for i, found in enumerate(assigned):
        if found.duration == 0:  # takes no accelerator, so it waits for none
            continue
        for batch in range(n):
            group = batch % found.replicas * found.width
            # Rounded, so that a very short operation comes before the one that starts at the same time after it.
            at = round((planned[i] + batch * plan.period) / (plan.period or 1.0), 7)
            for accelerator in found.accelerators[group : group + found.width]:
                queues[accelerator].append((at, batch, i))
    return [[(batch, i) for _, batch, i in sorted(queue)] for queue in queues]


def _measured(plan: "Plan", starts: np.ndarray, durations: np.ndarray, assigned: "list[Assignment]") -> Simulation:
    n = len(starts)
    ends = starts + durations
    begun, ended = starts.min(axis=1), ends.max(axis=1)
    edge = min(plan.in_flight, (n - 2) // 2)
    first, last = edge, n - 1 - edge
    window = ended[last] - ended[first]
    throughput = (last - first) / window if window > 0 else math.inf
    inside = np.clip(np.minimum(ends, ended[last]) - np.maximum(starts, ended[first]), 0, None)
    utilisation = [0.0] * plan.settings.resources
    for i, found in enumerate(assigned):
        for number, accelerator in enumerate(found.accelerators):
            utilisation[accelerator] += inside[number // found.width :: found.replicas, i].sum()
    moments = sorted([(time, 1) for time in begun] + [(time, -1) for time in ended])
    slack = 1e-9 * plan.period
    level = highest = 0
    for _, change in sorted((time - slack if change < 0 else time, change) for time, change in moments):
        level += change
        highest = max(highest, level)
    return Simulation(
        float(throughput),
        [float(seconds / window) if window > 0 else 0.0 for seconds in utilisation],
        highest,
        float(ended.max() - begun.min()),
        float((ended - begun).mean()),
    )
