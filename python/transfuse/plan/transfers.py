"""Sharing with communication: operations move between nested groups, and take their transfers with them."""

import random
from collections.abc import Callable, Sequence

import numpy as np

from transfuse.plan.durations import durations
from transfuse.plan.graph import Graph
from transfuse.plan.packing import Tree
from transfuse.plan.settings import Place, Settings


class Relocation:
    """Hill climbing with a little noise over the groups of a tree.

    Attributes
    ----------
    places : list of Place
        The best so far.
    period : float
        Its longest load.
    improved : bool
        Whether it is better than what the search started from.
    """

    def __init__(self, graph: Graph, settings: Settings, tree: Tree, rng: random.Random) -> None:
        self.graph = graph
        self.settings = settings
        self.rng = rng
        self.groups = [Place(tuple(range(b, e)), int(e - b)) for b, e in zip(tree.begin, tree.end, strict=True)]
        self.places: list[Place] = []
        self.period = 0.0
        self.improved = False

    def loads(self, places: Sequence[Place]) -> np.ndarray:
        """Seconds of each accelerator."""
        found = np.zeros(self.settings.accelerators)
        for seconds, place in zip(durations(self.graph, self.settings, places)[0], places, strict=True):
            found[place.accelerators[0] : place.accelerators[-1] + 1] += seconds
        return found

    def run(self, places: Sequence[Place], rounds: float, stop: Callable[[], bool]) -> None:
        """Up to so many moves."""
        now = self._nested(places)
        loads = self.loads(now)
        self.places, self.period = list(now), float(loads.max())
        before = self.loads(places).max() if now == list(places) else self.period
        value = self._value(loads)
        done = 0
        while done < rounds and not stop():
            done += 1
            moved = self._move(now, loads)
            if moved is None:
                continue
            then = self.loads(moved)
            if self._value(then) < value * (1 + 0.002 * self.rng.random() ** 4):
                now, loads, value = moved, then, self._value(then)
                if loads.max() < self.period * (1 - 1e-12):
                    self.places, self.period = list(now), float(loads.max())
        self.improved = self.period < before or now != list(places)

    def _value(self, loads: np.ndarray) -> float:
        """The longest load, smoothed so that work off the longest counts too."""
        peak = loads.max()
        return float(peak * (1 + 0.02 * np.mean((loads / peak) ** 8))) if peak > 0 else 0.0

    def _nested(self, places: Sequence[Place]) -> list[Place]:
        """The same places in groups of the tree; a place that is none goes to the first group of its width."""
        found: dict[Place, Place] = {}
        used: set[int] = set()
        for place in sorted(set(places), key=lambda place: -place.width):
            fitting = [g for g in self.groups if g.width == place.width]
            group = next((g for g in fitting if not used.intersection(g.accelerators)), fitting[0])
            used.update(group.accelerators)
            found[place] = group
        return [found[place] for place in places]

    def _move(self, now: list[Place], loads: np.ndarray) -> list[Place] | None:
        """Move a few operations that follow each other, mostly off the fullest accelerator."""
        rng = self.rng
        leaf = int(loads.argmax()) if rng.random() < 0.7 else rng.randrange(len(loads))
        on = [i for i, place in enumerate(now) if leaf in place.accelerators]
        if not on:
            return None
        first = rng.choice(on)
        chain = [first]
        while rng.random() < 0.5:
            near = [j for j in self.graph.successors[chain[-1]] if now[j] == now[first]]
            if not near:
                break
            chain.append(rng.choice(near))
        beside = [now[j] for i in chain for j in self.graph.predecessors[i] + self.graph.successors[i]]
        target = rng.choice(beside) if beside and rng.random() < 0.5 else rng.choice(self.groups)
        if rng.random() < 0.2:
            target = self.groups[int(rng.random() * len(self.groups))]
        if target == now[first] or any(target.width not in self.graph.operations[i].times for i in chain):
            return None
        moved = list(now)
        for i in chain:
            moved[i] = target
        return moved
