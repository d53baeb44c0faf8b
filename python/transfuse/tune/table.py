"""What a strategy has measured."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfuse.tune import statistics
from transfuse.tune.constants import MEDIAN_ERROR, PRIOR_SCALE, PRIOR_WEIGHT, TAIL


class Table:
    """All logarithms, by candidate, with medians and one variance for all."""

    def __init__(self, candidates: int) -> None:
        self.logs = np.full((8, candidates), np.nan)
        self.counts = np.zeros(candidates, np.intp)
        self.tries = np.zeros(candidates, np.intp)

    def add(self, asked: Iterable[int], logs: NDArray[np.float64]) -> None:
        """A sample of each of these candidates; NaN for one that has failed, which is forgotten."""
        indices = np.fromiter(asked, np.intp)
        self.tries[indices] += 1
        self.counts[indices[~np.isfinite(logs)]] = 0
        indices, logs = indices[np.isfinite(logs)], logs[np.isfinite(logs)]
        if len(indices) and self.counts[indices].max() == len(self.logs):
            self.logs = np.vstack([self.logs, np.full_like(self.logs, np.nan)])
        self.logs[self.counts[indices], indices] = logs
        self.counts[indices] += 1

    def fastest(self, most: int, among: NDArray[np.intp] | None = None) -> list[int]:
        """By their medians, the fastest first."""
        measured = np.flatnonzero(self.counts) if among is None else among[self.counts[among] > 0]
        order = np.argsort(self.medians()[measured], kind="stable")[:most]
        return [int(index) for index in measured[order]]

    def scale(self) -> float:
        """The standard deviation of a sample."""
        several = self.logs[:, self.counts > 1]
        differences = np.diff(several, axis=0)
        return statistics.pooled_scale(differences[np.isfinite(differences)], prior=PRIOR_SCALE, weight=PRIOR_WEIGHT)

    def medians(self) -> NDArray[np.float64]:
        """Infinite for candidates without samples."""
        medians, measured = np.full(len(self.counts), np.inf), self.counts > 0
        medians[measured] = statistics.medians(self.logs[: self.counts.max(), measured])
        return medians

    def errors(self) -> NDArray[np.float64]:
        """The medians' standard errors, those of few samples widened for heavy tails; infinite where there are none."""
        with np.errstate(divide="ignore"):
            return median_errors(self.scale(), self.counts)

    def better_than(self, best: int) -> NDArray[np.float64]:
        """The probability of each candidate of being better than this one, by Welch's test with the pooled variance."""
        medians, errors, counts, measured = self.medians(), self.errors(), self.counts, self.counts > 0
        probability = np.zeros(len(medians))
        variances = errors[measured] ** 2 * counts[measured]
        other = medians[best], errors[best] ** 2 * counts[best], counts[best]
        t, _ = statistics.welch(medians[measured], variances, counts[measured], other)
        degrees = PRIOR_WEIGHT + (self.counts[measured] - 1).sum()
        probability[measured] = statistics.probability_less(t, degrees)
        probability[best] = 0
        return probability


def median_errors(scale: float, counts: ArrayLike) -> NDArray[np.float64]:
    """Standard errors of medians of so many samples, those of few widened for heavy tails."""
    n = np.asarray(counts, float)
    return np.asarray(MEDIAN_ERROR * scale * (1 + TAIL / n**2) / np.sqrt(n))
