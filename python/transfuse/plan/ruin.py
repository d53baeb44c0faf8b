"""Ruin and recreate over a tree of groups (Schrimpf et al. 2000): take a few operations out, put them back better."""

import random
from collections.abc import Callable, Sequence

import numpy as np

from transfuse.plan.packing import Packing


class Search:
    """Lowers the longest load of a packing.

    Attributes
    ----------
    period : float
        The best so far.
    group : list of int
        Its groups.
    """

    def __init__(self, packing: Packing, lower: float, rng: random.Random, group: Sequence[int] | None = None) -> None:
        self.packing = packing
        self.lower = lower
        self.rng = rng
        if group is None:
            self._construct()
        else:
            packing.copy_of(group)
        self.period = float(packing.loads.max())
        self.group = list(packing.group)
        self._by_group: list[set[int]] = [set() for _ in packing.tree.begin]
        for operation, at in enumerate(packing.group):
            self._by_group[at].add(operation)
        self._groups_of: list[list[int]] = [[] for _ in packing.loads]
        for g, (begin, end) in enumerate(zip(packing.tree.begin, packing.tree.end, strict=True)):
            for leaf in range(begin, end):
                self._groups_of[leaf].append(g)

    def _construct(self) -> None:
        packing = self.packing
        order = sorted(range(len(packing.kind_of)), key=lambda i: -packing.work[packing.kind_of[i]])
        for operation in order:
            packing.insert(operation, self.lower, self.rng, 0.0)

    def run(self, rounds: int, stop: Callable[[], bool], enough: float) -> int:
        """Up to so many rounds, until the period is `enough` or `stop` says so; returns how many there were."""
        packing, rng = self.packing, self.rng
        target = self._target()
        now = packing.overflow(target)
        temperature = 0.02 * target
        for done in range(rounds):
            if self.period <= enough or (done % 16 == 0 and stop()):
                return done
            taken = self._choose()
            before = [packing.group[operation] for operation in taken]
            for operation, at in zip(taken, before, strict=True):
                packing.remove(operation)
                self._by_group[at].discard(operation)
            self._recreate(taken, target)
            then = packing.overflow(target)
            cooled = temperature * (1 - done / rounds) ** 2
            if then <= now - cooled * np.log(rng.random() + 1e-300):
                now = then
                if packing.loads.max() < self.period * (1 - 1e-9):
                    self._accept()
                    target = self._target()
                    now = packing.overflow(target)
            else:
                self._undo(taken, before)
        return rounds

    def _target(self) -> float:
        return self.lower + 0.3 * (self.period - self.lower)

    def _accept(self) -> None:
        self.packing.copy_of(self.packing.group)  # anew: no rounding errors add up
        self.period = float(self.packing.loads.max())
        self.group = list(self.packing.group)

    def _choose(self) -> list[int]:
        """Operations of the fullest accelerator (mostly) and of others at random."""
        packing, rng = self.packing, self.rng
        leaves = len(packing.loads)
        first = int(packing.loads.argmax()) if rng.random() < 0.7 else rng.randrange(leaves)
        count = rng.randint(2, 8)
        chosen: list[int] = []
        leaf = first
        for _ in range(rng.randint(1, 4)):
            found = [operation for g in self._groups_of[leaf] for operation in self._by_group[g]]
            rng.shuffle(found)
            chosen += found[: max(1, count // 2)]
            leaf = int(packing.loads.argmin()) if rng.random() < 0.3 else rng.randrange(leaves)
        return list(dict.fromkeys(chosen))[: count + 2]

    def _recreate(self, taken: list[int], target: float) -> None:
        packing, rng = self.packing, self.rng
        order = list(taken)
        way = rng.random()
        if way < 0.6:
            order.sort(key=lambda i: -packing.work[packing.kind_of[i]] * (1 + 0.3 * rng.random()))
        else:
            rng.shuffle(order)
        noise = rng.choice((0.0, 0.05, 0.5))
        for operation in order:
            packing.insert(operation, target, rng, noise)
            self._by_group[packing.group[operation]].add(operation)

    def _undo(self, taken: list[int], before: list[int]) -> None:
        packing = self.packing
        for operation, at in zip(taken, before, strict=True):
            self._by_group[packing.group[operation]].discard(operation)
            packing.remove(operation)
            tree = packing.tree
            packing.group[operation] = at
            packing.loads[tree.begin[at] : tree.end[at]] += packing.seconds[packing.kind_of[operation]][at]
            self._by_group[at].add(operation)
