"""Lower bounds of the period, by linear programs with generated columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from transfuse.plan.kinds import Kind

Floats = NDArray[np.float64]
Column = tuple[int, ...]
Stop = Callable[[], bool]
"""Says when a search must end."""
CELLS = 12000  # of the grid on which the times of the accelerator bound are rounded down
TOLERANCE = 1e-9


def work_bound(kinds: Sequence[Kind], accelerators: int) -> float:
    """All accelerators busy with the least work."""
    return math.fsum(kind.work * kind.count for kind in kinds) / accelerators


def longest_bound(kinds: Sequence[Kind]) -> float:
    """An operation without replicas needs its fastest width within the period."""
    return max((min(kind.times.values()) for kind in kinds), default=0.0)


def fitting_bound(kinds: Sequence[Kind], accelerators: int) -> float:
    """Least T at which the work, at widths with t ≤ T, fits; at least the work bound and the longest operation.

    The work falls as T lets in more widths, so T is raised from one time of an operation to the next.
    """
    period = max(work_bound(kinds, accelerators), longest_bound(kinds))
    steps = sorted({time for kind in kinds for time in kind.times.values() if time > period})
    for step in [*steps, math.inf]:
        work = math.fsum(
            kind.count * min(width * time for width, time in kind.times.items() if time <= period) for kind in kinds
        )
        if work / accelerators <= step:
            return max(period, work / accelerators)
        period = step
    return period


@dataclass(frozen=True)
class Item:
    """A kind at a width: `need` columns must contain it for each of its operations at that width."""

    kind: int
    width: int
    need: float
    weight: int


class Cover:
    """Least number of columns such that every operation is, at some mix of widths, in as many as it needs.

    A column holds items whose weights sum to `capacity` at most, and of each kind no more than there are operations.
    Columns are generated: the duals of the restricted program price the items, a knapsack finds the best column.
    """

    def __init__(self, counts: Sequence[int], items: Sequence[Item], capacity: int) -> None:
        self.counts = list(counts)
        self.items = list(items)
        self.capacity = capacity
        self.columns: dict[Column, None] = {}
        self.prices = np.zeros(len(self.items))
        self.values = np.zeros(len(self.counts))
        for index, item in enumerate(self.items):
            fitting = min(self.counts[item.kind], capacity // item.weight if item.weight else self.counts[item.kind])
            column = [0] * len(self.items)
            column[index] = fitting
            self.columns[tuple(column)] = None

    def solve(self, enough: float = -math.inf, too_many: float = math.inf, stop: Stop = bool) -> tuple[float, float]:
        """Bounds of the least number of columns: (lower, upper); equal when it is solved.

        It stops as soon as the number is known to be at most `enough` or above `too_many`, or when `stop` says so.
        """
        lower = 0.0
        while True:
            upper = self._master()
            if upper <= enough or stop():
                return lower, upper
            most, column = self._price()
            lower = max(lower, self._dual_value() / max(1.0, most))  # Farley's bound
            if most <= 1 + TOLERANCE or column in self.columns:
                return lower, lower
            if lower > too_many:
                return lower, upper
            self.columns[column] = None

    def _master(self) -> float:
        """Solve over the known columns; sets the prices of the items and the values of the kinds."""
        n, m = len(self.items), len(self.columns)
        matrix = np.zeros((n + len(self.counts), m + n))
        matrix[:n, :m] = np.array(list(self.columns), np.float64).T
        for index, item in enumerate(self.items):
            matrix[index, m + index] = -item.need
            matrix[n + item.kind, m + index] = 1
        demand = np.concatenate([np.zeros(n), self.counts])
        cost = np.concatenate([np.ones(m), np.zeros(n)])
        found = linprog(cost, A_ub=csr_array(-matrix), b_ub=-demand, method="highs")
        if found.status != 0:
            raise RuntimeError(f"HiGHS: {found.message}")
        duals = -found.ineqlin.marginals
        self.prices, self.values = np.maximum(duals[:n], 0), duals[n:]
        self.mix = found.x[m:]
        return float(found.fun)

    def _dual_value(self) -> float:
        """What the prices are worth: HiGHS keeps its constraints only to 1e-7, a bound must not rely on them."""
        worth = np.full(len(self.counts), math.inf)
        for item, price in zip(self.items, self.prices, strict=True):
            worth[item.kind] = min(worth[item.kind], item.need * price)
        return float(worth @ np.array(self.counts, np.float64))

    def _price(self) -> tuple[float, Column]:
        """The most valuable column."""
        best = np.zeros(self.capacity + 1)
        trail: list[tuple[list[int], NDArray[np.int8]]] = []
        for kind, count in enumerate(self.counts):
            usable = self._undominated(kind)
            if not usable:
                continue
            lightest = min(self.items[index].weight for index in usable)
            for _ in range(min(count, self.capacity // lightest) if lightest else count):
                following = best.copy()
                choice = np.full(self.capacity + 1, -1, np.int8)
                for number, index in enumerate(usable):
                    weight = self.items[index].weight
                    extended = best[: self.capacity + 1 - weight] + self.prices[index]
                    better = extended > following[weight:] + 1e-15
                    np.copyto(following[weight:], extended, where=better)
                    choice[weight:][better] = number
                if not (choice >= 0).any():
                    break
                best = following
                trail.append((usable, choice))
        column = [0] * len(self.items)
        left = int(best.argmax())
        value = float(best[left])
        for usable, choice in reversed(trail):
            if choice[left] >= 0:
                index = usable[choice[left]]
                column[index] += 1
                left -= self.items[index].weight
        return value, tuple(column)

    def _undominated(self, kind: int) -> list[int]:
        """Items of a kind that no lighter one is worth as much as."""
        found: list[int] = []
        own = [i for i, item in enumerate(self.items) if item.kind == kind and item.weight <= self.capacity]
        for index in sorted(own, key=lambda i: (self.items[i].weight, -self.prices[i])):
            if self.prices[index] > 1e-12 and (not found or self.prices[index] > self.prices[found[-1]]):
                found.append(index)
        return found


def configuration_bound(
    kinds: Sequence[Kind], accelerators: int, upper: float, lower: float = 0.0, stop: Stop = bool
) -> float:
    """Least T such that operations at widths with t ≤ T can be done by what runs together, in time T in total.

    A column is a set of operations and widths that fit side by side; its variable is how long it runs. V(T), the
    least total time with the widths of t ≤ T, falls as T grows. So whatever the time b, the period is at least V(b−)
    if it is below b, else at least b and V(∞): the best b is found by bisection over the times of operations between
    `lower` and `upper`.
    """

    def value(allowed: float) -> float:
        items = [
            Item(number, width, seconds, width)
            for number, kind in enumerate(kinds)
            for width, seconds in kind.times.items()
            if seconds <= allowed
        ]
        if {item.kind for item in items} != set(range(len(kinds))):
            return math.inf
        return Cover([kind.count for kind in kinds], items, accelerators).solve(stop=stop)[0]

    breaks = sorted({t for kind in kinds for t in kind.times.values() if lower < t < upper})
    least = found = max(lower, value(upper * (1 - 1e-12)))
    low, high = 0, len(breaks)
    while low < high and not stop():
        middle = (low + high) // 2
        below = value(breaks[middle] * (1 - 1e-12))
        found = max(found, min(max(breaks[middle], least), below))
        if below > breaks[middle]:
            low = middle + 1
        else:
            high = middle
    return min(found, upper)


class AcceleratorBound:
    """Least T at which what single accelerators can hold within T suffices for all operations.

    A column is what one accelerator does within a period; an operation of width q needs q columns. Times are rounded
    down to a grid of T, so that the knapsack is exact on it and the bound stays a bound.

    Attributes
    ----------
    lower : float
        The bound so far.
    waste : dict
        By kind and width: how much more of the accelerators (in accelerators) an operation takes at that width than
        at the ones that the program mixes; from the duals of the last program.
    """

    def __init__(self, kinds: Sequence[Kind], accelerators: int, lower: float, upper: float) -> None:
        self.kinds = kinds
        self.accelerators = accelerators
        self.lower = lower
        self.cell = upper / CELLS
        self.waste: dict[tuple[int, int], float] = {}
        self.mix: dict[tuple[int, int], float] = {}
        self._columns: dict[tuple[tuple[int, int, int], ...], int] = {}

    def run(self, stop: Stop = bool) -> float:
        """Bisect; returns the bound."""
        low, high = math.floor(self.lower / self.cell), CELLS
        while high - low > 1:
            middle = (low + high) // 2
            feasible = self._feasible(middle, stop)
            if feasible is None:
                break
            if feasible:
                high = middle
            else:
                low = middle
                self.lower = max(self.lower, (middle + 1) * self.cell)
        return self.lower

    def _feasible(self, capacity: int, stop: Stop) -> bool | None:
        """Whether the accelerators suffice, as far as the program knows; None if it had to stop."""
        items = [
            Item(number, width, width, math.floor(seconds / self.cell * (1 + 1e-12)))
            for number, kind in enumerate(self.kinds)
            for width, seconds in kind.times.items()
        ]
        items = [item for item in items if item.weight <= capacity]
        if {item.kind for item in items} != set(range(len(self.kinds))):
            return False
        cover = Cover([kind.count for kind in self.kinds], items, capacity)
        index = {(item.kind, item.width): i for i, item in enumerate(items)}
        for parts, weight in self._columns.items():
            if weight <= capacity:
                column = [0] * len(items)
                for kind, width, count in parts:
                    column[index[kind, width]] = count
                cover.columns[tuple(column)] = None
        suffice = self.accelerators * (1 + TOLERANCE)
        least, most = cover.solve(suffice, suffice, stop)
        self._remember(cover)
        if least > suffice:
            return False
        return True if most <= suffice else None

    def _remember(self, cover: Cover) -> None:
        for column in cover.columns:
            used = [(item, count) for item, count in zip(cover.items, column, strict=True) if count]
            parts = tuple((item.kind, item.width, count) for item, count in used)
            self._columns[parts] = sum(item.weight * count for item, count in used)
        for item, price, mix in zip(cover.items, cover.prices, cover.mix, strict=True):
            self.waste[item.kind, item.width] = float(item.width * price - cover.values[item.kind])
            self.mix[item.kind, item.width] = float(mix)
