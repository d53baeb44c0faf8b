"""Packing into nested groups of accelerators: ruin and recreate.

Accelerators are divided into groups, each of them again into smaller ones, and so on: a tree whose leaves are the
accelerators. An operation at width q is given to a group of q. If every group does its operations after those of the
groups around it, nothing overlaps, and an accelerator is busy for the sum over the groups that it is in. So time need
not be searched, only the groups of the operations.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfuse.plan.kinds import Kind

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Tree:
    """Nested groups; group g holds the accelerators from ``begin[g]`` to ``end[g] − 1``. Larger groups come first."""

    begin: Ints
    end: Ints

    @property
    def sizes(self) -> Ints:
        """Accelerators in each group."""
        return self.end - self.begin


def make_tree(accelerators: int, widths: Sequence[int], rng: random.Random | None = None) -> Tree:
    """Groups of the given widths: as large as possible, or with an `rng` of random sizes."""
    found: dict[tuple[int, int], None] = {}

    def split(begin: int, end: int, largest: int) -> None:
        while begin < end:
            fitting = [width for width in widths if width <= min(largest, end - begin)] or [1]
            width = fitting[-1] if rng is None or rng.random() < 0.6 else rng.choice(fitting)
            found[begin, begin + width] = None
            if width > 1:
                split(begin, begin + width, width - 1)
            begin += width

    split(0, accelerators, accelerators)
    groups = sorted(found, key=lambda group: (group[0] - group[1], group[0]))
    return Tree(*np.array(groups, np.intp).T)


class Packing:
    """Which group does which operation.

    Attributes
    ----------
    group : list of int
        By operation (numbered kind after kind); −1 while it has none.
    loads : array
        Seconds of each accelerator.
    """

    def __init__(self, kinds: Sequence[Kind], tree: Tree, waste: Callable[[int, int], float]) -> None:
        self.tree = tree
        self.kind_of = [number for number, kind in enumerate(kinds) for _ in range(kind.count)]
        sizes = tree.sizes
        self.seconds = [np.array([kind.times.get(int(size), math.inf) for size in sizes]) for kind in kinds]
        self.waste = [
            np.array([waste(number, int(size)) if size in kind.times else math.inf for size in sizes])
            for number, kind in enumerate(kinds)
        ]
        self.work = [kind.work for kind in kinds]
        self.group = [-1] * len(self.kind_of)
        self.loads = np.zeros(int(tree.end.max()))
        self._cuts = np.stack([tree.begin, tree.end], axis=1).reshape(-1)

    def copy_of(self, group: Sequence[int]) -> None:
        """Take over groups from another packing of the same tree."""
        self.group = list(group)
        self.loads[:] = 0
        for operation, at in enumerate(self.group):
            self.loads[self.tree.begin[at] : self.tree.end[at]] += self.seconds[self.kind_of[operation]][at]

    def remove(self, operation: int) -> None:
        """Take an operation from its group."""
        at = self.group[operation]
        self.loads[self.tree.begin[at] : self.tree.end[at]] -= self.seconds[self.kind_of[operation]][at]
        self.group[operation] = -1

    def insert(self, operation: int, target: float, rng: random.Random, noise: float) -> None:
        """Give an operation to the group that wastes least and keeps the target; else to where it ends first."""
        kind = self.kind_of[operation]
        padded = np.append(self.loads, 0.0)
        ends = np.maximum.reduceat(padded, self._cuts)[::2] + self.seconds[kind]
        fitting = np.flatnonzero(ends <= target)
        if fitting.size:
            score = self.waste[kind][fitting] * (1 + noise * rng.random()) + (target - ends[fitting]) * 1e-3
            if noise:
                score += self.work[kind] * noise * 0.1 * np.array([rng.random() for _ in range(fitting.size)])
            at = int(fitting[score.argmin()])
        else:
            at = int((ends + 0.1 * np.where(np.isfinite(ends), self.waste[kind], 0)).argmin())
        self.group[operation] = at
        self.loads[self.tree.begin[at] : self.tree.end[at]] += self.seconds[kind][at]

    def overflow(self, target: float) -> float:
        """Accelerator-seconds above the target."""
        return float(np.maximum(self.loads - target, 0).sum())
