"""The adaptive search of the reports: challengers that may be better than the current best are measured again."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transfuse.tune import statistics
from transfuse.tune.loop import Loop


@dataclass(frozen=True)
class Adaptive:
    """Measure again who may be better than the current best, until nobody is plausible.

    Welch's test on so few samples needs help: their logarithms are averaged robustly, and their variance is pooled over
    all candidates.

    Parameters
    ----------
    p_plausible : float
        A challenger whose probability of being better exceeds it is measured again.
    p_switch : float
        From this probability on it becomes the current best.
    extra_repeats_best : int
        Measurements of the current best beyond one in each iteration.
    scouts : int
        The fastest of the first iteration, measured twice at once to learn the noise.
    cap : int
        Iterations at most.
    """

    p_plausible: float = 0.05
    p_switch: float = 0.7
    extra_repeats_best: int = 1
    scouts: int = 8
    cap: int = 30
    name: ClassVar[str] = "adaptive"

    def run(self, loop: Loop) -> int:
        """See :class:`~transfuse.tune.loop.Strategy`."""
        table = Table(len(loop))
        table.add(np.arange(len(loop)), loop.measure(range(len(loop))))
        best = table.fastest(1)[0]
        loop.report(best, loop.alive.size)
        asked = table.fastest(self.scouts)
        for _ in range(self.cap):
            table.add(asked, loop.measure(asked))
            for _ in range(self.extra_repeats_best):
                table.add([best], loop.measure([best]))
            better = table.better_than(best)
            if better.max() > self.p_switch:
                best = int(better.argmax())
                better = table.better_than(best)
            plausible = np.flatnonzero(better > self.p_plausible).tolist()
            loop.report(best, 1 + len(plausible))
            if not plausible:
                return best
            asked = [best, *plausible]
        loop.capped = True
        loop.ties = plausible
        return best


class Table:
    """All logarithms, by candidate, with robust means and one variance for all."""

    PRIOR_SCALE = 0.03
    PRIOR_WEIGHT = 4.0

    def __init__(self, candidates: int) -> None:
        self.logs = np.full((8, candidates), np.nan)
        self.counts = np.zeros(candidates, np.intp)

    def add(self, indices: NDArray[np.intp] | list[int], logs: NDArray[np.float64]) -> None:
        """A sample of each of these candidates."""
        indices = np.asarray(indices, np.intp)[np.isfinite(logs)]
        if len(indices) and self.counts[indices].max() == len(self.logs):
            self.logs = np.vstack([self.logs, np.full_like(self.logs, np.nan)])
        self.logs[self.counts[indices], indices] = logs[np.isfinite(logs)]
        self.counts[indices] += 1

    def fastest(self, most: int) -> list[int]:
        """By their robust means, the fastest first."""
        measured = np.flatnonzero(self.counts)
        order = np.argsort(self.means()[measured], kind="stable")[:most]
        return [int(index) for index in measured[order]]

    def scale(self) -> float:
        """The standard deviation of a sample."""
        several = self.logs[:, self.counts > 1]
        differences = np.diff(several, axis=0)
        return statistics.pooled_scale(
            differences[np.isfinite(differences)], prior=self.PRIOR_SCALE, weight=self.PRIOR_WEIGHT
        )

    def means(self) -> NDArray[np.float64]:
        """Robust ones; infinite for candidates without samples."""
        means, measured = np.full(len(self.counts), np.inf), self.counts > 0
        means[measured] = statistics.locations(self.logs[: self.counts.max(), measured], self.scale())
        return means

    def better_than(self, best: int) -> NDArray[np.float64]:
        """The probability of each candidate of being better than this one, by Welch's test with the pooled variance."""
        means, variance, measured = self.means(), self.scale() ** 2, self.counts > 0
        probability = np.zeros(len(means))
        t, _ = statistics.welch(
            means[measured], variance, self.counts[measured], (means[best], variance, self.counts[best])
        )
        degrees = self.PRIOR_WEIGHT + (self.counts[measured] - 1).sum()
        probability[measured] = statistics.probability_less(t, degrees)
        probability[best] = 0
        return probability
