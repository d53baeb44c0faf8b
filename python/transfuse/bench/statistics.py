"""Statistics of timings: medians and bootstrap intervals, because timings are skewed to the right.

The samples of a line come in rounds; in a round every form is timed once. So the samples of two forms are paired by
round, and the bootstrap draws rounds, not samples: what slowed a whole round cancels in the ratio.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["faster", "slower", "even"]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What the number says of a ratio: "faster" or "slower" only where the whole interval does."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "even"


def coefficient_of_variation(samples: ArrayLike) -> float:
    """Standard deviation over mean: 0 for a single sample."""
    values = np.asarray(samples, float)
    return float(values.std(ddof=1) / values.mean()) if values.size > 1 else 0.0


def median(samples: ArrayLike, *, groups: ArrayLike | None = None) -> float:
    """The median of samples; of several groups, the median of their medians.

    Raises
    ------
    ValueError
        There are no samples.
    """
    values = np.asarray(samples, float)
    if values.size == 0:
        raise ValueError("samples: expected at least one, got none")
    return float(_medians(values[None], _labels(values.size, groups))[0])


def median_interval(samples: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """The median of samples, with its bootstrap interval.

    Parameters
    ----------
    samples : (rounds,)
    groups : (rounds,), optional
        The repetition that a round belongs to; see :func:`_draw`.
    seed : int

    Raises
    ------
    ValueError
        There are no samples.
    """
    value, values = median(samples, groups=groups), np.asarray(samples, float)
    return _estimate(value, _drawn_medians(values[None], _labels(values.size, groups), seed)[0])


def ratio_interval(ours: ArrayLike, peers: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """How many times faster we are than the fastest peer, with the bootstrap interval.

    The fastest form on each side is chosen anew in every resample, so that the interval knows of the choice.

    Parameters
    ----------
    ours : (rounds,) or (forms, rounds)
        Seconds.
    peers : (rounds,) or (forms, rounds)
        Seconds, in the same rounds.
    groups : (rounds,), optional
        The repetition that a round belongs to; see :func:`_draw`.
    seed : int

    Raises
    ------
    ValueError
        There are no rounds or no peers, or the rounds differ in number.
    """
    a, b = np.atleast_2d(np.asarray(ours, float)), np.atleast_2d(np.asarray(peers, float))
    if a.size == 0 or b.size == 0 or b.shape[1] != a.shape[1]:
        raise ValueError(f"peers: expected samples of the same rounds as ours, got shapes {a.shape} and {b.shape}")
    labels, samples = _labels(a.shape[1], groups), np.vstack([a, b])
    medians, drawn = _medians(samples, labels), _drawn_medians(samples, labels, seed)
    forms = len(a)
    return _estimate(
        medians[forms:].min() / medians[:forms].min(), drawn[forms:].min(axis=0) / drawn[:forms].min(axis=0)
    )


def _labels(rounds: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """The number of each round's group, counted from 0."""
    return np.unique(np.zeros(rounds) if groups is None else np.asarray(groups), return_inverse=True)[1]


def _medians(samples: NDArray[np.float64], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """For each row the median over the groups of the medians within a group."""
    within = [np.median(samples[:, labels == label], axis=1) for label in range(labels.max() + 1)]
    return np.asarray(np.median(within, axis=0), float)


def _drawn_medians(samples: NDArray[np.float64], labels: NDArray[np.intp], seed: int) -> NDArray[np.float64]:
    """The same of every resample: (rows, RESAMPLES)."""
    rounds = _draw(labels, seed)
    return np.stack([np.median(np.median(row[rounds], axis=2), axis=1) for row in samples])


def _draw(labels: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Indices of resampled rounds: (RESAMPLES, groups, rounds of a group).

    Groups are repetitions with memory allocated anew. Whole repetitions are drawn first, and rounds within them after:
    rounds of one repetition are alike, and counting them as independent would make the interval too short.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    sizes = np.array([member.size for member in members])
    padded = np.zeros((len(members), sizes.max()), np.intp)
    for row, member in zip(padded, members, strict=True):
        row[: member.size] = member
    chosen = generator.integers(0, len(members), (RESAMPLES, len(members)))
    if len(members) == 1:
        chosen[:] = 0
    count = round(float(sizes.mean()))
    places = generator.random((RESAMPLES, len(members), count)) * sizes[chosen][:, :, None]
    drawn: NDArray[np.intp] = padded[chosen[:, :, None], places.astype(np.intp)]
    return drawn


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))
