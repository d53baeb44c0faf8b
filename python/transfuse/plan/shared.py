"""Operations that share accelerators in time: heuristics, local search, CP-SAT and bounds together."""

import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from transfuse.plan.bounds import AcceleratorBound, configuration_bound, fitting_bound, longest_bound, work_bound
from transfuse.plan.durations import durations
from transfuse.plan.exhaustive import Exhaustive
from transfuse.plan.graph import Graph
from transfuse.plan.kinds import kinds_of
from transfuse.plan.packing import Packing, Tree, make_tree
from transfuse.plan.result import Plan, assignments_of
from transfuse.plan.ruin import Search
from transfuse.plan.schedule import starts
from transfuse.plan.settings import Budget, InfeasibleError, Place, Settings
from transfuse.plan.solver import other_modes
from transfuse.plan.transfers import Relocation

CLOSE = 1e-4  # gap at which a search that cannot prove more ends
ROUNDS = 300  # of ruin and recreate from one start, for each operation
EFFORT = 80_000  # such rounds that count as an effort of 1
SMALL = 48  # operations × accelerators up to which CP-SAT goes to the end
ITEMS = 1200  # kinds × widths up to which a linear program takes seconds
FINE = 1e-9


class Sharing:
    """The search for one problem: the best plan and bound so far."""

    def __init__(self, graph: Graph, settings: Settings, budget: Budget, seed: int) -> None:
        self.graph = graph
        self.settings = settings
        self.budget = budget
        self.seed = seed
        self.kinds = kinds_of(graph, settings.accelerators)
        self.rounds = min(30_000, max(3000, ROUNDS * sum(kind.count for kind in self.kinds)))
        self.plan: Plan | None = None
        self.least_peak = math.inf  # of all plans, for the message if none fits the memory
        self.lower = work_bound(self.kinds, settings.accelerators)
        self.bound = "work"
        if not settings.replication:
            self.raise_bound(longest_bound(self.kinds), "longest operation")
            self.raise_bound(fitting_bound(self.kinds, settings.accelerators), "work at widths within the period")

    def raise_bound(self, value: float, name: str) -> None:
        """Take a better lower bound."""
        if value > self.lower * (1 + FINE):
            self.lower, self.bound = value, name
            self._tell()

    def offer(self, plan: Plan) -> None:
        """Take a plan if it is better and fits the memory."""
        limit = self.settings.memory
        if limit is not None:
            peak = max(plan.peak_memory)
            self.least_peak = min(self.least_peak, peak)
            if peak > limit * (1 + FINE):
                return
        if self.plan is None or plan.period < self.plan.period * (1 - 1e-12):
            self.plan = replace(plan, settings=self.settings)
            self._tell()

    def _tell(self) -> None:
        if self.budget.progress is not None and self.plan is not None:
            self.budget.progress(self.plan.period, min(self.lower, self.plan.period))

    @property
    def period(self) -> float:
        """Of the best plan."""
        return self.plan.period if self.plan is not None else math.inf

    def close(self, gap: float) -> bool:
        """Whether the gap is that small."""
        return self.period <= self.lower * (1 + gap)

    def run(self) -> None:
        """Search until the gap is closed, the budget is spent or the user interrupts."""
        share = 0.7 if self.settings.cost_model == "transfer" else 0.3  # of the time; with transfers they are the start
        for plan in other_modes(self.graph, self.settings, self._stop(share, sys.maxsize)):
            self.offer(plan)
        if self.plan is None:
            self.offer(self.greedy())
        if self.plan is None or not self.kinds:
            return
        if self.settings.replication or self.close(FINE) or self.budget.left() <= 0:
            return
        if self.settings.cost_model == "transfer":
            self._bounds()
            self._relocate()
            return
        self._pack(self._tree(None), self._area, self.rounds // 10, 0)
        if self.close(FINE):
            return
        self._bounds()
        if sum(kind.count for kind in self.kinds) * self.settings.accelerators <= SMALL:
            self._exactly()
            if not self.close(FINE):
                self._constraints()
        self._restart()

    def _bounds(self) -> None:
        """Linear programs, on a part of the budget."""
        p = self.settings.accelerators
        self.waste: dict[tuple[int, int], float] = {}
        if sum(len(kind.times) for kind in self.kinds) > ITEMS:
            return
        if p <= 16:
            stop = self._stop(0.1, 60)
            self.raise_bound(configuration_bound(self.kinds, p, self.period, self.lower, stop), "configuration LP")
        if not self.close(FINE):
            bound = AcceleratorBound(self.kinds, p, self.lower, self.period)
            self.raise_bound(bound.run(self._stop(0.4, 600)), "accelerator LP")
            self.waste = bound.waste

    def _stop(self, share: float, count: int) -> Callable[[], bool]:
        """A limit for a phase: a share of what is left of the time, or a number of calls if effort counts."""
        end = self.budget.left() * (1 - share)
        calls = 0

        def stop() -> bool:
            nonlocal calls
            calls += 1
            if self.budget.effort is not None:
                return calls > count * max(1.0, self.budget.effort) or self.budget.left() <= 0
            return self.budget.left() <= end

        return stop

    def _area(self, kind: int, width: int) -> float:
        """Accelerator-seconds above the least."""
        return width * self.kinds[kind].times[width] - self.kinds[kind].work

    def _dual(self, kind: int, width: int) -> float:
        """What a width costs by the duals of the accelerator bound, in accelerator-seconds."""
        return max(0.0, self.waste.get((kind, width), 1.0)) * self.lower

    def _tree(self, rng: random.Random | None) -> Tree:
        widths = sorted({width for kind in self.kinds for width in kind.times})
        return make_tree(self.settings.accelerators, widths or [1], rng)

    def _packing(self, tree: Tree, waste: Callable[[int, int], float]) -> Packing:
        return Packing(self.kinds, tree, waste)

    def _pack(self, tree: Tree, waste: Callable[[int, int], float], rounds: int, seed: int) -> int:
        """One start of ruin and recreate; returns the rounds that it took."""
        rng = random.Random(f"{self.seed}/{seed}")
        search = Search(self._packing(tree, waste), self.lower, rng)
        try:
            return search.run(rounds, lambda: self.budget.left() <= 0, self.lower * (1 + FINE))
        finally:
            if search.period < self.period * (1 - 1e-12):
                packing = self._packing(tree, waste)
                packing.copy_of(search.group)
                self.offer(self.packed(packing, search.group))

    def _restart(self) -> None:
        """From many starts: both ideas of waste, trees of large groups and random ones."""
        total = math.inf if self.budget.effort is None else EFFORT * self.budget.effort
        done = number = 0
        while done < total and not self.close(CLOSE) and self.budget.left() > 0:
            number += 1
            tree = self._tree(None if number % 4 in (1, 2) else random.Random(f"{self.seed}/tree/{number}"))
            waste = self._area if number % 4 == 2 or not self.waste else self._dual
            done += max(1, self._pack(tree, waste, int(min(self.rounds, total - done)), number))

    def _exactly(self) -> None:
        """Everything there is, while it is few."""
        search = Exhaustive(self.kinds, self.settings.accelerators, self.period, self._stop(0.5, 20_000))
        search.run()
        if search.best is not None:
            self.offer(self.placed(search.best.places, search.best.positions, search.best.period, "exhaustive search"))
        if search.complete:
            self.raise_bound(self.period, "exhaustive search")

    def _constraints(self) -> None:
        """CP-SAT, on a part of the budget."""
        from transfuse.plan.exact import solve_exactly

        effort = None if self.budget.effort is None else 5 * self.budget.effort
        seconds = max(0.01, 0.3 * self.budget.left())
        answer, lower, stopped = solve_exactly(
            self.kinds, self.settings.accelerators, self.lower, self.period, seconds, effort, self.seed
        )
        if answer is not None and answer.period < self.period:
            self.offer(self.placed(answer.places, answer.positions, answer.period, "CP-SAT"))
        self.raise_bound(min(lower, self.period), "CP-SAT")
        self.budget.interrupted |= stopped

    def _relocate(self) -> None:
        assert self.plan is not None
        widths = sorted({width for operation in self.graph.operations for width in operation.times})
        tree = make_tree(self.settings.accelerators, [q for q in widths if q <= self.settings.accelerators])
        search = Relocation(self.graph, self.settings, tree, random.Random(self.seed))
        total = math.inf if self.budget.effort is None else 20_000 * self.budget.effort
        places = [
            Place(self.plan.assignments[o.name].accelerators, self.plan.assignments[o.name].width)
            for o in self.graph.operations
        ]
        try:
            search.run(places, total, lambda: self.budget.left() <= 0 or self.close(CLOSE))
        finally:
            if search.improved and search.period < self.period * (1 - 1e-12):
                self.offer(self.placed_in_order(search.places, search.period, "relocation"))

    def greedy(self) -> Plan:
        """A plan at once."""
        if self.settings.cost_model == "transfer":
            narrow = [min(operation.times) for operation in self.graph.operations]
            return self.placed_in_order(
                [Place(tuple(range(width)), width) for width in narrow], 0.0, "one after the other"
            )
        packing = self._packing(self._tree(None), self._area)
        return self.packed(packing, Search(packing, self.lower, random.Random(self.seed)).group)

    def packed(self, packing: Packing, group: Sequence[int]) -> Plan:
        """The plan of a packing: every group works after the groups around it."""
        tree = packing.tree
        members = [i for kind in self.kinds for i in kind.members]
        rank = {i: number for number, i in enumerate(self.graph.order)}
        free = np.zeros(len(packing.loads))
        found: dict[int, tuple[Place, float]] = {}
        for number in sorted(range(len(members)), key=lambda number: (group[number], rank[members[number]])):
            begin, end = int(tree.begin[group[number]]), int(tree.end[group[number]])
            at = float(free[begin:end].max())
            free[begin:end] = at + packing.seconds[packing.kind_of[number]][group[number]]
            found[members[number]] = Place(tuple(range(begin, end)), end - begin), at
        period = float(free.max())
        places, positions = self._with_free(self._exchanged(found, period))
        return self._finish(places, positions, period, "ruin and recreate")

    def placed(self, found: Sequence[Place], at: Sequence[float], period: float, method: str) -> Plan:
        """The plan of given places and positions of the operations that take time."""
        members = [i for kind in self.kinds for i in kind.members]
        slots = self._exchanged(dict(zip(members, zip(found, at, strict=True), strict=True)), period)
        places, positions = self._with_free(slots)
        return self._finish(places, positions, period, method)

    def placed_in_order(self, places: Sequence[Place], period: float, method: str) -> Plan:
        """The plan of nested groups: larger ones first, in topological order."""
        times, _ = durations(self.graph, self.settings, places)
        free = np.zeros(self.settings.accelerators)
        positions = [0.0] * len(places)
        rank = {i: number for number, i in enumerate(self.graph.order)}
        for i in sorted(range(len(places)), key=lambda i: (-places[i].width, rank[i])):
            on = list(places[i].accelerators)
            positions[i] = float(free[on].max())
            free[on] = positions[i] + times[i]
        return self._finish(list(places), positions, max(period, float(free.max())), method)

    def _exchanged(self, found: dict[int, tuple[Place, float]], period: float) -> dict[int, tuple[Place, float]]:
        """The same slots, given to the operations of each kind so that along the graph each ends as early as it can.

        Whoever has a slot, the period stays; but a micro-batch gets through sooner, and less is in flight.
        """
        slots = {i: kind for kind in self.kinds for i in kind.members}
        free = {id(kind): [found[i] for i in kind.members] for kind in self.kinds}
        chosen: dict[int, tuple[Place, float]] = {}
        ends = [0.0] * len(self.graph.operations)
        for i in self.graph.order:
            ready = max((ends[u] for u in self.graph.predecessors[i]), default=0.0)
            ends[i] = ready
            if i not in slots:
                continue
            times = self.graph.operations[i].times

            def end(slot: tuple[Place, float], ready: float = ready, times: Mapping[int, float] = times) -> float:
                turns = max(0, math.ceil((ready - slot[1]) / period - FINE))
                return slot[1] + turns * period + times[slot[0].width]

            rest = free[id(slots[i])]
            chosen[i] = min(rest, key=end)
            ends[i] = end(chosen[i])
            rest.remove(chosen[i])
        return chosen

    def _with_free(self, found: dict[int, tuple[Place, float]]) -> tuple[list[Place], list[float]]:
        """Operations that take no time join a neighbour; they are never in the way."""
        for i in self.graph.order:
            if i in found:
                continue
            width = next(q for q, t in self.graph.operations[i].times.items() if t == 0)
            near = [found[j][0].accelerators for j in self.graph.predecessors[i] if j in found]
            numbers = next((place[:width] for place in near if len(place) >= width), tuple(range(width)))
            found[i] = Place(numbers, width), -1.0
        pairs = [found[i] for i in range(len(found))]
        return [place for place, _ in pairs], [position for _, position in pairs]

    def _finish(self, places: Sequence[Place], positions: Sequence[float], period: float, method: str) -> Plan:
        times, arcs = durations(self.graph, self.settings, places)
        # A free operation has no position of its own: it starts as soon as it can.
        turns = [0.0 if position < 0 else period for position in positions]
        ready = starts(self.graph, arcs, positions, turns)
        return Plan(
            self.graph,
            self.settings,
            period,
            min(self.lower, period),
            self.bound,
            assignments_of(self.graph, list(places), ready, times, period),
            method=method,
        )


def share(graph: Graph, settings: Settings, budget: Budget, seed: int, candidates: Sequence[Plan] = ()) -> Plan:
    """The best plan found; see `transfuse.plan.solve`."""
    search = Sharing(graph, settings, budget, seed)
    for candidate in candidates:
        plan = replace(candidate, graph=graph, settings=settings, lower_bound=0.0)
        plan.verify()
        search.offer(plan)
    try:
        search.run()
    except KeyboardInterrupt:
        budget.interrupted = True
    if search.plan is None:
        search.offer(search.greedy())
    if search.plan is None:
        raise InfeasibleError(
            f"memory: no plan was found that needs at most {settings.memory:.6g} bytes on an accelerator; the best in "
            f"that respect needs {search.least_peak:.6g}"
        )
    plan = search.plan
    return replace(plan, lower_bound=min(search.lower, plan.period), bound=search.bound)
