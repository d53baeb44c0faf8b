"""Period against latency and memory."""

from collections.abc import Iterable
from dataclasses import replace

from transfuse.plan.graph import Graph
from transfuse.plan.result import Plan
from transfuse.plan.settings import Budget, InfeasibleError, Settings, positive
from transfuse.plan.solver import solve, stages_plan


def frontier(
    graph: Graph,
    accelerators: int,
    *,
    cost_model: str = "none",
    bandwidth: float | None = None,
    link_latency: float = 0.0,
    time_limit: float = 20.0,
    effort: float | None = None,
    seed: int = 0,
) -> list[Plan]:
    """Plans of which none is better than another in period, latency and memory at once.

    Candidates are the best partitions into at most 1, 2, 3, … stages, the dedicated plan and the shared one. The time
    limit holds for all partitions together, and again for the shared plan.

    Returns
    -------
    list of Plan
        By period, the shortest first.

    Examples
    --------
    >>> from transfuse.plan import Edge, Graph, Operation, frontier
    >>> graph = Graph([Operation("a", {1: 2.0, 2: 1.2}), Operation("b", {1: 2.0, 2: 1.2})], [Edge("a", "b")])
    >>> [(plan.period, plan.latency) for plan in frontier(graph, 2, effort=1)]
    [(2.0, 4.0), (2.4, 2.4)]
    """
    budget = Budget(positive("time_limit", time_limit))
    found: list[Plan] = []
    asked = Settings(accelerators, "stages", False, cost_model, 0, bandwidth, link_latency).checked(graph)
    for stages in range(1, accelerators + 1):
        try:
            plan = stages_plan(graph, asked, max_stages=stages, stop=lambda: budget.left() <= 0)
        except (InfeasibleError, TimeoutError):
            continue
        if found and plan.period >= found[-1].period:
            continue
        # A bound for so many stages is none for the mode.
        found.append(replace(plan, lower_bound=0.0, bound="none"))
    for mode in ("dedicated", "shared"):
        try:
            found.append(
                solve(
                    graph,
                    accelerators,
                    mode=mode,
                    cost_model=cost_model,
                    bandwidth=bandwidth,
                    link_latency=link_latency,
                    time_limit=time_limit,
                    effort=effort,
                    seed=seed,
                )
            )
        except InfeasibleError:
            continue
    return pareto(found)


def pareto(plans: Iterable[Plan]) -> list[Plan]:
    """Those that no other plan beats in one of period, latency and peak memory without losing in another."""

    def values(plan: Plan) -> tuple[float, float, float]:
        return plan.period, plan.latency, max(plan.peak_memory)

    kept: list[Plan] = []
    for plan in sorted(plans, key=values):
        if not any(all(a <= b * (1 + 1e-9) for a, b in zip(values(k), values(plan), strict=True)) for k in kept):
            kept.append(plan)
    return kept
