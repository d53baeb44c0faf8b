"""`solve`: the best plan of a mode, with its bound."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from transfuse.plan.dedicated import dedicate
from transfuse.plan.graph import Graph
from transfuse.plan.result import Plan, assignments_of
from transfuse.plan.schedule import place_stages, schedule_blocks
from transfuse.plan.settings import PUBLISHED, Budget, InfeasibleError, Settings, positive
from transfuse.plan.stages import partition


def solve(
    graph: Graph,
    accelerators: int,
    *,
    mode: str = "shared",
    replication: bool = False,
    cost_model: str = "none",
    cpus: int = 0,
    bandwidth: float | None = None,
    link_latency: float = 0.0,
    memory: float | None = None,
    time_limit: float = 60.0,
    effort: float | None = None,
    seed: int = 0,
    candidates: Sequence[Plan] = (),
    progress: Callable[[float, float], None] | None = None,
) -> Plan:
    """Find the shortest period at which micro-batches can enter the graph.

    Parameters
    ----------
    graph : Graph
    accelerators : int
        How many there are, from 1 on; they are alike.
    mode : {"shared", "stages", "dedicated"}
        Operations share accelerators in time; or contiguous groups of operations have accelerators of their own, and
        one width each; or every operation has its own. The last two are solved exactly.
    replication : bool
        Whether micro-batches may go round several groups of accelerators that do the same. In mode "shared" only the
        plans of the other modes replicate.
    cost_model : {"none", "transfer", "piper", "dnn-partitioning", "pipedream"}
        How communication counts: not at all; by our own model (see docs/planning.md); or by the rules of a published
        planner, for a graph that was read from its file, in mode "stages".
    cpus : int
        How many CPUs there are beside the accelerators (dnn-partitioning only).
    bandwidth : float, optional
        Bytes per second of an accelerator's link. By default what the file says.
    link_latency : float
        Seconds per transfer (cost_model "transfer").
    memory : float, optional
        Bytes per accelerator that the plan may need at its peak. By default what the file says under the rules of
        dnn-partitioning and Piper, else no limit.
    time_limit : float
        Seconds after which mode "shared" returns the best plan so far, as it does on Ctrl-C, and mode "stages" the best
        partition along one order, which is not exact.
    effort : float, optional
        Instead of the clock: how much to search, 1 being what about ten seconds do. The same seed then gives the same
        plan, unless the time limit cuts in.
    seed : int
    candidates : sequence of Plan
        Plans of the same operations, perhaps on fewer accelerators, that mode "shared" starts from.
    progress : callable, optional
        Gets the period and the lower bound whenever one of them improves.

    Returns
    -------
    Plan

    Raises
    ------
    InfeasibleError
        No plan exists: too few accelerators, or too little memory.
    TimeoutError
        There was no time for any plan.
    PlanError
        A candidate is not a plan for this problem.
    ValueError
        The arguments do not fit together.

    Examples
    --------
    >>> from transfuse.plan import Edge, Graph, Operation, solve
    >>> graph = Graph([Operation("a", {1: 2.0, 2: 1.2}), Operation("b", {1: 1.0})], [Edge("a", "b")])
    >>> solve(graph, 2, mode="stages").period
    2.0
    >>> solve(graph, 3, mode="dedicated").period
    1.2
    """
    if not isinstance(graph, Graph):
        raise TypeError(f"graph must be a Graph (transfuse.plan.load reads a file), got {type(graph).__name__}")
    asked = Settings(accelerators, mode, replication, cost_model, cpus, bandwidth, link_latency, memory)
    settings = asked.checked(graph)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    effort = None if effort is None else positive("effort", effort)
    seconds = positive("time_limit", time_limit)
    if settings.mode == "shared":
        try:
            from transfuse.plan.shared import share  # may import SciPy, which is not the search's time
        except ModuleNotFoundError as error:
            raise ImportError(f"mode 'shared' needs {error.name}: pip install transfuse[plan]") from error
    budget = Budget(seconds, effort, progress)
    if settings.mode == "dedicated":
        plan = _dedicated(graph, settings)
    elif settings.mode == "stages":
        plan = stages_plan(graph, settings, stop=lambda: budget.left() <= 0)
    else:
        plan = share(graph, settings, budget, seed, candidates)
    plan = replace(plan, seconds=budget.elapsed(), seed=seed)
    if progress is not None:
        progress(plan.period, plan.lower_bound)
    return plan


def stages_plan(
    graph: Graph, settings: Settings, max_stages: int | None = None, stop: Callable[[], bool] = bool
) -> Plan:
    """The best plan of contiguous stages, or of those along one order once `stop` says so; see `partition`."""
    if settings.memory is not None and settings.cost_model not in PUBLISHED:
        # The rule of the stages overestimates what is in flight: the best plan without a limit may fit.
        free = stages_plan(graph, replace(settings, memory=None), max_stages, stop)
        if max(free.peak_memory) <= settings.memory:
            return replace(free, settings=settings)
    found = partition(graph, settings, max_stages, stop)
    places = place_stages(found, settings)
    starts, times = schedule_blocks(graph, settings, places, found.period)
    bound, why = found.period, "exact dynamic programming"
    if not found.exact:
        bound, why = _simple_bound(graph, settings), "work and longest operation"
    return Plan(
        graph,
        settings,
        found.period,
        bound,
        why,
        assignments_of(graph, places, starts, times, found.period),
        method="dynamic programming over " + ("ideals" if found.exact else "one order"),
    )


def other_modes(graph: Graph, settings: Settings, stop: Callable[[], bool]) -> Iterator[Plan]:
    """What the other modes give for a shared problem, as far as they are feasible and done before `stop`."""
    with contextlib.suppress(InfeasibleError, TimeoutError):
        yield stages_plan(graph, replace(settings, mode="stages"), stop=stop)
    if len(graph.operations) <= settings.accelerators:
        with contextlib.suppress(InfeasibleError):
            yield _dedicated(graph, replace(settings, mode="dedicated"))


def _simple_bound(graph: Graph, settings: Settings) -> float:
    p = settings.accelerators
    usable = [{q: t for q, t in o.times.items() if q <= p} for o in graph.operations]
    work = math.fsum(min(q * t for q, t in times.items()) for times in usable) / p
    if settings.replication or settings.cpus:
        return work if not settings.cpus else 0.0
    return max(work, *(min(times.values()) for times in usable))


def _dedicated(graph: Graph, settings: Settings) -> Plan:
    places, period = dedicate(graph, settings)
    starts, times = schedule_blocks(graph, replace(settings, memory=None), places, period)
    plan = Plan(
        graph,
        settings,
        period,
        period,
        "exact over the candidate periods",
        assignments_of(graph, places, starts, times, period),
        method="bisection over the candidate periods",
    )
    if settings.memory is not None and max(plan.peak_memory) > settings.memory * (1 + 1e-9):
        raise InfeasibleError(
            f"memory: the plan of least period needs {max(plan.peak_memory):.6g} bytes on an accelerator, there are "
            f"{settings.memory:.6g}"
        )
    return plan
