"""An independent check of plans: nothing here is shared with the solvers."""

import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfuse.plan.result import Assignment, Plan

TOLERANCE = 1e-7  # of a period


class PlanError(ValueError):
    """A plan that is wrong."""


def verify(plan: "Plan") -> None:
    """Raise PlanError with the first thing that is wrong with a plan."""
    _check_numbers(plan)
    for operation in plan.graph.operations:
        _check_assignment(plan, operation.name)
    received = _receivers(plan)
    _check_durations(plan, received)
    _check_overlaps(plan)
    _check_precedence(plan, received)
    _check_mode(plan)
    if plan.settings.cost_model == "dnn-partitioning":
        _check_colocation(plan)
    if plan.settings.cost_model == "pipedream":
        _check_links(plan)
    _check_memory(plan)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _check_numbers(plan: "Plan") -> None:
    _require(math.isfinite(plan.period) and plan.period >= 0, f"the period is {plan.period}")
    _require(math.isfinite(plan.lower_bound) and plan.lower_bound >= 0, f"the lower bound is {plan.lower_bound}")
    _require(
        plan.lower_bound <= plan.period * (1 + TOLERANCE),
        f"the lower bound {plan.lower_bound} is above the period {plan.period}",
    )
    names = {operation.name for operation in plan.graph.operations}
    missing, unknown = sorted(names - set(plan.assignments)), sorted(set(plan.assignments) - names)
    _require(not missing, f"operation {missing[0] if missing else ''!r} is not assigned")
    _require(not unknown, f"there is no operation {unknown[0] if unknown else ''!r}")


def _check_assignment(plan: "Plan", name: str) -> None:
    found, settings = plan.assignments[name], plan.settings
    operation = plan.graph.operations[plan.graph.index[name]]
    count = len(found.accelerators)
    _require(count > 0, f"operation {name!r} has no accelerator")
    _require(len(set(found.accelerators)) == count, f"operation {name!r} has an accelerator twice")
    beyond = settings.accelerators + settings.cpus
    _require(
        all(0 <= number < beyond for number in found.accelerators),
        f"operation {name!r} is on accelerators {list(found.accelerators)}, there are {beyond}",
    )
    _require(
        found.width >= 1 and count % found.width == 0, f"operation {name!r}: {count} accelerators, not width × replicas"
    )
    _require(found.width in operation.times, f"operation {name!r} has no time at width {found.width}")
    _require(settings.replication or count == found.width, f"operation {name!r} is replicated, which was not allowed")
    _require(count == 1 or max(found.accelerators) < settings.accelerators, f"operation {name!r} is wide on a CPU")
    _require(isinstance(found.shift, int) and found.shift >= 0, f"operation {name!r} has the shift {found.shift}")
    _require(
        0 <= found.offset < plan.period or found.offset == plan.period == 0,
        f"operation {name!r} has the offset {found.offset}, the period is {plan.period}",
    )
    _require(math.isfinite(found.duration) and found.duration >= 0, f"operation {name!r} lasts {found.duration}")


def _receivers(plan: "Plan") -> dict[tuple[str, tuple[int, ...]], str]:
    """Who receives an output for all on the same accelerators: the first reader in topological order."""
    found: dict[tuple[str, tuple[int, ...]], str] = {}
    if plan.settings.cost_model not in ("transfer", "dnn-partitioning"):
        return found
    rank = {operation.name: i for i, operation in enumerate(plan.graph.sorted())}
    for edge in sorted(plan.graph.edges, key=lambda edge: rank[edge.target]):
        target = plan.assignments[edge.target].accelerators
        if plan.assignments[edge.source].accelerators != target:
            found.setdefault((edge.source, target), edge.target)
    return found


def _message(plan: "Plan", source: str, side: "Assignment") -> float:
    """Seconds that the output of `source` takes at one side of the link."""
    settings = plan.settings
    if side.accelerators[0] >= settings.accelerators:
        return 0.0
    if settings.cost_model == "dnn-partitioning":
        return float(plan.graph.rules["transfer"][source])
    size = max(edge.bytes for edge in plan.graph.edges if edge.source == source)
    return settings.link_latency + size / (settings.bandwidth or math.nan) / side.width


def _receiving(plan: "Plan", received: dict[tuple[str, tuple[int, ...]], str]) -> dict[str, float]:
    found = dict.fromkeys(plan.assignments, 0.0)
    for (source, _), target in received.items():
        found[target] += _message(plan, source, plan.assignments[target])
    return found


