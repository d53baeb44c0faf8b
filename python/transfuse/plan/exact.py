"""Small problems to the end: CP-SAT over sets of accelerators and intervals that may wrap around the period."""

import math
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import linprog

from transfuse.plan.kinds import Kind
from transfuse.plan.settings import Place

FINE = 10**7  # cells of a period, where times have no common measure
WINDINGS = 60  # lcm(1, …, 6): periods are sums of times over the number of turns of a chain of operations


@dataclass(frozen=True)
class Answer:
    """What the solver found: places and positions by operation (kind after kind), and a bound."""

    places: list[Place]
    positions: list[float]
    period: float
    lower: float


def measure(times: Sequence[float], upper: float) -> tuple[float, bool]:
    """A unit of time, and whether all times and likely periods are whole multiples of it."""
    fractions = [Fraction(time).limit_denominator(10**6) for time in times]
    if all(float(fraction) == time for fraction, time in zip(fractions, times, strict=True)):
        unit = Fraction(1, math.lcm(*(fraction.denominator for fraction in fractions)) * WINDINGS)
        if upper / unit < 10**8:
            return float(unit), True
    return upper / FINE, False


def solve_exactly(
    kinds: Sequence[Kind],
    accelerators: int,
    lower: float,
    upper: float,
    seconds: float,
    effort: float | None,
    seed: int,
) -> tuple[Answer | None, float, bool]:
    """The best schedule below `upper` if there is one, a lower bound, and whether a signal ended the search."""
    operations = [kind.times for kind in kinds for _ in range(kind.count)]
    unit, whole = measure([time for times in operations for time in times.values()], upper)
    slack = 0 if whole else len(operations)
    horizon = math.ceil(upper / unit) + slack
    model = cp_model.CpModel()
    period = model.new_int_var(max(0, math.floor(lower / unit) - slack), horizon, "period")
    member: list[list[cp_model.IntVar]] = []
    starts, chosen = [], []
    intervals: list[list[cp_model.IntervalVar]] = [[] for _ in range(accelerators)]
    for i, times in enumerate(operations):
        widths = {width: model.new_bool_var(f"width_{i}_{width}") for width in times}
        model.add_exactly_one(widths.values())
        on = [model.new_bool_var(f"on_{i}_{a}") for a in range(accelerators)]
        model.add(sum(on) == sum(width * flag for width, flag in widths.items()))
        cells = {width: round(time / unit) for width, time in times.items()}
        duration = model.new_int_var_from_domain(cp_model.Domain.from_values(list(cells.values())), f"duration_{i}")
        model.add(duration == sum(cells[width] * flag for width, flag in widths.items()))
        model.add(duration <= period)
        start = model.new_int_var(0, horizon, f"start_{i}")
        model.add(start < period)
        end, again, again_end = (model.new_int_var(0, 3 * horizon, f"{name}_{i}") for name in ("end", "again", "last"))
        model.add(again == start + period)
        for a in range(accelerators):
            # The next turn's copy keeps what wraps around the period off the other operations.
            intervals[a].append(model.new_optional_interval_var(start, duration, end, on[a], f"here_{i}_{a}"))
            intervals[a].append(model.new_optional_interval_var(again, duration, again_end, on[a], f"there_{i}_{a}"))
        member.append(on)
        starts.append(start)
        chosen.append(widths)
    for parts in intervals:
        model.add_no_overlap(parts)
    for a in range(accelerators - 1):  # accelerators are alike
        codes = [sum(on[b] * (1 << i) for i, on in enumerate(member)) for b in (a, a + 1)]
        model.add(codes[0] >= codes[1])
    model.add(starts[0] == 0)
    first = 0
    for kind in kinds:  # so are operations of a kind
        for i in range(first, first + kind.count - 1):
            if i > 0:
                model.add(starts[i] <= starts[i + 1])
        first += kind.count
    model.minimize(period)

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_time_in_seconds = max(0.01, seconds)
    if effort is not None:
        solver.parameters.max_deterministic_time = effort
    # OR-tools stops at Ctrl-C, but leaves the signal to the system's default, which would kill the process at the next.
    in_main = threading.current_thread() is threading.main_thread()
    solver.parameters.catch_sigint_signal = in_main
    handler = signal.getsignal(signal.SIGINT)
    status = solver.solve(model)
    if in_main and handler is not None:
        signal.signal(signal.SIGINT, handler)
    stopped = status != cp_model.OPTIMAL and effort is None and solver.wall_time < 0.9 * seconds
    if status == cp_model.INFEASIBLE:
        return None, upper, False
    cells = solver.best_objective_bound
    bound = max(lower, least_ratio((cells - 1) * unit, unit, n=len(operations)) if whole else (cells - slack) * unit)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, bound, stopped
    widths_found = [next(width for width, flag in flags.items() if solver.value(flag)) for flags in chosen]
    places = [
        Place(tuple(a for a in range(accelerators) if solver.value(on[a])), width)
        for on, width in zip(member, widths_found, strict=True)
    ]
    order = [solver.value(start) for start in starts]
    durations = [times[width] for times, width in zip(operations, widths_found, strict=True)]
    positions, found = straighten(places, durations, order)
    return Answer(places, positions, found, bound), min(bound, found), stopped


def least_ratio(above: float, unit: float, n: int) -> float:
    """The least possible period above a number of seconds, if all times are multiples of ``unit·WINDINGS``.

    A period is a sum of times over the number of turns of a cycle, of which there are at most n.
    """
    measure = unit * WINDINGS
    return min((math.floor(above / measure * turns + 1e-6) + 1) * measure / turns for turns in range(1, n + 1))


def straighten(
    places: Sequence[Place], durations: Sequence[float], order: Sequence[float]
) -> tuple[list[float], float]:
    """Positions, and the least period with the given sets and order on every accelerator: a linear program."""
    n = len(places)
    rows, demand = [], []
    for i in range(n):
        for j in range(n):
            if i == j or not set(places[i].accelerators) & set(places[j].accelerators):
                continue
            if (order[i], i) < (order[j], j):
                rows.append({i: 1.0, j: -1.0})
            else:
                rows.append({i: 1.0, j: -1.0, n: -1.0})
            demand.append(-durations[i])
    for i in range(n):
        rows.append({n: -1.0})
        demand.append(-durations[i])
    matrix = np.zeros((len(rows), n + 1))
    for number, row in enumerate(rows):
        matrix[number, list(row)] = list(row.values())
    found = linprog([*[0.0] * n, 1.0], A_ub=matrix, b_ub=demand, method="highs")
    if found.status != 0:
        raise RuntimeError(f"HiGHS: {found.message}")
    return [float(position) for position in found.x[:n]], float(found.x[n])
