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


def median_interval(samples: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """The median of samples, with its bootstrap interval.

    Parameters
    ----------
    samples : (rounds,)
    groups : (rounds,), optional
        The repetition that a round belongs to; see :func:`draw_rounds`.
    seed : int

    Raises
    ------
    ValueError
        There are no samples.
    """
    values = np.asarray(samples, float)
    if values.size == 0:
        raise ValueError("samples: expected at least one, got none")
    drawn = np.median(values[draw_rounds(values.size, groups, seed)], axis=1)
    return _estimate(float(np.median(values)), drawn)


def ratio_interval(ours: ArrayLike, peers: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """How many times faster we are than the fastest peer, with the bootstrap interval.

    The fastest peer is chosen anew in every resample, so that the interval knows of the choice.

    Parameters
    ----------
    ours : (rounds,)
        Seconds.
    peers : (forms, rounds)
        Seconds, in the same rounds.
    groups : (rounds,), optional
        The repetition that a round belongs to; see :func:`draw_rounds`.
    seed : int

    Raises
    ------
    ValueError
        There are no rounds or no peers, or the rounds differ in number.
    """
    a, b = np.asarray(ours, float), np.atleast_2d(np.asarray(peers, float))
    if a.size == 0 or b.size == 0 or b.shape[1] != a.size:
        raise ValueError(f"peers: expected samples of the same rounds as ours, got shapes {a.shape} and {b.shape}")
    rounds = draw_rounds(a.size, groups, seed)
    drawn = np.median(b[:, rounds], axis=2).min(axis=0) / np.median(a[rounds], axis=1)
    return _estimate(float(np.median(b, axis=1).min() / np.median(a)), drawn)


def draw_rounds(rounds: int, groups: ArrayLike | None, seed: int) -> NDArray[np.intp]:
    """Indices of resampled rounds, one resample per row.

    With groups (repetitions with memory allocated anew), whole repetitions are drawn first and rounds within them
    after: rounds of one repetition are alike, and counting them as independent would make the interval too short.
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        return generator.integers(0, rounds, (RESAMPLES, rounds))
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(members) == 1:
        return draw_rounds(rounds, None, seed)
    size = min(len(member) for member in members)
    drawn = [generator.choice(member, (RESAMPLES, size)) for member in members]  # (RESAMPLES, size) for each group
    chosen = generator.integers(0, len(members), (RESAMPLES, len(members)))
    return np.stack([np.stack(drawn)[c, i].ravel() for i, c in enumerate(chosen)]).astype(np.intp)


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