def _check_durations(plan: "Plan", received: dict[tuple[str, tuple[int, ...]], str]) -> None:
    expected = _receiving(plan, received)
    for source in {source for source, _ in received}:
        expected[source] += _message(plan, source, plan.assignments[source])
    settings, rules = plan.settings, plan.graph.rules
    bandwidth = settings.bandwidth or math.inf
    for operation in plan.graph.operations:
        found = plan.assignments[operation.name]
        on_cpu = found.accelerators[0] >= settings.accelerators
        expected[operation.name] += rules["cpu_times"][operation.name] if on_cpu else operation.times[found.width]
        r = found.replicas
        if settings.cost_model == "pipedream":
            expected[operation.name] += 4 * (r - 1) / r * operation.parameters / bandwidth
        if settings.cost_model == "piper":
            weights = rules["details"][operation.name][str(found.width)]["parameters"]
            expected[operation.name] += 4 * (r - 1) * weights / rules["micro_batches"] / bandwidth
    if settings.cost_model == "piper":
        for edge in plan.graph.edges:
            a, b = plan.assignments[edge.source], plan.assignments[edge.target]
            if a.accelerators != b.accelerators:
                out = rules["details"][edge.source][str(a.width)]["sync_out"].get(edge.target, 0.0)
                into = rules["details"][edge.target][str(b.width)]["sync_in"].get(edge.source, 0.0)
                expected[edge.source] += 2 * (edge.bytes + out) / bandwidth
                expected[edge.target] += 2 * (edge.bytes + into) / bandwidth
    for name, seconds in expected.items():
        found = plan.assignments[name]
        _require(
            math.isclose(found.duration, seconds, rel_tol=TOLERANCE, abs_tol=TOLERANCE * plan.period),
            f"operation {name!r} lasts {found.duration}, its places mean {seconds}",
        )
        _require(
            found.duration <= plan.period * found.replicas * (1 + TOLERANCE),
            f"operation {name!r} lasts {found.duration}, longer than its {found.replicas} replicas allow",
        )


