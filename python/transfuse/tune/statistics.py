"""Statistics of the search: logarithms of times, Welch's test, intervals of ratios, and tests that may be peeked at.

Times are skewed to the right and slow-downs multiply, so everything here works on natural logarithms: a difference of
logarithms is a ratio of times. Medians with bootstrap intervals are in :mod:`transfuse.bench.statistics`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfuse.bench.statistics import Estimate
from transfuse.tune.constants import PROOF_TIGHTEST

Array = NDArray[np.float64]

NORMAL_MAD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""


def welch(
    mean: ArrayLike, variance: ArrayLike, count: ArrayLike, other: tuple[ArrayLike, ArrayLike, ArrayLike]
) -> tuple[Array, Array]:
    """Welch's t of a difference of means, and its degrees of freedom.

    Parameters
    ----------
    mean, variance, count : arrays
        Of samples; the variances are unbiased ones.
    other : (mean, variance, count)
        Of the samples that are subtracted.

    Returns
    -------
    t, degrees : arrays
        Infinite t where neither has a variance but the means differ, 0 where they are equal.

    Notes
    -----
    B. L. Welch, The generalization of "Student's" problem when several different population variances are involved,
    Biometrika 34 (1947).
    """
    mean_a, var_a, n_a = (np.asarray(x, float) for x in (mean, variance, count))
    mean_b, var_b, n_b = (np.asarray(x, float) for x in other)
    a, b = var_a / n_a, var_b / n_b
    difference = mean_a - mean_b
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, difference / np.sqrt(a + b))
        degrees = (a + b) ** 2 / (a**2 / (n_a - 1) + b**2 / (n_b - 1))
    return t, np.where(np.isfinite(degrees), degrees, np.maximum(n_a + n_b - 2, 1))


def probability_less(t: ArrayLike, degrees: ArrayLike) -> Array:
    """That the first mean is less than the second, from the t of their difference."""
    return np.asarray(_special().stdtr(degrees, -np.asarray(t)), float)


def two_sided_p(t: ArrayLike, degrees: ArrayLike) -> Array:
    """The p-value of a difference in either direction."""
    return np.asarray(2 * _special().stdtr(degrees, -np.abs(t)), float)


def ratio_of_times(
    reference: float, faster: ArrayLike, confidence: float, *, peeked_at: bool = False
) -> tuple[Estimate, float]:
    """The ratio of a known time to a geometric mean, with an interval, and the probability that it is above 1.

    The probability is that of Student's t with a flat prior.

    Parameters
    ----------
    reference : float
        Seconds, to which the others are relative.
    faster : (n,)
        Seconds.
    confidence : float
    peeked_at : bool
        How many samples there are depends on what they said: the interval is wider, by :func:`normal_mixture`, which
        is for a known standard deviation, so that it is approximate for few samples. Else it is that of Student's t.

    Returns
    -------
    ratio : Estimate
        Its bounds are 0 and infinite with a single sample.
    probability : float
    """
    gains = math.log(reference) - np.log(np.asarray(faster, float))
    if gains.size < 2:
        return Estimate(math.exp(gains.mean()) if gains.size else math.nan, 0.0, math.inf), 0.5
    gain, error, degrees = gains.mean(), math.sqrt(gains.var(ddof=1) / gains.size), float(gains.size - 1)
    t = gain / error if error else math.copysign(math.inf, gain) if gain else 0.0
    width = float(_special().stdtrit(degrees, (1 + confidence) / 2))
    if peeked_at:
        width = max(width, float(normal_mixture(gains.size, 1 - confidence, best_at=PROOF_TIGHTEST)))
    half = width * error
    return Estimate(*np.exp(gain + half * np.array([0, -1, 1])).tolist()), float(_special().stdtr(degrees, t))


def medians(logs: Array) -> Array:
    """Of columns: of an even number of samples the lower of the two middle ones, because outliers of timings are slow.

    Parameters
    ----------
    logs : (samples, columns)
        NaN where there is none; each column has at least one.

    Returns
    -------
    (columns,)
    """
    middle = (np.isfinite(logs).sum(axis=0) - 1) // 2
    return np.asarray(np.take_along_axis(np.sort(logs, axis=0), middle[None], axis=0)[0], float)


def pooled_scale(differences: ArrayLike, *, prior: float, weight: float) -> float:
    """The standard deviation of a sample, from differences between samples of the same candidate.

    Their median absolute deviation, which outliers hardly change, mixed with a prior that counts as `weight`
    differences (as the moderated variance of G. K. Smyth, Linear models and empirical Bayes methods, 2004).

    Parameters
    ----------
    differences : (n,)
        Each of two samples, so its variance is twice that of a sample; around their median.
    prior : float
    weight : float
    """
    values = np.asarray(differences, float)
    if values.size == 0:
        return prior
    found = NORMAL_MAD * float(np.median(np.abs(values))) / math.sqrt(2)
    return math.sqrt((weight * prior**2 + values.size * found**2) / (weight + values.size))


def normal_mixture(count: ArrayLike, alpha: float, *, best_at: float) -> Array:
    """A bound on |sum| / √count of standard normal variables that holds at all counts at once.

    With probability 1 - `alpha` no count exceeds it, so one may look after each sample and stop when one likes.

    Parameters
    ----------
    count : array
        Of samples.
    alpha : float
    best_at : float
        The count at which the bound is to be tightest.

    Notes
    -----
    H. Robbins, Statistical methods related to the law of the iterated logarithm, Ann. Math. Statist. 41 (1970); the
    two-sided normal mixture of S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon, Time-uniform, nonparametric,
    nonasymptotic confidence sequences, Ann. Statist. 49 (2021), equation (14), with its ρ from section 3.5. With a
    standard deviation that is estimated it is an asymptotic confidence sequence (I. Waudby-Smith et al., Ann. Statist.
    52 (2024)).
    """
    rho = best_at / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    n = np.asarray(count, float)
    return np.asarray(np.sqrt((1 + rho / n) * np.log((n + rho) / (rho * alpha**2))), float)


def require_scipy() -> None:
    """Raise ImportError if SciPy is not installed."""
    _special()


def _special() -> Any:
    """SciPy's special functions. Whoever only reads what was found does not need them."""
    try:
        from scipy import special
    except ImportError:
        raise ImportError("tuning needs SciPy (pip install transfuse[tune])") from None
    return special
