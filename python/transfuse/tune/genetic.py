"""A genetic search of few evaluations."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transfuse.tune.loop import Loop, require_at_least
from transfuse.tune.simple import evaluate


@dataclass(frozen=True)
class Genetic:
    """Evolve configurations: tournaments, uniform crossover, mutation to neighbouring values, and the best live on.

    It starts from the default and configurations in which all values are about equally frequent. Children come one at
    a time (a steady-state algorithm: D. Whitley, The GENITOR algorithm, ICGA 1989); a child is the nearest
    configuration that has not been evaluated, so none is evaluated twice and constraints hold.

    Parameters
    ----------
    evaluations : int
    first : int
        So many of them are the first generation.
    population : int
        The best so many can become parents.
    tournament : int
        Candidates of whom the best becomes a parent.
    mutation : float
        The probability that a parameter moves to a neighbouring value; at least one does in a child that is like one of
        its parents.
    repeats : int
        Measurements of an evaluation, of which the median counts.
    """

    evaluations: int = 18
    first: int = 8
    population: int = 5
    tournament: int = 2
    mutation: float = 0.1
    repeats: int = 3
    name: ClassVar[str] = "genetic"

    def __post_init__(self) -> None:
        require_at_least(self, evaluations=1, first=1, population=1, tournament=1, mutation=0, repeats=1)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        places = loop.candidates.places
        medians = np.full(len(loop), np.inf)
        new = np.ones(len(loop), bool)
        wanted = hypercube(places, loop.default, min(self.first, self.evaluations), loop.rng)
        evaluations = min(self.evaluations, len(loop))
        for number in range(evaluations):
            if number < len(wanted):
                index = wanted[number]
            else:
                child = self._child(places, np.argsort(medians, kind="stable")[: self.population], loop.rng)
                free = np.flatnonzero(new)
                distance = np.abs(places[free] - child).sum(axis=1) + 0.01 * loop.rng.random(len(free))
                index = int(free[distance.argmin()])
            new[index] = False
            medians[index] = evaluate(loop, index, self.repeats)
            loop.report(int(medians.argmin()), evaluations - number)
        return loop.best

    def _child(
        self, places: NDArray[np.float64], parents: NDArray[np.intp], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """`parents` come the fastest first."""
        a, b = (places[parents[rng.integers(len(parents), size=self.tournament).min()]] for _ in range(2))
        child = np.where(rng.random(a.size) < 0.5, a, b)
        moves = rng.random(a.size) < self.mutation
        if not moves.any() and ((child == a).all() or (child == b).all()):
            moves[rng.integers(a.size)] = True
        return np.asarray(child + np.where(moves, rng.choice([-1.0, 1.0], a.size), 0), float)


def hypercube(places: NDArray[np.float64], first: int, count: int, rng: np.random.Generator) -> list[int]:
    """Candidates among which each value of each parameter is about equally frequent, the first one given.

    A Latin hypercube (M. McKay, R. Beckman and W. Conover, Technometrics 21, 1979), each point of which is moved to the
    nearest candidate that is not chosen yet.
    """
    lowest, span = places.min(axis=0), places.max(axis=0) - places.min(axis=0) + 1
    count = min(count, len(places))
    strata = rng.permuted(np.tile(np.arange(count), (places.shape[1], 1)), axis=1).T
    points = np.floor(lowest + (strata + rng.random(strata.shape)) / count * span)
    chosen = [first]
    for point in points[: count - 1]:
        distance = (np.abs(places - point) / span).sum(axis=1) + 1e-6 * rng.random(len(places))
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return chosen