def _check_overlaps(plan: "Plan") -> None:
    """On each accelerator, the intervals of all micro-batches over a whole number of turns are disjoint."""
    on: dict[int, list[tuple[str, int]]] = {}
    for name, found in plan.assignments.items():
        for number, accelerator in enumerate(found.accelerators):
            if found.duration > 0:
                on.setdefault(accelerator, []).append((name, number // found.width))
    for accelerator, jobs in on.items():
        rounds = math.lcm(*(plan.assignments[name].replicas for name, _ in jobs))
        turn = rounds * plan.period
        intervals = []
        for name, group in jobs:
            found = plan.assignments[name]
            for batch in range(group, rounds, found.replicas):
                begin = (found.offset + (found.shift + batch) * plan.period) % turn
                intervals.append((begin, begin + found.duration, name))
        intervals.sort()
        intervals.append((intervals[0][0] + turn, math.inf, intervals[0][2]))
        for (_, end, name), (begin, _, other) in itertools.pairwise(intervals):
            _require(
                end <= begin + TOLERANCE * plan.period,
                f"operations {name!r} and {other!r} overlap on accelerator {accelerator}",
            )


def _check_precedence(plan: "Plan", received: dict[tuple[str, tuple[int, ...]], str]) -> None:
    def start(name: str) -> float:
        found = plan.assignments[name]
        return found.offset + found.shift * plan.period

    late = TOLERANCE * plan.period
    receiving = _receiving(plan, received)
    for edge in plan.graph.edges:
        end = start(edge.source) + plan.assignments[edge.source].duration
        _require(start(edge.target) >= end - late, f"operation {edge.target!r} starts before {edge.source!r} ends")
        receiver = received.get((edge.source, plan.assignments[edge.target].accelerators), edge.target)
        if receiver != edge.target:
            _require(
                start(edge.target) >= start(receiver) + receiving[receiver] - late,
                f"operation {edge.target!r} starts before {receiver!r} has received the output of {edge.source!r}",
            )


def _check_mode(plan: "Plan") -> None:
    sets = {found.accelerators for found in plan.assignments.values()}
    if plan.mode in ("stages", "dedicated"):
        _require(
            len({number for numbers in sets for number in numbers}) == sum(map(len, sets)),
            f"two {'stages' if plan.mode == 'stages' else 'operations'} share an accelerator",
        )
    if plan.mode == "dedicated":
        _require(len(sets) == len(plan.assignments), "two operations have the same accelerators")
    if plan.mode == "stages":
        for numbers in sets:
            widths = {found.width for found in plan.assignments.values() if found.accelerators == numbers}
            _require(len(widths) == 1, f"the stage on accelerators {list(numbers)} has the widths {sorted(widths)}")
        if not plan.graph.rules.get("backward"):
            _stage_order(plan)


def _stage_order(plan: "Plan") -> list[tuple[int, ...]]:
    """The stages in an order that the edges allow; PlanError if they are not contiguous."""
    sets = list(dict.fromkeys(found.accelerators for found in plan.assignments.values()))
    before: dict[tuple[int, ...], set[tuple[int, ...]]] = {numbers: set() for numbers in sets}
    for edge in plan.graph.edges:
        a, b = plan.assignments[edge.source].accelerators, plan.assignments[edge.target].accelerators
        if a != b:
            before[b].add(a)
    order: list[tuple[int, ...]] = []
    while len(order) < len(sets):
        free = [numbers for numbers in sets if numbers not in order and before[numbers] <= set(order)]
        _require(bool(free), "the stages are not contiguous: they depend on each other")
        order += sorted(free)[:1]
    return order


def _check_colocation(plan: "Plan") -> None:
    colors: dict[object, tuple[str, tuple[int, ...]]] = {}
    for name, color in plan.graph.rules["colors"].items():
        place = plan.assignments[name].accelerators
        other, expected = colors.setdefault(color, (name, place))
        _require(place == expected, f"operations {other!r} and {name!r} must be together")
    for name in plan.graph.rules["unsupported"]:
        place = plan.assignments[name].accelerators
        _require(place[0] >= plan.settings.accelerators, f"operation {name!r} can only run on a CPU")


def _check_links(plan: "Plan") -> None:
    """PipeDream: what enters and what leaves a stage passes within the period."""
    order = _stage_order(plan)
    bandwidth = plan.settings.bandwidth or math.inf
    done: set[str] = set()
    for a, b in itertools.pairwise(order):
        done |= {name for name, found in plan.assignments.items() if found.accelerators == a}
        leaving = {edge.source for edge in plan.graph.edges if edge.source in done and edge.target not in done}
        size = sum(plan.graph.operations[plan.graph.index[name]].memory for name in leaving)
        for numbers in (b,) if a == order[0] else (a, b):
            seconds = 2 * size / bandwidth / len(numbers)
            _require(
                seconds <= plan.period * (1 + TOLERANCE),
                f"the transfer to accelerators {list(b)} takes {seconds}, longer than the period",
            )


def _check_memory(plan: "Plan") -> None:
    limit = plan.settings.memory
    if limit is None:
        return
    if plan.settings.cost_model in ("none", "transfer"):
        for accelerator, size in enumerate(_memory(plan)):
            _require(size <= limit * (1 + TOLERANCE), f"accelerator {accelerator} needs {size} bytes of {limit}")
        return
    order = _stage_order(plan) if plan.settings.cost_model != "dnn-partitioning" else []
    sets = order or list({found.accelerators for found in plan.assignments.values()})
    for number, place in enumerate(sets):
        if place[0] >= plan.settings.accelerators:
            continue
        names = [name for name, found in plan.assignments.items() if found.accelerators == place]
        replicas = plan.assignments[names[0]].replicas
        following = sum(
            next(found.replicas for found in plan.assignments.values() if found.accelerators == other)
            for other in sets[number + 1 :]
        )
        size = _published_memory(plan, names, following, replicas)
        _require(
            size <= limit * (1 + TOLERANCE), f"the stage on accelerators {list(place)} needs {size} of {limit} bytes"
        )


def _published_memory(plan: "Plan", names: list[str], following: int, replicas: int) -> float:
    graph = plan.graph
    operations = [graph.operations[graph.index[name]] for name in names]
    if plan.settings.cost_model == "dnn-partitioning":
        return sum(operation.memory for operation in operations)
    if plan.settings.cost_model == "pipedream":
        versions = max(1, math.ceil(following / replicas))
        return versions * sum(operation.memory + operation.parameters for operation in operations)
    in_flight = math.ceil((following + replicas) / replicas)
    kept = [graph.rules["details"][name][str(plan.assignments[name].width)] for name in names]
    return float(sum(found["memory"] * in_flight + found["fixed"] for found in kept))


def _memory(plan: "Plan") -> list[float]:
    """The most bytes on each accelerator, from the times at which something is taken or given back."""
    found = []
    for accelerator in range(plan.settings.accelerators):
        fixed, spans = 0.0, []
        for operation in plan.graph.operations:
            at = plan.assignments[operation.name]
            if accelerator not in at.accelerators:
                continue
            fixed += operation.parameters / at.width
            begin = at.offset + at.shift * plan.period
            ends = [plan.end(edge.target) for edge in plan.graph.edges if edge.source == operation.name]
            end = max([begin + at.duration, *ends])
            begin += at.accelerators.index(accelerator) // at.width * plan.period
            end += at.accelerators.index(accelerator) // at.width * plan.period
            if operation.memory and end > begin:
                spans.append((begin, end, plan.period * at.replicas, operation.memory / at.width))
        moments = [begin for begin, *_ in spans]
        level = max((sum(_alive(moment, *span) for span in spans) for moment in moments), default=0.0)
        found.append(fixed + level)
    return found


def _alive(moment: float, begin: float, end: float, turn: float, size: float) -> float:
    """Bytes of the copies, one every turn, that are there at a moment."""
    slack = TOLERANCE * turn
    return size * (math.floor((moment - begin + slack) / turn) - math.ceil((moment - end + slack) / turn) + 1)
