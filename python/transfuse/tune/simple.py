"""Strategies that measure nothing, every candidate alike, or candidates chosen by chance."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transfuse.tune import statistics
from transfuse.tune.loop import Loop, require_at_least


@dataclass(frozen=True)
class Default:
    """Measure nothing and stay with the default: what the others are worth shows beside it."""

    name: ClassVar[str] = "default"

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        return loop.default


@dataclass(frozen=True)
class Grid:
    """Measure every candidate `repeats` times; the least median wins."""

    repeats: int = 10
    name: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        require_at_least(self, repeats=1)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        logs: list[NDArray[np.float64]] = []
        for _ in range(self.repeats):
            logs.append(_round(loop, logs))
            loop.report(_least(np.median(logs, axis=0)), loop.alive.size)
        return loop.best


@dataclass(frozen=True)
class Random:
    """Measure so many candidates, chosen by chance, `repeats` times each, the default first; the least median wins.

    With as many evaluations as :class:`~transfuse.tune.genetic.Genetic` it shows what that one's selection is worth.
    """

    evaluations: int = 18
    repeats: int = 3
    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        require_at_least(self, evaluations=1, repeats=1)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        others = np.delete(np.arange(len(loop)), loop.default)
        chosen = np.r_[loop.default, loop.rng.permutation(others)[: self.evaluations - 1]]
        medians = np.full(len(loop), np.inf)
        for place, index in enumerate(chosen.tolist()):
            medians[index] = evaluate(loop, index, self.repeats)
            loop.report(_least(medians), len(chosen) - place)
        return loop.best


@dataclass(frozen=True)
class Exhaustive:
    """Waves over all candidates, two in the first, until the leader beats every other by Welch's test.

    The test is the plain one, of each candidate against the leader at the search's confidence, as if nobody peeked and
    as if there were one comparison; with ties it never ends, so there is a cap.

    Parameters
    ----------
    cap : int
        Waves at most.
    """

    cap: int = 30
    name: ClassVar[str] = "exhaustive"

    def __post_init__(self) -> None:
        require_at_least(self, cap=2)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        logs: list[NDArray[np.float64]] = [_round(loop, [])]
        while len(logs) < self.cap:
            logs.append(_round(loop, logs))
            count = len(logs)
            means, variances = np.mean(logs, axis=0), np.var(logs, axis=0, ddof=1)
            best = _least(means)
            t, degrees = statistics.welch(means, variances, count, (means[best], variances[best], count))
            beaten = (t > 0) & (statistics.two_sided_p(t, degrees) < 1 - loop.confidence) | ~np.isfinite(means)
            loop.report(best, int((~beaten).sum()))
            if beaten.sum() == len(loop) - 1:
                return best
        loop.capped = len(loop) > 1
        loop.ties = [index for index in np.flatnonzero(~beaten).tolist() if index != best]
        return loop.best


@dataclass(frozen=True)
class Halving:
    """Successive halving: each rung has as many measurements as the first, for half of the candidates.

    K. Jamieson and A. Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.

    Parameters
    ----------
    repeats : int
        Of every candidate in the first rung.
    """

    repeats: int = 1
    name: ClassVar[str] = "halving"

    def __post_init__(self) -> None:
        require_at_least(self, repeats=1)

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        alive, repeats = np.arange(len(loop)), self.repeats
        while True:
            scores = np.median([loop.measure(alive) for _ in range(repeats)], axis=0)
            ranked = alive[np.argsort(np.where(np.isfinite(scores), scores, np.inf), kind="stable")]
            alive, repeats = ranked[: -(-len(ranked) // 2)], 2 * repeats
            loop.report(int(ranked[0]), len(alive))
            if len(ranked) <= 2:
                return int(ranked[0])


def evaluate(loop: Loop, index: int, repeats: int) -> float:
    """The median logarithm of some measurements of a candidate; infinite if it fails."""
    median = float(np.median([loop.measure([index])[0] for _ in range(repeats)]))
    return median if np.isfinite(median) else np.inf


def _round(loop: Loop, before: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Every candidate that has not failed, once: logarithms, NaN for failed ones."""
    logs = np.full(len(loop), np.nan)
    alive = loop.alive if before else np.arange(len(loop))
    logs[alive] = loop.measure(alive)
    return logs


def _least(values: NDArray[np.float64]) -> int:
    return int(np.nanargmin(values))
