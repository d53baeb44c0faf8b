"""Tiny problems to the end: every choice of widths and of what each accelerator does, every order around the period."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from transfuse.plan.kinds import Kind
from transfuse.plan.settings import Place

BETTER = 1 - 1e-10  # a period that is not less than this share of another is no improvement


@dataclass(frozen=True)
class Answer:
    """Places and positions by operation (kind after kind)."""

    places: list[Place]
    positions: list[float]
    period: float


class Exhaustive:
    """The least period below `upper`.

    Attributes
    ----------
    best : Answer or None
        None if nothing is better than `upper`.
    complete : bool
        Whether everything has been tried.
    """

    def __init__(self, kinds: Sequence[Kind], accelerators: int, upper: float, stop: Callable[[], bool]) -> None:
        self.accelerators = accelerators
        self.upper = upper
        self.best: Answer | None = None
        self.complete = True
        self._stop = stop
        self._kinds = [(kind, k) for kind in kinds for k in range(kind.count)]
        self._least = [kind.work for kind, _ in self._kinds]

    def run(self) -> None:
        """Try everything."""
        for widths in self._widths([]):
            times = [kind.times[width] for (kind, _), width in zip(self._kinds, widths, strict=True)]
            seen: set[frozenset[tuple[int, int]]] = set()
            for parts in self._covers(list(widths), times, self.accelerators, []):
                if self._stop():
                    self.complete = False
                    return
                pairs = frozenset(pair for part in parts for pair in itertools.combinations(part, 2))
                if pairs not in seen:
                    seen.add(pairs)
                    self._order(widths, times, parts, pairs)

    def _widths(self, chosen: list[int]) -> Iterator[tuple[int, ...]]:
        """Widths of all operations whose work fits; those of a kind in ascending order."""
        n = len(chosen)
        done = sum(width * kind.times[width] for (kind, _), width in zip(self._kinds, chosen, strict=False))
        if done + sum(self._least[n:]) >= self.upper * BETTER * self.accelerators or self._stop():
            self.complete &= not self._stop()
            return
        if n == len(self._kinds):
            yield tuple(chosen)
            return
        kind, copy = self._kinds[n]
        for width, seconds in kind.times.items():
            if seconds < self.upper * BETTER and (copy == 0 or width >= chosen[-1]):
                yield from self._widths([*chosen, width])

    def _covers(
        self, need: list[int], times: Sequence[float], left: int, parts: list[tuple[int, ...]]
    ) -> Iterator[list[tuple[int, ...]]]:
        """What each accelerator does, in descending order, so that every operation has its width."""
        if left == 0:
            if not any(need):
                yield parts
            return
        if max(need) > left or sum(a * b for a, b in zip(need, times, strict=True)) > left * self.upper * BETTER:
            return
        forced = [i for i, count in enumerate(need) if count == left]
        free = [i for i, count in enumerate(need) if 0 < count < left]
        for size in range(len(free) + 1):
            for extra in itertools.combinations(free, size):
                part = tuple(sorted([*forced, *extra]))
                if (parts and part > parts[-1]) or sum(times[i] for i in part) >= self.upper * BETTER:
                    continue
                rest = [count - (i in part) for i, count in enumerate(need)]
                yield from self._covers(rest, times, left - 1, [*parts, part])

    def _order(
        self,
        widths: Sequence[int],
        times: Sequence[float],
        parts: Sequence[tuple[int, ...]],
        pairs: frozenset[tuple[int, int]],
    ) -> None:
        """The best order of the starts around the period; the first operation comes first."""
        lower = max(max(times), *(sum(times[i] for i in part) for part in parts))
        if lower >= self.upper * BETTER:
            return
        n = len(times)
        seen: set[frozenset[tuple[int, int]]] = set()
        for order in itertools.permutations(range(1, n)):
            rank = {i: number for number, i in enumerate((0, *order))}
            arcs = frozenset((i, j) if rank[i] < rank[j] else (j, i) for i, j in pairs)
            if arcs in seen:
                continue
            seen.add(arcs)
            found = least_period(times, arcs, lower, self.upper * BETTER)
            if found is not None:
                positions, self.upper = found
                places = [
                    Place(tuple(a for a, part in enumerate(parts) if i in part), width)
                    for i, width in enumerate(widths)
                ]
                self.best = Answer(places, positions, self.upper)
                if lower >= self.upper * BETTER:
                    return


def least_period(
    times: Sequence[float], arcs: frozenset[tuple[int, int]], lower: float, upper: float
) -> tuple[list[float], float] | None:
    """Positions and the least period below `upper` if operation i of each arc (i, j) starts before j in the period.

    Then s_j ≥ s_i + t_i, and around the period s_i + T ≥ s_j + t_j. The least T is the greatest ratio of time to
    turns over the cycles of these constraints: as long as a cycle is positive, T is raised to its ratio.
    """
    n = len(times)
    constraints = [(i, j, times[i], 0) for i, j in arcs] + [(j, i, times[j], 1) for i, j in arcs]
    period = lower
    while True:
        positions = [0.0] * n
        parent: list[tuple[int, float, int] | None] = [None] * n
        changed = -1
        for _ in range(n + 1):
            changed = -1
            for i, j, seconds, turn in constraints:
                reach = positions[i] + seconds - turn * period
                if reach > positions[j] + 1e-12 * period:
                    positions[j] = reach
                    parent[j] = (i, seconds, turn)
                    changed = j
            if changed < 0:
                return positions, period
        for _ in range(n):
            changed = parent[changed][0]  # type: ignore[index]
        node, seconds_sum, turns = changed, 0.0, 0
        while True:
            i, seconds, turn = parent[node]  # type: ignore[misc]
            node, seconds_sum, turns = i, seconds_sum + seconds, turns + turn
            if node == changed:
                break
        raised = seconds_sum / turns if turns else upper
        if raised >= upper:
            return None
        period = max(raised, period * (1 + 1e-15))
