"""The least period by brute force: every width, every set of accelerators, every order around the period."""

import itertools

from scipy.optimize import linprog


def brute_force(times, accelerators):
    """`times` is one {width: seconds} for each operation. For a handful of operations only."""
    best = sum(min(found.values()) for found in times)  # one after the other, each on its fastest width
    seen = set()
    choices = [
        [(numbers, t) for q, t in found.items() for numbers in itertools.combinations(range(accelerators), q)]
        for found in times
    ]
    for chosen in itertools.product(*choices):
        durations = tuple(t for _, t in chosen)
        pairs = tuple(
            (i, j) for i, j in itertools.combinations(range(len(times)), 2) if set(chosen[i][0]) & set(chosen[j][0])
        )
        if (durations, pairs) in seen or max(durations) >= best:
            continue
        seen.add((durations, pairs))
        for order in itertools.permutations(range(len(times))):
            if order[0] == 0:  # the period may begin with any operation
                best = min(best, _least_period(durations, pairs, order))
    return best


def _least_period(durations, pairs, order):
    n = len(durations)
    rows, limits = [], []

    def require(later, earlier, seconds, turns):  # start[later] ≥ start[earlier] + seconds − turns·period
        row = [0.0] * (n + 1)
        row[earlier], row[later], row[n] = row[earlier] + 1, row[later] - 1, -turns
        rows.append(row)
        limits.append(-seconds)

    for i, j in pairs:
        first, second = sorted((i, j), key=order.index)
        require(second, first, durations[first], 0)
        require(first, second, durations[second], 1)
    rows += [[0.0] * n + [-1.0]] * n
    limits += [-seconds for seconds in durations]
    return linprog([0.0] * n + [1.0], A_ub=rows, b_ub=limits).fun


def contiguous(times, edges, accelerators):
    """The least period of contiguous stages of one width each, for a few operations: all orders, cuts and widths."""
    n = len(times)
    best = float("inf")
    for order in itertools.permutations(range(n)):
        rank = {i: number for number, i in enumerate(order)}
        if any(rank[u] > rank[v] for u, v in edges):
            continue
        for cuts in itertools.product((False, True), repeat=n - 1):
            stages = [[order[0]]]
            for i, cut in zip(order[1:], cuts, strict=True):
                if cut:
                    stages.append([])
                stages[-1].append(i)
            best = min(best, _best_widths(times, stages, accelerators))
    return best


def _best_widths(times, stages, accelerators):
    best = float("inf")
    options = [set.intersection(*(set(times[i]) for i in stage)) for stage in stages]
    for widths in itertools.product(*options):
        if sum(widths) <= accelerators:
            loads = [sum(times[i][q] for i in stage) for stage, q in zip(stages, widths, strict=True)]
            best = min(best, max(loads))
    return best
